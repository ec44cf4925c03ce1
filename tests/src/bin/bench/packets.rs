//! The cost of a packet in the datapath, measured with BPF_PROG_TEST_RUN.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, TcpListener, TcpStream},
    path::PathBuf,
};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf,
    maps::ProgramArray,
    programs::{ProgramFd, TestRun, TestRunOptions, Xdp},
};
use ipnet::IpNet;
use lab::{
    FloodSpec, Sources,
    client::connect_from_port,
    flood, frame,
    loaded::challenge_terms,
    namespace::Namespace,
    network::{SERVER_IPV4, SERVER_IPV6},
};
use tcpguard::{
    config::{Config, Hook, Protect},
    datapath::{Datapath, DatapathOptions, Maps},
    lists::replace_rules,
    network::Network,
};
use tcpguard_common::{
    abi::{
        counters::Counter,
        lease::{Lease, flag},
        place,
        port::{PortChallenge, port_flag},
        rule::{FOREVER, Rule},
        signature::Signature,
    },
    address::Address,
    packet::{self, Shape},
    tracking::bucket::Rate,
};

use super::Effort;

/// A kind of traffic whose cost is measured.
pub struct Case {
    name: &'static str,
    spec: FloodSpec,
    /// Maximum cost, in nanoseconds.
    limit: Option<f64>,
    standing: Standing,
}

/// Client and server address of an established connection. Both are addresses of the host.
const CONNECTION: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(198, 18, 0, 2), SERVER_IPV4);
/// A source that can complete a handshake, since it is an address of the host.
const PROVEN: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 0);
/// A server behind this host.
const PROTECTED: Ipv4Addr = Ipv4Addr::new(198, 18, 64, 9);
/// Client port of the established connection.
const CONNECTION_PORT: u16 = 40_000;
const PORT: u16 = 443;

/// What the datapath knows of the source.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Nothing,
    /// Nothing, but this many other /24 networks are on the deny list.
    OthersListed(u32),
    /// Nothing in particular; this many networks of /20 to /32, over the whole address space, are on the deny list.
    Scattered(u32),
    /// It is on a deny list of this many /24 networks.
    Listed(u32),
    /// It is blocked.
    Blocked,
    /// Nothing; its SYNs have the signature of a flood.
    Alike,
    /// Nothing, and the port is challenged with cookies.
    Challenged,
    /// Nothing, and the port is challenged by reset.
    Prompted,
    /// Nothing; the destination is a protected network.
    Protected,
    /// Nothing, and the port of the protected network is challenged by reset.
    ProtectedPrompted,
    /// It is proven, and the port is challenged with cookies.
    Proven,
}

impl Standing {
    const fn is_challenged(self) -> bool {
        matches!(self, Self::Challenged | Self::Proven | Self::Prompted | Self::ProtectedPrompted)
    }

    /// Returns whether the destination is a protected network.
    const fn is_behind(self) -> bool {
        matches!(self, Self::Protected | Self::ProtectedPrompted)
    }
}

impl Case {
    pub fn new(name: &'static str, limit: impl Into<Option<f64>>, spec: FloodSpec) -> Self {
        Self { name, spec, limit: limit.into(), standing: Standing::Nothing }
    }

    pub fn with(self, standing: Standing) -> Self {
        Self { standing, ..self }
    }

    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Returns the template of its frames.
    pub fn frame(&self) -> Vec<u8> {
        self.spec.template().build().bytes
    }
}

