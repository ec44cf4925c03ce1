//! Every header shape, and every truncation of it, through the loaded program (BPF_PROG_TEST_RUN):
//! the right counter and verdict, never an abort.

#![expect(clippy::expect_used, reason = "constants of the test, which are right or the test is wrong")]

use std::{net::IpAddr, time::Duration};

use anyhow::{Result, ensure};
use lab::frame::{ACK, Built, FIN, Frame, LINUX_SYN_OPTIONS, PSH, RST, SYN, URG};
use tcpguard::datapath::{Datapath, DatapathOptions, Maps, maps::Totals};
use tcpguard_common::{
    bucket::Rate,
    control::{Control, flag},
    counters::Counter,
    drops::DropReason,
    packet::{MAX_EXTENSION_HEADERS, PacketBytes, parse},
    rule::{FOREVER, Rule},
};

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
/// The kernel runs no shorter frame.
const SHORTEST: usize = 14;

struct Guard {
    datapath: Datapath,
    maps: Maps,
}

impl Guard {
    fn load() -> Result<Self> {
        let options = DatapathOptions {
            max_sources: 4096,
            prefix_v4: 24,
            prefix_v6: 64,
            syn_per_second: 2000,
            source_half_open: 64,
            proven_for: Duration::from_secs(600),
            log_level: None,
        };
        let (datapath, maps) = Datapath::load(&options)?;
        Ok(Self { datapath, maps })
    }

    /// Gives the daemon's word, with these flags, for as long as the test lasts.
    fn give_leave(&mut self, flags: u64) -> Result<()> {
        let rate = Rate::new(2000, self.datapath.ticks_per_second);
        self.maps.control.give(&Control { good_until: u64::MAX, flags, generation: 1, rate, ..Control::NONE })?;
        Ok(())
    }

    /// Runs a frame that must pass; returns the counters that went up, and by how much.
    fn run(&self, frame: &[u8]) -> Result<Vec<(Counter, u64)>> {
        self.run_to(XDP_PASS, frame)
    }

    /// The same for another verdict.
    fn run_to(&self, expected: u32, frame: &[u8]) -> Result<Vec<(Counter, u64)>> {
        let before = self.maps.counts.read()?;
        let verdict = self.datapath.test_run(frame)?;
        ensure!(verdict == expected, "the verdict is {verdict}");
        let after: Totals = self.maps.counts.read()?;
        Ok(Counter::ALL
            .iter()
            .map(|counter| (*counter, after.get(*counter) - before.get(*counter)))
            .filter(|(_, difference)| *difference > 0)
            .collect())
    }
}

