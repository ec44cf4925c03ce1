//! Golden answers: for the SYNs of common systems, the SYN-ACK with a cookie is correct to the byte, and valid
//! according to tcpdump.

#![expect(clippy::expect_used, reason = "constants of the test, which always parse")]

use std::{collections::BTreeSet, fs, net::IpAddr, process::Command};

use anyhow::{Context, Result, ensure};
use lab::{
    frame::{ACK, Frame, SYN},
    loaded::{LoadedDatapath, challenge_terms},
};
use tcpguard::config::Hook;
use tcpguard_common::{
    abi::{
        counters::Counter,
        lease::{Lease, flag},
        port::{PortChallenge, port_flag},
    },
    tracking::bucket::Rate,
};

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const PORT: u16 = 443;
const ECE: u8 = 0x40;
const CWR: u8 = 0x80;
/// The lowest bits of the timestamp: no window scaling, selective acknowledgements, explicit congestion notification.
const NO_SCALE: u8 = 0xf;
const SACK: u8 = 0x10;
const ECN: u8 = 0x20;

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn everything() -> u32 {
    use port_flag::{ANY_IPV4, ANY_IPV6, COOKIE, ECN, SACK, TIMESTAMPS, WINDOW_SCALING};
    COOKIE | ANY_IPV4 | ANY_IPV6 | TIMESTAMPS | SACK | WINDOW_SCALING | ECN
}

/// Loads the datapath for XDP, with a port that is challenged with these bits of `port_flag`.
fn challenging(flags: u32) -> Result<LoadedDatapath> {
    challenging_at(Hook::Xdp, flags)
}