fn cases() -> Vec<Case> {
    let (ipv4, ipv6): (IpAddr, IpAddr) = ([10, 0, 0, 0].into(), [0x2001, 0xdb8, 9, 9, 0, 0, 0, 0].into());
    let syn = |sources| FloodSpec::syn(sources, PORT);
    let random = |count| syn(Sources::Random(ipv4, count));
    let established = FloodSpec { flags: frame::ACK, payload: 100, ..syn(Sources::InTurn(ipv4, 1)) };
    let windows = FloodSpec { tcp_options: vec![2, 4, 5, 0xb4, 1, 3, 3, 8, 1, 1, 4, 2], ..random(1 << 24) };
    let bare = FloodSpec { tcp_options: Vec::new(), ..random(1 << 24) };
    let acks = FloodSpec { flags: frame::ACK, tcp_options: Vec::new(), ..random(1 << 24) };
    let (client, _) = CONNECTION;
    let connected = FloodSpec {
        flags: frame::ACK | frame::PSH,
        payload: 100,
        tcp_options: Vec::new(),
        source_ports: (CONNECTION_PORT, 1),
        ..syn(Sources::InTurn(client.into(), 1))
    };
    let behind = random(1 << 24).to(PROTECTED.into());
    let forwarded = established.clone().to(PROTECTED.into());
    let resets = FloodSpec { flags: frame::RST, ..random(1 << 24) };
    // A quarter of the address space, without addresses that no host has.
    let anywhere = syn(Sources::Random([11, 0, 0, 0].into(), 1 << 30));
    vec![
        Case::new("data of an established connection", 10.0, established.clone()),
        Case::new("data, in QinQ", None, FloodSpec { tags: vec![0x88a8, 0x8100], ..established }),
        Case::new("SYN of a known source", 60.0, syn(Sources::InTurn(ipv4, 1))),
        Case::new("SYN of a known source, IPv6", 60.0, syn(Sources::InTurn(ipv6, 1))),
        Case::new("SYN of 1,024 random sources", 60.0, random(1 << 10)),
        Case::new("SYN of 65,536 random sources", None, random(1 << 16)),
        Case::new("SYN of 1 M random sources", None, random(1 << 20)),
        Case::new("SYN of 16 M random sources", 40.0, random(1 << 24)),
        Case::new("SYN of 2^64 random sources, IPv6", 40.0, syn(Sources::Random(ipv6, 0))),
        Case::new("RST of 16 M random sources", None, resets),
        Case::new("SYN of a blocked source", 60.0, syn(Sources::InTurn(ipv4, 1))).with(Standing::Blocked),
        Case::new("SYN with a signature, 16 M random", 60.0, bare.clone()).with(Standing::Alike),
        Case::new("SYN of a blocked source, IPv6", 60.0, syn(Sources::InTurn(ipv6, 1))).with(Standing::Blocked),
        Case::new("SYN listed, 1 network", 80.0, syn(Sources::InTurn(ipv4, 1))).with(Standing::Listed(1)),
        Case::new("SYN listed, 10,000 networks", 80.0, syn(Sources::InTurn(ipv4, 1))).with(Standing::Listed(10_000)),
        Case::new("SYN listed, 10,000 networks, all", 80.0, random(10_000 << 8)).with(Standing::Listed(10_000)),
        Case::new("SYN challenged, 16 M random", 170.0, random(1 << 24)).with(Standing::Challenged),
        Case::new("SYN challenged, 2^64 random, IPv6", 170.0, syn(Sources::Random(ipv6, 0))).with(Standing::Challenged),
        Case::new("SYN challenged by reset, 16 M random", None, random(1 << 24)).with(Standing::Prompted),
        Case::new("SYN challenged by reset, IPv6", None, syn(Sources::Random(ipv6, 0))).with(Standing::Prompted),
        Case::new("SYN of 16 M random, to a gateway", None, behind.clone()).with(Standing::Protected),
        Case::new("the same, challenged by reset", None, behind).with(Standing::ProtectedPrompted),
        Case::new("data to a gateway", None, forwarded).with(Standing::Protected),
        Case::new("SYN challenged, one source", None, syn(Sources::InTurn(ipv4, 1))).with(Standing::Challenged),
        Case::new("SYN challenged, Windows' options", 170.0, windows).with(Standing::Challenged),
        Case::new("SYN challenged, no options", 170.0, bare).with(Standing::Challenged),
        Case::new("SYN of a proven source", 80.0, syn(Sources::InTurn(PROVEN.into(), 1))).with(Standing::Proven),
        Case::new("ACK refused, 16 M random", 160.0, acks).with(Standing::Challenged),
        Case::new("data of a connection, challenged", 100.0, connected).with(Standing::Challenged),
        Case::new("SYN of 16 M, 10,000 others listed", None, random(1 << 24)).with(Standing::OthersListed(10_000)),
        Case::new("SYN of 2^30, nothing listed", None, anywhere.clone()),
        Case::new("SYN of 2^30, 10,000 listed", None, anywhere.clone()).with(Standing::Scattered(10_000)),
        Case::new("SYN of 2^30, 200,000 listed", None, anywhere.clone()).with(Standing::Scattered(200_000)),
        Case::new("SYN of 2^30, 500,000 listed", None, anywhere).with(Standing::Scattered(500_000)),
        Case::new("SYN of a known one, 500,000 listed", 60.0, syn(Sources::InTurn(ipv4, 1)))
            .with(Standing::Scattered(500_000)),
    ]
}

