//! Runs frames of every header shape, and every truncation of them, through the loaded program (BPF_PROG_TEST_RUN):
//! counter and verdict must be right, and the program must never abort.

#![expect(clippy::expect_used, reason = "constants of the test, which always parse")]

use anyhow::{Result, ensure};
use ipnet::IpNet;
use lab::{
    fixtures::{drop_table, extension, ipv4, ipv6, table},
    frame::{ACK, Built, Frame, LINUX_SYN_OPTIONS, PSH, RST},
    loaded::LoadedDatapath,
};
use tcpguard::{config::Hook, explain::Bytes, lists::replace_rules, network::Network};
use tcpguard_common::{
    abi::{
        counters::Counter,
        lease::{Lease, flag},
        rule::{FOREVER, Rule},
    },
    packet::parse,
    tracking::bucket::Rate,
};

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
/// The shortest frame that the kernel accepts for a test run.
const MIN_FRAME: usize = 14;

fn runtime() -> tokio::runtime::Runtime {
    // The ring buffer registers with tokio.
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

#[test]
fn every_shape_has_its_counter() -> Result<()> {
    let _runtime = runtime();
    let _entered = _runtime.enter();
    for hook in [Hook::Xdp, Hook::Tc] {
        let guard = LoadedDatapath::load_at(hook)?;
        for (name, frame, counter) in table() {
            let counted = guard.run(&frame)?;
            ensure!(counted == [(Counter::Packets, 1), (counter, 1)], "{name}, {hook:?}: {counted:?}");
        }
    }
    Ok(())
}

/// Returns well-formed frames, with the offset at which the headers end.
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
        let guard = LoadedDatapath::load()?;
        for length in MIN_FRAME..frame.bytes.len() {
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
    let guard = LoadedDatapath::load()?;
    for (name, frame, _) in table() {
        for length in MIN_FRAME..frame.len() {
            let truncated = &frame[..length];
            let expected = match parse(&Bytes(truncated)) {
                Ok(segment) => Counter::from(segment.flags.kind()),
                Err(reason) => reason.into(),
            };
            // The program and the parser on the host must agree; the other tests check that both are right.
            let counted = guard.run(truncated)?;
            ensure!(counted == [(Counter::Packets, 1), (expected, 1)], "{name} cut to {length}: {counted:?}");
        }
    }
    Ok(())
}

#[test]
fn syns_are_accounted_to_their_source() -> Result<()> {
    let _runtime = runtime();
    let _entered = _runtime.enter();
    for (family, mut frame) in [("IPv4", ipv4()), ("IPv6", ipv6())] {
        let guard = LoadedDatapath::load()?;
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
        let entry = guard.maps.observed.sources.get(source)?.expect("it has an entry");
        ensure!((entry.syn, entry.half_open.count(period)) == (6, 3), "{family}: {entry:?}");

        frame.sequence += 1;
        let reset = guard.run(&frame.clone().flags(RST).build().bytes)?;
        ensure!(reset.contains(&(Counter::HandshakesReset, 1)), "{family}: {reset:?}");
        let entry = guard.maps.observed.sources.get(source)?.expect("it has an entry");
        ensure!((entry.resets, entry.half_open.count(period)) == (1, 2), "{family}: {entry:?}");

        frame.payload = vec![1; 5];
        frame.source_port = 3000;
        let with_data = guard.run(&frame.build().bytes)?;
        ensure!(with_data.contains(&(Counter::SynWithPayload, 1)), "{family}: {with_data:?}");
        let accounts = guard.maps.observed.ports.read_syn(0)?;
        let account = accounts.iter().find(|(port, _)| *port == 80);
        ensure!(account.is_some_and(|(_, port)| (port.syn, port.not_begun) == (7, 3)), "{family}: {accounts:?}");
    }
    Ok(())
}

#[test]
fn a_tagged_or_extended_syn_is_the_same_syn() -> Result<()> {
    let _runtime = runtime();
    let _entered = _runtime.enter();
    let guard = LoadedDatapath::load()?;
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
        // The first SYN of each family is new, and the others are recognised as repetitions.
        let expected = if [0, 4].contains(&index) { Counter::SynTracked } else { Counter::SynRepeated };
        ensure!(counted.contains(&(expected, 1)), "shape {index}: {counted:?}");
    }
    for (source, syns) in [(ipv4().source, 4), (ipv6().source, 3)] {
        let entry = guard.maps.observed.sources.get(source.into())?.expect("it has an entry");
        ensure!(entry.syn == syns, "{source}: {entry:?}");
    }
    Ok(())
}