/// Loads the datapath for `hook`, with a port that is challenged with these bits of `port_flag`.
fn challenging_at(hook: Hook, flags: u32) -> Result<LoadedDatapath> {
    let mut guard = LoadedDatapath::load_at(hook)?;
    let control = Lease {
        valid_until: u64::MAX,
        flags: flag::DROP | flag::CHALLENGE | flag::LOCAL_KNOWN,
        generation: 1,
        rate: Rate::NONE,
        ..Lease::NONE
    };
    guard.maps.lease.grant(&control)?;
    let local = [address("198.18.0.1").into(), address("2001:db8::1").into(), address("fe80::1").into()];
    guard.maps.local.set(&local.into_iter().collect(), &BTreeSet::new())?;
    // The hop limit differs from the time to live, so that confusing them is noticed.
    let terms = PortChallenge { hop_limit: 63, ..challenge_terms(flags) };
    guard.maps.challenges.set_terms(&[(PORT.into(), Some(terms))].into())?;
    Ok(guard)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// The TCP options that a system sends, and the values expected in the answer: the MSS for IPv4 and IPv6, the lowest
/// bits of the timestamp, if there is one, and whether there is a window scale.
struct System {
    name: &'static str,
    sends: &'static [u8],
    mss: [u16; 2],
    timestamp_bits: Option<u8>,
    has_scale: bool,
}

/// The client's timestamp in all SYNs.
const STAMP: [u8; 4] = [1, 2, 3, 4];

const SYSTEMS: &[System] = &[
    System {
        name: "Linux",
        sends: &[2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7],
        mss: [1460, 1440],
        timestamp_bits: Some(SACK | 7),
        has_scale: true,
    },
    System {
        name: "Android",
        sends: &[2, 4, 5, 0x78, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 9],
        mss: [1300, 1220],
        timestamp_bits: Some(SACK | 9),
        has_scale: true,
    },
    System {
        name: "Windows",
        sends: &[2, 4, 5, 0xb4, 1, 3, 3, 8, 1, 1, 4, 2],
        mss: [1460, 1440],
        timestamp_bits: None,
        has_scale: false,
    },
    System {
        name: "Windows with timestamps",
        sends: &[2, 4, 5, 0xb4, 1, 3, 3, 8, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0],
        mss: [1460, 1440],
        timestamp_bits: Some(SACK | 8),
        has_scale: true,
    },
    System {
        name: "macOS and iOS",
        sends: &[2, 4, 5, 0xb4, 1, 3, 3, 6, 1, 1, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 4, 2, 0, 0],
        mss: [1460, 1440],
        timestamp_bits: Some(SACK | 6),
        has_scale: true,
    },
    System {
        name: "FreeBSD",
        sends: &[2, 4, 5, 0xb4, 1, 3, 3, 6, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0],
        mss: [1460, 1440],
        timestamp_bits: Some(SACK | 6),
        has_scale: true,
    },
    System {
        name: "OpenBSD",
        sends: &[2, 4, 5, 0xb4, 1, 1, 4, 2, 1, 3, 3, 6, 1, 1, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0],
        mss: [1460, 1440],
        timestamp_bits: Some(SACK | 6),
        has_scale: true,
    },
    System {
        name: "timestamps alone",
        sends: &[2, 4, 0x22, 0xd8, 1, 1, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0],
        mss: [1460, 1440],
        timestamp_bits: Some(NO_SCALE),
        has_scale: false,
    },
    System { name: "an MSS alone", sends: &[2, 4, 2, 0x18], mss: [536, 1220], timestamp_bits: None, has_scale: false },
    System { name: "nothing", sends: &[], mss: [536, 1220], timestamp_bits: None, has_scale: false },
];

impl System {
    fn answer_options(&self, is_ipv4: bool, stamp: [u8; 4]) -> Vec<u8> {
        let mss = self.mss[usize::from(!is_ipv4)].to_be_bytes();
        let mut options = vec![2, 4, mss[0], mss[1]];
        if let Some(bits) = self.timestamp_bits {
            options.extend(if bits & SACK != 0 { [4, 2] } else { [1, 1] });
            options.extend([8, 10]);
            options.extend(stamp);
            options.extend(STAMP);
        }
        if self.has_scale {
            options.extend([1, 3, 3, 7]);
        }
        options
    }
}

/// Returns the system's SYN in every kind of frame.
fn wrappings(system: &System) -> Vec<(String, Frame)> {
    let ipv4 = Frame::syn(address("198.18.1.1"), address("198.18.0.1"), PORT);
    let ipv6 = Frame::syn(address("2001:db8:1::1"), address("2001:db8::1"), PORT);
    let extension = (60, vec![0, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let shapes = [
        ("IPv4", ipv4.clone()),
        ("IPv6", ipv6.clone()),
        ("IPv4 in a VLAN", Frame { tags: vec![0x8100], ..ipv4.clone() }),
        ("IPv6 in QinQ", Frame { tags: vec![0x88a8, 0x8100], ..ipv6.clone() }),
        ("IPv4 with IP options", Frame { ip_options: vec![1; 16], ..ipv4.clone() }),
        ("IPv6 with an extension", Frame { extensions: vec![extension], ..ipv6.clone() }),
        ("IPv4 with congestion notification", Frame { flags: SYN | ECE | CWR, ..ipv4.clone() }),
        ("IPv6 with congestion notification", Frame { flags: SYN | ECE | CWR, ..ipv6 }),
        ("IPv4 with data", Frame { payload: vec![0x55; 100], ..ipv4 }),
    ];
    let with_options = |frame: Frame| Frame { tcp_options: system.sends.to_vec(), ..frame };
    shapes.into_iter().map(|(name, frame)| (format!("{}: {name}", system.name), with_options(frame))).collect()
}

/// Returns the expected answer. The cookie and the upper bits of the timestamp are taken from the actual one.
fn expected(system: &System, syn: &Frame, answer: &[u8]) -> Vec<u8> {
    let link = 14 + 4 * syn.tags.len();
    let is_ipv4 = syn.source.is_ipv4();
    let tcp = link + if is_ipv4 { 20 } else { 40 };
    let field = |at: usize| <[u8; 4]>::try_from(&answer[at..at + 4]).expect("four bytes");
    let wants_ecn = syn.flags & ECE != 0 && system.timestamp_bits.is_some();
    let stamp = system.timestamp_bits.map_or([0; 4], |bits| {
        let mut stamp = field(tcp + 28);
        stamp[3] = stamp[3] & 0xc0 | bits | if wants_ecn { ECN } else { 0 };
        stamp
    });
    let mut frame = Frame {
        tags: syn.tags.clone(),
        tcp_options: system.answer_options(is_ipv4, stamp),
        flags: SYN | ACK | if wants_ecn { ECE } else { 0 },
        source_port: PORT,
        destination_port: syn.source_port,
        sequence: u32::from_be_bytes(field(tcp + 4)),
        acknowledgement: syn.sequence + 1,
        window: 64_240,
        identification: 0,
        is_answer: true,
        ..Frame::syn(syn.destination, syn.source, syn.source_port)
    };
    frame.source_port = PORT;
    let built = frame.build();
    let mut bytes = built.bytes;
    if !is_ipv4 {
        bytes[link + 7] = 63;
    }
    bytes.resize(bytes.len().max(60), 0);
    bytes
}

#[test]
fn every_system_gets_its_answer() -> Result<()> {
    let _runtime = runtime();
    let _entered = _runtime.enter();
    for hook in [Hook::Xdp, Hook::Tc] {
        let guard = challenging_at(hook, everything())?;
        let mut answers = Vec::new();
        for system in SYSTEMS {
            for (name, syn) in wrappings(system) {
                let mut frame = syn.build().bytes;
                // Senders pad the shortest frames with arbitrary bytes.
                let length = frame.len().max(60);
                frame.resize(length, 0xee);
                let (verdict, answer) = guard.answer(&frame)?;
                ensure!(verdict == XDP_TX, "{name}: the verdict is {verdict}");
                let expected = expected(system, &syn, &answer);
                ensure!(answer == expected, "{name}:\n{answer:02x?} instead of\n{expected:02x?}");
                answers.push((name, answer));
            }
        }
        tcpdump_agrees(&answers)?;
    }
    Ok(())
}

/// Checks that tcpdump can parse all answers and finds the checksums correct.
fn tcpdump_agrees(answers: &[(String, Vec<u8>)]) -> Result<()> {
    let mut pcap = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0];
    for (_, answer) in answers {
        let length = (answer.len() as u32).to_le_bytes();
        pcap.extend([0; 8]);
        pcap.extend(length);
        pcap.extend(length);
        pcap.extend(answer);
    }
    let file = tempfile::NamedTempFile::new().context("cannot create a temporary file")?;
    fs::write(file.path(), pcap).context("cannot write the capture")?;
    let output = Command::new("tcpdump").args(["-n", "-vvv", "-r"]).arg(file.path()).output();
    let output = output.context("cannot run tcpdump (Debian package: tcpdump)")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let right = text.matches("(correct)").count();
    ensure!(right == answers.len(), "{right} of {} answers have a correct TCP checksum:\n{text}", answers.len());
    for complaint in ["bad", "incorrect", "invalid", "truncated", "missing", "[|"] {
        ensure!(!text.contains(complaint), "tcpdump reports \"{complaint}\":\n{text}");
    }
    ensure!(text.matches("Flags [S").count() == answers.len(), "{text}");
    Ok(())
}

#[test]
fn what_the_host_does_not_take_part_in_is_not_offered() -> Result<()> {
    let _runtime = runtime();
    let _entered = _runtime.enter();
    let syn = Frame {
        tcp_options: SYSTEMS[0].sends.to_vec(),
        flags: SYN | ECE | CWR,
        ..Frame::syn(address("198.18.1.1"), address("198.18.0.1"), PORT)
    };
    for (missing, flags, bits, length) in [
        (port_flag::SACK, 0x52, ECN | 7, 40),
        (port_flag::WINDOW_SCALING, 0x52, ECN | SACK | NO_SCALE, 36),
        (port_flag::ECN, 0x12, SACK | 7, 40),
    ] {
        let guard = challenging(everything() & !missing)?;
        let (verdict, answer) = guard.answer(&syn.build().bytes)?;
        ensure!((verdict, answer[47], answer.len()) == (XDP_TX, flags, 34 + length), "{answer:02x?}");
        ensure!(answer[65] & 0x3f == bits, "{:02x} instead of {bits:02x}", answer[65] & 0x3f);
    }
    let guard = challenging(everything() & !port_flag::TIMESTAMPS)?;
    let (verdict, answer) = guard.answer(&syn.build().bytes)?;
    ensure!(verdict == XDP_TX && answer.len() == 60 && answer[54..] == [2, 4, 5, 0xb4, 0, 0], "{answer:02x?}");
    Ok(())
}

#[test]
fn who_must_not_be_answered_is_not() -> Result<()> {
    let _runtime = runtime();
    let _entered = _runtime.enter();
    let mut guard = challenging(everything())?;
    let syn = |from: &str, to: &str, port: u16| Frame::syn(address(from), address(to), port);
    for (name, frame) in [
        ("a port without a listener", syn("198.18.1.1", "198.18.0.1", 444)),
        ("another host", syn("198.18.1.1", "198.18.0.7", PORT)),
        ("a link-local address", syn("fe80::2", "fe80::1", PORT)),
    ] {
        let frame = frame.build().bytes;
        let (verdict, same) = guard.answer(&frame)?;
        ensure!(verdict == XDP_PASS && same == frame, "{name}: the frame was changed or the verdict is {verdict}");
    }
    for (name, source, server) in [
        ("from multicast", "224.0.0.1", "198.18.0.1"),
        ("from the loopback", "127.0.0.1", "198.18.0.1"),
        ("from a reserved address", "240.0.0.1", "198.18.0.1"),
        ("from 0.0.0.0/8", "0.1.2.3", "198.18.0.1"),
        ("from nowhere", "::", "2001:db8::1"),
        ("from the IPv6 loopback", "::1", "2001:db8::1"),
        ("from IPv6 multicast", "ff02::1", "2001:db8::1"),
        ("from itself", "198.18.0.1", "198.18.0.1"),
    ] {
        let (verdict, _) = guard.answer(&syn(source, server, PORT).build().bytes)?;
        ensure!(verdict == XDP_DROP, "{name}: the verdict is {verdict}");
    }
    // A listener for IPv4 only, and one for a single address.
    let frame = |text: &str| if text.contains(':') { "2001:db8:1::1" } else { "198.18.1.1" };
    let verdict =
        |guard: &LoadedDatapath, to: &str| guard.answer(&syn(frame(to), to, PORT).build().bytes).map(|run| run.0);
    let terms = |flags: u32| PortChallenge { flags, time_to_live: 64, ..PortChallenge::default() };
    guard.maps.challenges.set_terms(&[(PORT.into(), Some(terms(port_flag::COOKIE | port_flag::ANY_IPV4)))].into())?;
    ensure!((verdict(&guard, "198.18.0.1")?, verdict(&guard, "2001:db8::1")?) == (XDP_TX, XDP_PASS));
    guard
        .maps
        .challenges
        .set_terms(&[(PORT.into(), Some(terms(port_flag::COOKIE | port_flag::SOME_ADDRESSES)))].into())?;
    guard.maps.challenges.set_endpoints([(address("2001:db8::1").into(), PORT)].into())?;
    ensure!((verdict(&guard, "198.18.0.1")?, verdict(&guard, "2001:db8::1")?) == (XDP_PASS, XDP_TX));
    Ok(())
}

#[test]
fn first_syns_are_dropped_and_repeats_pass() -> Result<()> {
    let _runtime = runtime();
    let _entered = _runtime.enter();
    let guard = challenging(port_flag::RETRANSMIT | port_flag::ANY_IPV4)?;
    let syn = Frame::syn(address("198.18.1.1"), address("198.18.0.1"), PORT);
    let count = |counter| guard.maps.observed.counts.read().map(|totals| totals.get(counter));
    let other = Frame { source_port: 40_001, ..syn.clone() };
    for (frame, verdict) in [(&syn, 1), (&syn, 1), (&other, 1)] {
        ensure!(guard.answer(&frame.build().bytes)?.0 == verdict);
    }
    ensure!(count(Counter::DropFirstSyn)? == 3);
    std::thread::sleep(std::time::Duration::from_secs(1));
    ensure!(guard.answer(&syn.build().bytes)?.0 == XDP_PASS, "a retransmit after a second did not pass");
    ensure!(
        guard.answer(&Frame { sequence: 7, ..syn }.build().bytes)?.0 == 1,
        "a SYN with another sequence number was not dropped"
    );
    ensure!(count(Counter::SynTracked)? + count(Counter::SynUntracked)? == 1);
    Ok(())
}