pub fn costs(effort: &Effort, only: &[String]) -> Result<()> {
    println!("Cost of a packet: ns, by BPF_PROG_TEST_RUN, minus the same loop without tcpguard;");
    println!("median of {} rounds of {} packets (minimum and maximum)", effort.rounds, effort.repeat);
    println!("{:<36} {:>6} {:>13} {:>7} {:>12} {:>7}", "", "ns", "", "limit", "LRU for each", "ratio");
    let mut results = Vec::new();
    let is_wanted = |case: &Case| only.is_empty() || only.iter().any(|text| case.name.contains(text.as_str()));
    let host = Host::new()?;
    for case in cases().into_iter().filter(is_wanted) {
        let cost = host.namespace.within(|| measure(&case, effort))?;
        let limit = case.limit.map_or_else(String::new, |limit| format!("{limit:.0}"));
        let is_over = case.limit.is_some_and(|limit| cost.tcpguard.median > limit);
        let spread = format!("({:.0}-{:.0})", cost.tcpguard.least, cost.tcpguard.most);
        let (ours, theirs) = (cost.tcpguard.median, cost.insert_each.median);
        println!(
            "{:<36} {ours:>6.0} {spread:>13} {limit:>7} {theirs:>12.0} {:>7.2}{}",
            case.name,
            ours / theirs.max(1.0),
            if is_over { "  over the limit" } else { "" }
        );
        results.push((case.name, ours));
    }
    if !only.is_empty() {
        return Ok(());
    }
    let cost_of = |name: &str| results.iter().find(|result| result.0 == name).map_or(f64::NAN, |result| result.1);
    let flatness = cost_of("SYN of 16 M random sources") / cost_of("SYN of 1,024 random sources");
    println!("16 M random sources cost {flatness:.2} times as much as 1,024 (limit 1.50)\n");
    Ok(())
}

struct Cost {
    tcpguard: Statistic,
    insert_each: Statistic,
}

pub struct Statistic {
    least: f64,
    pub median: f64,
    most: f64,
}

impl Statistic {
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        Self { least: at(0), median: at(values.len() / 2), most: at(values.len().saturating_sub(1)) }
    }
}

/// A namespace with a listener and a connection, for the datapath's socket lookups.
struct Host {
    namespace: Namespace,
    _connection: (TcpStream, TcpListener),
}

impl Host {
    fn new() -> Result<Self> {
        let namespace = Namespace::new()?;
        let (client, server) = CONNECTION;
        for address in [IpAddr::from(client), server.into(), SERVER_IPV6.into(), PROVEN.into()] {
            namespace.ip(&format!("addr add {address} dev lo"))?;
        }
        let connection = namespace.within(|| {
            let listener = TcpListener::bind((server, PORT)).context("cannot listen")?;
            let stream = connect_from_port((client, CONNECTION_PORT).into(), (server, PORT).into())?;
            Ok((stream, listener))
        })?;
        Ok(Self { namespace, _connection: connection })
    }
}