fn runtime() -> tokio::runtime::Runtime {
    // The ring buffer registers with tokio.
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn ipv4() -> Frame {
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    Frame::syn(address("198.18.1.1"), address("198.18.0.1"), 80)
}

fn ipv6() -> Frame {
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    Frame::syn(address("2001:db8:1::1"), address("2001:db8::1"), 80)
}

fn extension(kind: u8, units: u8) -> (u8, Vec<u8>) {
    let mut body = vec![0; 8 * (usize::from(units) + 1)];
    body[1] = units;
    (kind, body)
}

/// Named frames, and what they are counted as beside `packets`.
fn table() -> Vec<(String, Vec<u8>, Counter)> {
    let mut table = Vec::new();
    for (family, plain) in [("IPv4", ipv4()), ("IPv6", ipv6())] {
        for (flags, name, counter) in [
            (ACK, "ACK", Counter::Ack),
            (ACK | PSH, "data", Counter::Ack),
            (ACK | FIN, "FIN", Counter::Ack),
            (SYN | ACK, "SYN-ACK", Counter::SynAck),
            (RST, "RST", Counter::Rst),
            (RST | ACK, "RST-ACK", Counter::Rst),
            (0, "no flag", Counter::BadFlags),
            (FIN | PSH | URG, "Christmas tree", Counter::BadFlags),
            (SYN | FIN, "SYN-FIN", Counter::BadFlags),
            (SYN | RST, "SYN-RST", Counter::BadFlags),
            (0xff, "every flag", Counter::BadFlags),
        ] {
            let frame = plain.clone().flags(flags).build().bytes;
            table.push((format!("{family} {name}"), frame, counter));
        }
        for tags in [vec![0x8100], vec![0x88a8], vec![0x88a8, 0x8100], vec![0x9100, 0x8100], vec![0x8100, 0x8100]] {
            let frame = Frame { tags: tags.clone(), ..plain.clone() }.flags(ACK).build().bytes;
            table.push((format!("{family} tagged {tags:x?}"), frame, Counter::Ack));
        }
        let three = Frame { tags: vec![0x88a8, 0x8100, 0x8100], ..plain.clone() };
        table.push((format!("{family} with three tags"), three.build().bytes, Counter::NotIp));
        let options = Frame { tcp_options: vec![1; 40], payload: vec![7; 100], ..plain.clone() }.flags(ACK | PSH);
        table.push((format!("{family} with TCP options and data"), options.build().bytes, Counter::Ack));
        let udp = Frame { protocol: 17, ..plain.clone() };
        table.push((format!("{family} UDP"), udp.build().bytes, Counter::NotTcp));
        let mut offset = plain.flags(ACK).build();
        offset.bytes[offset.tcp + 12] = 0x40;
        table.push((format!("{family} with a data offset of 4"), offset.bytes, Counter::BadDataOffset));
    }
    for words in 1..=10 {
        let frame = Frame { ip_options: vec![1; 4 * words], ..ipv4() }.flags(ACK).build().bytes;
        table.push((format!("IPv4 with {words} words of options"), frame, Counter::Ack));
    }
    let fragment = |fragment| Frame { fragment, payload: vec![0; 8], ..ipv4() }.flags(ACK).build().bytes;
    table.push(("IPv4 first fragment".to_owned(), fragment(0x2000), Counter::Ack));
    table.push(("IPv4 later fragment".to_owned(), fragment(0x2001), Counter::LaterFragment));
    table.push(("IPv4 last fragment".to_owned(), fragment(0x0004), Counter::LaterFragment));
    let mut short = ipv4().build();
    short.bytes[short.ip] = 0x44;
    table.push(("IPv4 with a header of 16 bytes".to_owned(), short.bytes, Counter::BadIpHeader));
    let mut version = ipv4().build();
    version.bytes[version.ip] = 0x65;
    table.push(("IPv4 of version 6".to_owned(), version.bytes, Counter::BadIpHeader));
    let mut version = ipv6().build();
    version.bytes[version.ip] = 0x40;
    table.push(("IPv6 of version 4".to_owned(), version.bytes, Counter::BadIpHeader));
    let mut total = ipv4().flags(ACK).build();
    total.bytes[total.ip + 3] = 39;
    table.push(("IPv4 of a length that ends within TCP".to_owned(), total.bytes, Counter::Truncated));
    let mut arp = ipv4().build().bytes;
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    table.push(("ARP".to_owned(), arp, Counter::NotIp));

    let with_extensions = |extensions| Frame { extensions, ..ipv6() }.flags(ACK).build().bytes;
    for (name, extensions) in [
        ("hop-by-hop", vec![extension(0, 0)]),
        ("routing", vec![extension(43, 2)]),
        ("destination options", vec![extension(60, 4)]),
        ("all of them", vec![extension(0, 0), extension(60, 1), extension(43, 0), extension(60, 0)]),
        ("authentication", vec![(51, [&[0, 4][..], &[0; 22]].concat())]),
        ("as many as are followed", vec![extension(60, 0); MAX_EXTENSION_HEADERS]),
    ] {
        table.push((format!("IPv6 with extensions: {name}"), with_extensions(extensions), Counter::Ack));
    }
    let fragment = |offset: u8| vec![(44, vec![0, 0, 0, offset, 0, 0, 0, 1])];
    table.push(("IPv6 first fragment".to_owned(), with_extensions(fragment(1)), Counter::Ack));
    table.push(("IPv6 later fragment".to_owned(), with_extensions(fragment(9)), Counter::LaterFragment));
    let many = vec![extension(60, 0); MAX_EXTENSION_HEADERS + 1];
    table.push(("IPv6 with one extension too many".to_owned(), with_extensions(many), Counter::TooManyExtensions));
    table
}

#[test]
fn every_shape_has_its_counter() -> Result<()> {
    let _runtime = runtime();
    let _entered = _runtime.enter();
    let guard = Guard::load()?;
    for (name, frame, counter) in table() {
        let counted = guard.run(&frame)?;
        ensure!(counted == [(Counter::Packets, 1), (counter, 1)], "{name}: {counted:?}");
    }
    Ok(())
}

/// Frames that are right, with the length up to which all is header.
fn sound_frames() -> Vec<(&'static str, Built, usize)> {
    let syn = |frame: Frame| Frame { tcp_options: LINUX_SYN_OPTIONS.to_vec(), payload: vec![9; 12], ..frame };
    let shapes = [
        ("IPv4 SYN", syn(ipv4())),
        (
            "IPv4 SYN in QinQ with IP options",
            syn(Frame { tags: vec![0x88a8, 0x8100], ip_options: vec![1; 12], ..ipv4() }),
        ),
        ("IPv6 SYN", syn(ipv6())),
        (
            "IPv6 SYN with extensions, tagged",
            syn(Frame { tags: vec![0x8100], extensions: vec![extension(0, 0), extension(60, 2)], ..ipv6() }),
        ),
        ("IPv4 RST", syn(ipv4()).flags(RST)),
        ("IPv6 data", syn(ipv6()).flags(ACK | PSH)),
    ];
    shapes
        .into_iter()
        .map(|(name, shape)| {
            let header = 20 + shape.tcp_options.len();
            let built = shape.build();
            let end = built.tcp + header;
            (name, built, end)
        })
        .collect()
}

#[test]
fn every_sound_frame_cut_within_its_headers_is_truncated() -> Result<()> {
    let _runtime = runtime();
    let _entered = _runtime.enter();
    for (name, frame, header_end) in sound_frames() {
        let guard = Guard::load()?;
        for length in SHORTEST..frame.bytes.len() {
            let counted = guard.run(&frame.bytes[..length])?;
            let is_truncated = counted == [(Counter::Packets, 1), (Counter::Truncated, 1)];
            ensure!(is_truncated == (length < header_end), "{name} cut to {length} of {header_end}: {counted:?}");
        }
    }
    Ok(())
}

#[test]
fn every_truncation_of_every_shape_passes() -> Result<()> {
    let _runtime = runtime();
    let _entered = _runtime.enter();
    let guard = Guard::load()?;
    for (name, frame, _) in table() {
        for length in SHORTEST..frame.len() {
            let truncated = &frame[..length];
            let expected = match parse(&Slice(truncated)) {
                Ok(segment) => Counter::from(segment.flags.kind()),
                Err(reason) => reason.into(),
            };
            // The kernel's run and the host's agree; that both are right, the tests beside this one show.
            let counted = guard.run(truncated)?;
            ensure!(counted == [(Counter::Packets, 1), (expected, 1)], "{name} cut to {length}: {counted:?}");
        }
    }
    Ok(())
}

/// The parser reads from anything that is sized; a slice is not.
struct Slice<'a>(&'a [u8]);

