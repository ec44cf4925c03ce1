//! What a SYN-ACK with a cookie may offer. The kernel derives the connection's options from the same settings when the
//! cookie is returned (`cookie_v4_check`, `tcp_select_initial_window`), so both must agree.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use tcpguard_common::{
    abi::port::{PortChallenge, port_flag},
    address::Address,
};

use crate::{kernel::Listener, response::KernelSettings, time::Every};

/// The window offered: as in Linux, the largest multiple of the MSS that fits into 16 bits.
const WINDOW: u16 = 64_240;
/// Bytes of the IPv4 and TCP headers, without options.
const IPV4_HEADERS: u32 = 40;
/// Bytes of the IPv6 and TCP headers, without options.
const IPV6_HEADERS: u32 = 60;
/// The lowest MSS offered.
const MIN_MSS: u16 = 536;
/// The MTU of Ethernet, used if no interface reports one.
const USUAL_MTU: u32 = 1500;
/// The default receive buffer in `net.ipv4.tcp_rmem`.
const USUAL_BUFFER: u32 = 131_072;
/// The largest window scale (RFC 7323, section 2.3).
const MAX_SCALE: u32 = 14;

/// The kernel settings that determine a connection's options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelFacts {
    /// Timestamps encode the negotiated options: `net.ipv4.tcp_timestamps` is 2.
    pub timestamps: bool,
    /// `net.ipv4.tcp_sack` is not 0.
    pub sack: bool,
    /// `net.ipv4.tcp_window_scaling` is not 0, and the buffer sizes are known.
    pub window_scaling: bool,
    /// `net.ipv4.tcp_ecn` is not 0.
    pub ecn: bool,
    /// The receive buffer of a listener that requested none, in bytes: the second value of `net.ipv4.tcp_rmem`.
    pub usual_buffer: u32,
    /// The maximum receive buffer in bytes: the third value, or `net.core.rmem_max` if that is larger.
    pub largest_buffer: u32,
    /// `net.ipv4.ip_default_ttl`.
    pub time_to_live: u8,
    /// `net.ipv6.conf.default.hop_limit`.
    pub hop_limit: u8,
}

impl KernelFacts {
    /// Reads the settings with `setting`. A setting that cannot be read counts as the kernel's default, or as the more
    /// restrictive value.
    pub fn read(setting: impl Fn(&str) -> Option<String>) -> Self {
        let number = |name: &str, default: u64| setting(name).and_then(|text| text.parse().ok()).unwrap_or(default);
        let buffers = setting("net.ipv4.tcp_rmem").unwrap_or_default();
        let buffers: Vec<u32> = buffers.split_whitespace().filter_map(|text| text.parse().ok()).collect();
        let most = setting("net.core.rmem_max").and_then(|text| text.parse::<u32>().ok());
        Self {
            timestamps: number("net.ipv4.tcp_timestamps", 0) == 2,
            sack: number("net.ipv4.tcp_sack", 0) != 0,
            // The kernel's scale cannot be computed without the maximum buffer size.
            window_scaling: number("net.ipv4.tcp_window_scaling", 0) != 0 && buffers.len() == 3 && most.is_some(),
            ecn: number("net.ipv4.tcp_ecn", 0) != 0,
            usual_buffer: buffers.get(1).copied().unwrap_or(USUAL_BUFFER),
            largest_buffer: buffers.get(2).copied().unwrap_or(0).max(most.unwrap_or(0)),
            time_to_live: number("net.ipv4.ip_default_ttl", 64) as u8,
            hop_limit: number("net.ipv6.conf.default.hop_limit", 64) as u8,
        }
    }

    /// Returns the scale that the kernel chooses for a listener with the usual buffer (`tcp_select_initial_window`).
    fn window_scale(&self) -> u8 {
        self.largest_buffer.checked_ilog2().unwrap_or(0).saturating_sub(15).min(MAX_SCALE) as u8
    }
}

/// The challenge parameters that the listeners of one port permit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortTerms {
    /// The addresses that are served and the options offered; the method of the challenge is not included.
    pub terms: PortChallenge,
    /// A listener is bound to an interface, so the address alone does not determine whether it accepts a connection.
    pub is_bound_to_interface: bool,
}