/// Returns the options of a daemon with the default configuration. With `pins`, the datapath can run in a chain before
/// other programs.
pub fn options(hook: Hook, pins: Option<PathBuf>) -> DatapathOptions {
    let chains = pins.is_some();
    DatapathOptions { prefix_v4: 24, prefix_v6: 64, hook, chains, pins, ..DatapathOptions::of(&Config::default()) }
}

/// Measures baseline, tcpguard and comparison in turn, so that a change of the machine's speed affects all of them.
fn measure(case: &Case, effort: &Effort) -> Result<Cost> {
    let spec = &case.spec;
    let options = options(Hook::Xdp, None);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot create a runtime")?;
    let _entered = runtime.enter();
    let (mut datapath, mut maps) = Datapath::load(&options)?;
    datapath.take_effect()?;
    set_standing(case, &datapath, &mut maps)?;
    let guard = datapath.guard()?.fd()?.try_clone()?;
    let (mut ebpf, template) = flood::load(spec)?;
    if case.standing.is_challenged() && spec.flags == frame::SYN {
        flood::restore_frames(&mut ebpf, &template)?;
    }
    let floor = load(&mut ebpf, "nothing")?;
    let insert_each = load(&mut ebpf, "insert_each")?;
    load(&mut ebpf, "vary")?;
    let mut next = ProgramArray::try_from(ebpf.take_map("NEXT").context("the flood has no NEXT")?)?;
    let vary: &Xdp = ebpf.program("vary").context("the flood has no program vary")?.try_into()?;
    let mut run = |program: &ProgramFd| -> Result<f64> {
        next.set(0, program, 0)?;
        let options = TestRunOptions { data_in: Some(&template), repeat: effort.repeat, ..TestRunOptions::new() };
        Ok(vary.test_run(options)?.duration.as_nanos() as f64)
    };
    // Warm-up: tables fill, allowances adapt.
    run(&guard)?;
    run(&insert_each)?;
    if case.standing == Standing::Proven {
        // The source has an entry, and a handshake makes it proven.
        connect_from_port((case.spec.sources.first(), 0).into(), (CONNECTION.1, PORT).into())?;
    }
    let challenged = maps.observed.counts.read()?.get(Counter::SynChallenged);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..effort.rounds {
        let floor = run(&floor)?;
        ours.push(run(&guard)? - floor);
        theirs.push(run(&insert_each)? - floor);
    }
    let challenged = maps.observed.counts.read()?.get(Counter::SynChallenged) - challenged;
    ensure!(case.standing != Standing::Proven || challenged == 0, "{}: {challenged} were challenged", case.name);
    Ok(Cost { tcpguard: Statistic::of(ours), insert_each: Statistic::of(theirs) })
}