#[test]
fn every_reason_to_drop_drops_and_is_counted() -> Result<()> {
    let _runtime = runtime();
    let _entered = _runtime.enter();
    let families = [("IPv4", ipv4()), ("IPv6", ipv6())];
    for (hook, (family, plain)) in
        [Hook::Xdp, Hook::Tc].into_iter().flat_map(|hook| families.clone().map(|of| (hook, of)))
    {
        let mut guard = LoadedDatapath::load_at(hook)?;
        for (name, frame, reason) in drop_table(family, &plain) {
            // Without flags the frame passes. Without the flag DROP, it is counted as one that would be dropped.
            guard.grant_lease(0)?;
            let counted = guard.run(&frame)?;
            ensure!(!counted.iter().any(|(counter, _)| *counter == reason.would_counter()), "{name}: {counted:?}");
            guard.grant_lease(flag::DROP_PAYLOAD | flag::LIMIT)?;
            let counted = guard.run(&frame)?;
            ensure!(counted.contains(&(reason.would_counter(), 1)), "{name}: {counted:?}");
            guard.grant_lease(flag::DROP_PAYLOAD | flag::LIMIT | flag::DROP)?;
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
    for (plain, length) in [(ipv4(), 24), (ipv6(), 64)] {
        let mut guard = LoadedDatapath::load()?;
        let (source, syn) = (plain.source.into(), plain.build().bytes);
        let ack = plain.clone().flags(ACK).build().bytes;
        guard.grant_lease(flag::DROP | flag::LIMIT)?;
        guard.datapath.block(source, FOREVER)?;
        let blocked = guard.run_to(XDP_DROP, &syn)?;
        ensure!(blocked.contains(&(Counter::DropBlocked, 1)), "{blocked:?}");
        // Segments other than SYNs pass.
        guard.run(&ack)?;
        let entry = guard.maps.observed.sources.get(source)?.expect("it has an entry");
        ensure!((entry.syn, entry.dropped) == (1, 1), "{entry:?}");

        let network = IpNet::new(plain.source, length)?.into();
        let denied = [(network, Rule { denied_until: FOREVER, ..Rule::default() })];
        let flags = flag::DROP | flag::LIMIT | replace_rules(&mut guard.maps.rules, &[], &denied)?;
        guard.grant_lease(flags)?;
        let with_allowed = [denied[0], (Network::of(source), Rule { is_allowed: 1, ..Rule::default() })];
        let denied_before = denied;
        let denied = guard.run_to(XDP_DROP, &syn)?;
        ensure!(denied.contains(&(Counter::DropDenied, 1)), "{denied:?}");
        let flags = flag::DROP | flag::LIMIT | replace_rules(&mut guard.maps.rules, &denied_before, &with_allowed)?;
        // With another generation of the rules, remembered decisions are invalid.
        let rate = Rate::new(2000, guard.datapath.ticks_per_second);
        guard.maps.lease.grant(&Lease { valid_until: u64::MAX, flags, generation: 2, rate, ..Lease::NONE })?;
        guard.run(&syn)?;

        // With an expired lease, everything passes.
        replace_rules(&mut guard.maps.rules, &with_allowed, &denied_before)?;
        guard.maps.lease.grant(&Lease {
            valid_until: guard.datapath.jiffies()? - 1,
            flags,
            generation: 3,
            rate,
            ..Lease::NONE
        })?;
        guard.run(&syn)?;
    }
    Ok(())
}

#[test]
fn a_blocked_network_lets_in_who_has_proved_itself() -> Result<()> {
    let _runtime = runtime();
    let _entered = _runtime.enter();
    let mut guard = LoadedDatapath::load()?;
    let rules = [("198.18.1.0/24".parse()?, Rule { blocked_until: FOREVER, ..Rule::default() })];
    let flags = replace_rules(&mut guard.maps.rules, &[], &rules)?;
    guard.grant_lease(flag::DROP | flag::LIMIT | flags)?;
    let syn = ipv4().build().bytes;
    let stranger = guard.run_to(XDP_DROP, &syn)?;
    ensure!(stranger.contains(&(Counter::DropBlockedPrefix, 1)), "{stranger:?}");
    ensure!(
        guard.maps.observed.sources.get(ipv4().source.into())?.is_none(),
        "a stranger of a blocked network got an entry"
    );
    Ok(())
}

#[test]
fn a_source_is_held_to_its_rate() -> Result<()> {
    let _runtime = runtime();
    let _entered = _runtime.enter();
    let mut guard = LoadedDatapath::load()?;
    guard.grant_lease(flag::DROP | flag::LIMIT)?;
    let (mut passed, mut dropped) = (0, 0);
    for port in 0..3000u16 {
        let frame = Frame { source_port: 1000 + port, ..ipv4() }.build().bytes;
        match guard.datapath.test_run(&frame)? {
            XDP_PASS => passed += 1,
            XDP_DROP => dropped += 1,
            verdict => anyhow::bail!("unexpected verdict {verdict}"),
        }
    }
    // A burst of one second, plus what is replenished during the test.
    ensure!((2000..2500).contains(&passed) && dropped == 3000 - passed, "{passed} passed, {dropped} were dropped");
    Ok(())
}