/// The addresses and ports of listeners bound to a specific address.
pub type Endpoints = BTreeSet<(Address, u16)>;

/// Returns the parameters of every port that has a listener or is redirected, and the endpoints of listeners bound to an address.
pub fn terms_of(
    listeners: &[Listener],
    redirected: &BTreeSet<u16>,
    facts: &KernelFacts,
    mtu: Option<u32>,
) -> (BTreeMap<u16, PortTerms>, Endpoints) {
    let mut ports = BTreeMap::<u16, PortTerms>::new();
    let mut endpoints = Endpoints::new();
    let general = || PortTerms { terms: general_terms(facts, mtu.unwrap_or(USUAL_MTU)), is_bound_to_interface: false };
    ports.extend(redirected.iter().map(|port| (*port, general())));
    for listener in listeners {
        let port = listener.local.port();
        let entry = ports.entry(port).or_insert_with(general);
        entry.is_bound_to_interface |= listener.interface != 0;
        entry.terms.flags |= if listener.has_md5_keys { port_flag::MD5_KEYS } else { 0 };
        entry.terms.flags |= match listener.local.ip() {
            IpAddr::V4(address) if address.is_unspecified() => port_flag::ANY_IPV4,
            IpAddr::V6(address) if address.is_unspecified() && listener.is_ipv6_only => port_flag::ANY_IPV6,
            IpAddr::V6(address) if address.is_unspecified() => port_flag::ANY_IPV4 | port_flag::ANY_IPV6,
            address => {
                endpoints.insert((address.into(), port));
                port_flag::SOME_ADDRESSES
            }
        };
        restrict_to_buffer(&mut entry.terms, listener, facts);
    }
    (ports, endpoints)
}

fn general_terms(facts: &KernelFacts, mtu: u32) -> PortChallenge {
    let mut flags = 0;
    let mut set = |condition: bool, flag: u32| flags |= if condition { flag } else { 0 };
    set(facts.timestamps, port_flag::TIMESTAMPS);
    set(facts.sack, port_flag::SACK);
    set(facts.window_scaling, port_flag::WINDOW_SCALING);
    set(facts.ecn, port_flag::ECN);
    let mss = |headers: u32| u16::try_from(mtu.saturating_sub(headers)).unwrap_or(u16::MAX).max(MIN_MSS);
    PortChallenge {
        flags,
        most_mss_ipv4: mss(IPV4_HEADERS),
        most_mss_ipv6: mss(IPV6_HEADERS),
        window: WINDOW.min(u16::try_from(facts.usual_buffer / 2).unwrap_or(u16::MAX)),
        window_scale: facts.window_scale(),
        time_to_live: facts.time_to_live,
        hop_limit: facts.hop_limit,
        ..PortChallenge::default()
    }
}

/// Disables window scaling for a listener with a receive buffer of its own size: the scale that follows from it differs
/// between kernels.
fn restrict_to_buffer(terms: &mut PortChallenge, listener: &Listener, facts: &KernelFacts) {
    let Some(buffer) = listener.receive_buffer.filter(|buffer| *buffer != facts.usual_buffer) else { return };
    terms.flags &= !port_flag::WINDOW_SCALING;
    terms.window = terms.window.min(u16::try_from(buffer / 2).unwrap_or(u16::MAX));
}

/// The kernel settings as they were last read.
pub struct CachedFacts {
    facts: Option<KernelFacts>,
    due: Every,
}

/// While no port is challenged, the kernel settings are read at most once in this time.
const READ_EVERY: Duration = Duration::from_secs(2);

impl Default for CachedFacts {
    fn default() -> Self {
        Self { facts: None, due: Every::new(READ_EVERY) }
    }
}