impl PacketBytes for Slice<'_> {
    fn read<T: zerocopy::FromBytes + zerocopy::Immutable + Copy>(&self, offset: usize) -> Option<T> {
        self.0.read(offset)
    }
}

#[test]
fn syns_are_accounted_to_their_source() -> Result<()> {
    let _runtime = runtime();
    let _entered = _runtime.enter();
    for (family, mut frame) in [("IPv4", ipv4()), ("IPv6", ipv6())] {
        let guard = Guard::load()?;
        let source = frame.source.into();
        for port in 0..3 {
            frame.source_port = 2000 + port;
            let bytes = frame.build().bytes;
            let first = guard.run(&bytes)?;
            ensure!(first.contains(&(Counter::SynTracked, 1)), "{family}: {first:?}");
            let again = guard.run(&bytes)?;
            ensure!(again.contains(&(Counter::SynRepeated, 1)), "{family}: {again:?}");
        }
        let period = guard.datapath.clock.window_period(guard.datapath.jiffies()?);
        let entry = guard.maps.sources.get(source)?.expect("it has an entry");
        ensure!((entry.syn, entry.half_open.count(period)) == (6, 3), "{family}: {entry:?}");

        frame.sequence += 1;
        let reset = guard.run(&frame.clone().flags(RST).build().bytes)?;
        ensure!(reset.contains(&(Counter::HandshakesReset, 1)), "{family}: {reset:?}");
        let entry = guard.maps.sources.get(source)?.expect("it has an entry");
        ensure!((entry.resets, entry.half_open.count(period)) == (1, 2), "{family}: {entry:?}");

        frame.payload = vec![1; 5];
        frame.source_port = 3000;
        let with_data = guard.run(&frame.build().bytes)?;
        ensure!(with_data.contains(&(Counter::SynWithPayload, 1)), "{family}: {with_data:?}");
        let accounts = guard.maps.ports.read_syn(0)?;
        ensure!(accounts.get(&80).is_some_and(|port| (port.syn, port.not_begun) == (7, 3)), "{family}: {accounts:?}");
    }
    Ok(())
}