/// Gives the datapath a lease, as a daemon does, and sets up the standing of the case's sources.
pub fn set_standing(case: &Case, datapath: &Datapath, maps: &mut Maps) -> Result<()> {
    let mut flags = flag::DROP | flag::LIMIT;
    let deny = Rule { denied_until: FOREVER, is_whole: 1, ..Rule::default() };
    let consecutive = |networks: u32, first: u32| -> Result<Vec<_>> {
        let network = |number: u32| IpNet::new(Ipv4Addr::from(first + (number << 8)).into(), 24);
        (0..networks).map(|number| Ok((network(number)?.into(), deny))).collect()
    };
    let mut write = |rules: &[(Network, Rule)]| -> Result<()> {
        flags |= replace_rules(&mut maps.rules, &[], rules)?;
        Ok(())
    };
    match case.standing {
        Standing::Nothing => {}
        Standing::Scattered(networks) => write(&scattered(networks, deny)?)?,
        Standing::Listed(networks) => write(&consecutive(networks, 0x0a00_0000)?)?,
        Standing::OthersListed(networks) => write(&consecutive(networks, 0x0b00_0000)?)?,
        Standing::Challenged | Standing::Prompted => {}
        Standing::Protected | Standing::ProtectedPrompted => {
            let networks = vec![IpNet::new(PROTECTED.into(), 24)?];
            let ports = vec![PORT];
            maps.protected.set(&[Protect { name: "shop".to_owned(), networks, ports, ..Protect::default() }])?;
        }
        // It needs an entry, which it does not get while it is challenged: that of a block that is over.
        Standing::Proven => datapath.block(case.spec.sources.first().into(), 1)?,
        Standing::Alike => flags |= flag::SIGNATURES,
        Standing::Blocked => datapath.block(case.spec.sources.first().into(), FOREVER)?,
    }
    if case.standing.is_behind() {
        flags |= flag::PROTECTED | flag::REDIRECTED;
    }
    if case.standing.is_challenged() || case.standing.is_behind() {
        flags |= flag::CHALLENGE | flag::STRAY_FILTER | flag::LOCAL_KNOWN;
        let addresses = [Address::from(CONNECTION.0), SERVER_IPV4.into(), SERVER_IPV6.into()];
        maps.local.set(&addresses.into_iter().collect(), &BTreeSet::new())?;
        let of_port = terms(maps.challenges.listener_changes(PORT)?);
        let by_reset = PortChallenge { flags: port_flag::RESET, ..of_port };
        let (place, terms) = match case.standing {
            Standing::Prompted => (PORT.into(), by_reset),
            Standing::ProtectedPrompted => (place::of_protected(0).context("a place")?, by_reset),
            _ => (PORT.into(), of_port),
        };
        if case.standing.is_challenged() {
            maps.challenges.set_terms(&[(place, Some(terms))].into())?;
        }
        flags |= if terms.has(port_flag::RESET) { flag::RESETS } else { 0 };
    }
    // A rate that is never exceeded: the cost of the check is measured.
    let rate = Rate::new(100_000_000, datapath.ticks_per_second);
    let proven_ticks = 600 * u64::from(datapath.ticks_per_second);
    // Otherwise the number of half-open handshakes here would keep a proven source from passing.
    let mut signatures = Lease::NONE.signatures;
    if let Ok(segment) = packet::parse(case.frame().as_slice()) {
        signatures[0] = Signature { mask: u64::MAX, value: Shape::of(&segment).0 };
    }
    let terms = Lease { rate, proven_ticks, max_half_open: u64::MAX, signatures, ..Lease::NONE };
    maps.lease.grant(&Lease { valid_until: FOREVER, flags, generation: 1, ..terms })?;
    Ok(())
}

/// Returns this many networks of /20 to /32, all over the address space except for 10.0.0.0/8, in their order.
fn scattered(networks: u32, rule: Rule) -> Result<Vec<(Network, Rule)>> {
    // A multiplication by an odd number has no address twice.
    let address = |number: u32| Ipv4Addr::from(number.wrapping_mul(2_654_435_761));
    let addresses = (1..).map(address).filter(|address| address.octets()[0] != 10).take(networks as usize);
    let all = addresses
        .zip((20..=32).cycle())
        .map(|(address, length)| Ok((IpNet::new(address.into(), length)?.into(), rule)));
    Ok(all.collect::<Result<BTreeMap<_, _>>>()?.into_iter().collect())
}

fn terms(changes: u64) -> PortChallenge {
    use port_flag::{ANY_IPV4, ANY_IPV6, COOKIE, ECN, SACK, STRAY_FILTER_IPV4, TIMESTAMPS, WATCH_IPV4, WINDOW_SCALING};
    let flags =
        COOKIE | ANY_IPV4 | ANY_IPV6 | WATCH_IPV4 | STRAY_FILTER_IPV4 | TIMESTAMPS | SACK | WINDOW_SCALING | ECN;
    PortChallenge { changes, ..challenge_terms(flags) }
}

fn load(ebpf: &mut Ebpf, name: &str) -> Result<ProgramFd> {
    let program: &mut Xdp = ebpf.program_mut(name).with_context(|| format!("the flood has no {name}"))?.try_into()?;
    program.load()?;
    Ok(program.fd()?.try_clone()?)
}