impl CachedFacts {
    /// Returns the settings: read in every tick while ports are challenged, and occasionally otherwise.
    pub fn get(&mut self, settings: Option<&KernelSettings>, is_challenging: bool) -> KernelFacts {
        let is_due = self.due.is_due(Instant::now()) || is_challenging;
        let known = self.facts.take().filter(|_| !is_due);
        let facts = known.unwrap_or_else(|| KernelFacts::read(|name| settings?.read(name).ok()));
        self.facts = Some(facts.clone());
        facts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> KernelFacts {
        let settings = [
            ("net.ipv4.tcp_timestamps", "2"),
            ("net.ipv4.tcp_sack", "1"),
            ("net.ipv4.tcp_window_scaling", "1"),
            ("net.ipv4.tcp_ecn", "2"),
            ("net.ipv4.tcp_rmem", "4096\t131072\t6291456"),
            ("net.core.rmem_max", "212992"),
            ("net.ipv4.ip_default_ttl", "64"),
        ];
        KernelFacts::read(|name| settings.iter().find(|setting| setting.0 == name).map(|setting| setting.1.to_owned()))
    }

    fn listener(address: &str) -> Listener {
        Listener::new(address.parse().expect("an address"), 0, 128)
    }

    #[test]
    fn the_scale_is_the_kernels() {
        assert_eq!(facts().window_scale(), 7);
        assert_eq!(KernelFacts { largest_buffer: 33_554_432, ..facts() }.window_scale(), 10);
        assert_eq!(KernelFacts { largest_buffer: 4096, ..facts() }.window_scale(), 0);
        assert_eq!(KernelFacts { largest_buffer: u32::MAX, ..facts() }.window_scale(), 14);
    }

    #[test]
    fn listeners_take_what_they_are_bound_to() {
        let ipv6_only = Listener { is_ipv6_only: true, ..listener("[::]:81") };
        let bound = Listener { interface: 3, ..listener("0.0.0.0:83") };
        let listeners = [
            listener("0.0.0.0:80"),
            ipv6_only,
            listener("[::]:82"),
            bound,
            listener("198.18.0.1:84"),
            listener("[2001:db8::1]:84"),
        ];
        let (ports, endpoints) = terms_of(&listeners, &BTreeSet::new(), &facts(), Some(1500));
        let takes = |port: u16| {
            ports[&port].terms.flags & (port_flag::ANY_IPV4 | port_flag::ANY_IPV6 | port_flag::SOME_ADDRESSES)
        };
        assert_eq!(takes(80), port_flag::ANY_IPV4);
        assert_eq!(takes(81), port_flag::ANY_IPV6);
        assert_eq!(takes(82), port_flag::ANY_IPV4 | port_flag::ANY_IPV6);
        assert!(ports[&83].is_bound_to_interface && !ports[&80].is_bound_to_interface);
        assert_eq!(takes(84), port_flag::SOME_ADDRESSES);
        assert_eq!(endpoints.len(), 2);
        let terms = ports[&80].terms;
        assert_eq!((terms.most_mss_ipv4, terms.most_mss_ipv6, terms.window), (1460, 1440, 64_240));
        assert!(terms.has(port_flag::WINDOW_SCALING) && terms.has(port_flag::ECN));
    }

    #[test]
    fn a_buffer_of_its_own_is_not_scaled() {
        let small = Listener { receive_buffer: Some(16_384), ..listener("0.0.0.0:80") };
        let usual = Listener { receive_buffer: Some(131_072), ..listener("0.0.0.0:81") };
        let (ports, _) = terms_of(&[small, usual], &BTreeSet::new(), &facts(), Some(1400));
        let small = ports[&80].terms;
        assert!(!small.has(port_flag::WINDOW_SCALING) && small.window == 8192 && small.most_mss_ipv4 == 1360);
        assert!(ports[&81].terms.has(port_flag::WINDOW_SCALING));
    }

    #[test]
    fn what_cannot_be_read_permits_less() {
        let (ports, _) = terms_of(&[listener("0.0.0.0:80")], &BTreeSet::new(), &KernelFacts::read(|_| None), None);
        let terms = ports[&80].terms;
        assert_eq!(terms.flags, port_flag::ANY_IPV4);
        assert_eq!((terms.most_mss_ipv4, terms.time_to_live, terms.window), (1460, 64, 64_240));
    }
}