#[test]
fn a_tagged_or_extended_syn_is_the_same_syn() -> Result<()> {
    let _runtime = runtime();
    let _entered = _runtime.enter();
    let guard = Guard::load()?;
    let shapes = [
        ipv4(),
        Frame { tags: vec![0x8100], ..ipv4() },
        Frame { tags: vec![0x88a8, 0x8100], ..ipv4() },
        Frame { ip_options: vec![1; 40], ..ipv4() },
        ipv6(),
        Frame { extensions: vec![extension(0, 0), extension(60, 2)], ..ipv6() },
        Frame { tags: vec![0x8100], extensions: vec![extension(43, 1)], ..ipv6() },
    ];
    for (index, shape) in shapes.into_iter().enumerate() {
        let counted = guard.run(&shape.build().bytes)?;
        // The first of each family is new, and the others are recognised as the same.
        let expected = if [0, 4].contains(&index) { Counter::SynTracked } else { Counter::SynRepeated };
        ensure!(counted.contains(&(expected, 1)), "shape {index}: {counted:?}");
    }
    for (source, syns) in [(ipv4().source, 4), (ipv6().source, 3)] {
        let entry = guard.maps.sources.get(source.into())?.expect("it has an entry");
        ensure!(entry.syn == syns, "{source}: {entry:?}");
    }
    Ok(())
}

/// What the datapath has against a source, the frames it drops for that, and why.
fn drop_table(family: &str, plain: &Frame) -> Vec<(String, Vec<u8>, DropReason)> {
    let built = |frame: Frame| frame.build().bytes;
    let mut table: Vec<(String, Vec<u8>, DropReason)> = [0, FIN, FIN | PSH | URG, SYN | FIN, SYN | RST, RST | FIN]
        .map(|flags| (format!("{family} flags {flags:#x}"), built(plain.clone().flags(flags)), DropReason::BadFlags))
        .into();
    let mut offset = plain.build();
    offset.bytes[offset.tcp + 12] = 0x40;
    table.push((format!("{family} data offset"), offset.bytes, DropReason::BadDataOffset));
    let from_zero = Frame { source_port: 0, ..plain.clone() };
    let to_zero = Frame { destination_port: 0, ..plain.clone() };
    table.push((format!("{family} from port 0"), built(from_zero), DropReason::PortZero));
    table.push((format!("{family} to port 0"), built(to_zero), DropReason::PortZero));
    let with_data = Frame { payload: vec![1; 9], ..plain.clone() };
    table.push((format!("{family} with data"), built(with_data), DropReason::SynPayload));
    table
}

#[test]
fn every_reason_to_drop_drops_and_is_counted() -> Result<()> {
    let _runtime = runtime();
    let _entered = _runtime.enter();
    for (family, plain) in [("IPv4", ipv4()), ("IPv6", ipv6())] {
        let mut guard = Guard::load()?;
        for (name, frame, reason) in drop_table(family, &plain) {
            // Without leave it passes; where nothing is dropped, that it would be is counted.
            guard.give_leave(0)?;
            let counted = guard.run(&frame)?;
            ensure!(!counted.iter().any(|(counter, _)| *counter == reason.would_counter()), "{name}: {counted:?}");
            guard.give_leave(flag::DROP_PAYLOAD | flag::LIMIT)?;
            let counted = guard.run(&frame)?;
            ensure!(counted.contains(&(reason.would_counter(), 1)), "{name}: {counted:?}");
            guard.give_leave(flag::DROP_PAYLOAD | flag::LIMIT | flag::DROP)?;
            let counted = guard.run_to(XDP_DROP, &frame)?;
            ensure!(counted.contains(&(reason.counter(), 1)), "{name}: {counted:?}");
        }
    }
    Ok(())
}

#[test]
fn whoever_is_listed_or_blocked_is_dropped_and_allowed_goes_before_all() -> Result<()> {
    let _runtime = runtime();
    let _entered = _runtime.enter();
    for (plain, network) in [(ipv4(), (ipv4().source, 96 + 24)), (ipv6(), (ipv6().source, 64))] {
        let mut guard = Guard::load()?;
        let (source, syn) = (plain.source.into(), plain.build().bytes);
        let ack = plain.clone().flags(ACK).build().bytes;
        guard.give_leave(flag::DROP | flag::LIMIT | flag::RULES)?;
        guard.datapath.block(source, FOREVER)?;
        let blocked = guard.run_to(XDP_DROP, &syn)?;
        ensure!(blocked.contains(&(Counter::DropBlocked, 1)), "{blocked:?}");
        // What is no handshake passes.
        guard.run(&ack)?;
        let entry = guard.maps.sources.get(source)?.expect("it has an entry");
        ensure!((entry.syn, entry.dropped) == (1, 1), "{entry:?}");

        let first =
            tcpguard_common::address::Address::from(network.0).masked(tcpguard_common::address::prefix_mask(network.1));
        guard.maps.rules.set(first, network.1, Rule { denied_until: FOREVER, ..Rule::default() })?;
        let denied = guard.run_to(XDP_DROP, &syn)?;
        ensure!(denied.contains(&(Counter::DropDenied, 1)), "{denied:?}");
        guard.maps.rules.set(source, 128, Rule { is_allowed: 1, ..Rule::default() })?;
        // The rules are of another generation now: what was remembered does not hold.
        let rate = Rate::new(2000, guard.datapath.ticks_per_second);
        let flags = flag::DROP | flag::LIMIT | flag::RULES;
        guard.maps.control.give(&Control { good_until: u64::MAX, flags, generation: 2, rate, ..Control::NONE })?;
        guard.run(&syn)?;

        // An old heartbeat lets everything pass.
        guard.maps.rules.remove(source, 128)?;
        guard.maps.control.give(&Control {
            good_until: guard.datapath.jiffies()? - 1,
            flags,
            generation: 3,
            rate,
            ..Control::NONE
        })?;
        guard.run(&syn)?;
    }
    Ok(())
}

#[test]
fn a_blocked_network_lets_in_who_has_proved_itself() -> Result<()> {
    let _runtime = runtime();
    let _entered = _runtime.enter();
    let mut guard = Guard::load()?;
    guard.give_leave(flag::DROP | flag::LIMIT | flag::RULES)?;
    let syn = ipv4().build().bytes;
    let network = tcpguard_common::address::Address::from("198.18.1.0".parse::<IpAddr>().expect("an address"));
    guard.maps.rules.set(network, 96 + 24, Rule { blocked_until: FOREVER, ..Rule::default() })?;
    let stranger = guard.run_to(XDP_DROP, &syn)?;
    ensure!(stranger.contains(&(Counter::DropBlockedPrefix, 1)), "{stranger:?}");
    ensure!(guard.maps.sources.get(ipv4().source.into())?.is_none(), "a stranger of a blocked network got an entry");
    Ok(())
}

#[test]
fn a_source_is_held_to_its_rate() -> Result<()> {
    let _runtime = runtime();
    let _entered = _runtime.enter();
    let mut guard = Guard::load()?;
    guard.give_leave(flag::DROP | flag::LIMIT)?;
    let (mut passed, mut dropped) = (0, 0);
    for port in 0..3000u16 {
        let frame = Frame { source_port: 1000 + port, ..ipv4() }.build().bytes;
        match guard.datapath.test_run(&frame)? {
            XDP_PASS => passed += 1,
            XDP_DROP => dropped += 1,
            verdict => anyhow::bail!("the verdict is {verdict}"),
        }
    }
    // A second's worth at once, and what the time of the test adds.
    ensure!((2000..2500).contains(&passed) && dropped == 3000 - passed, "{passed} passed, {dropped} were dropped");
    Ok(())
}
