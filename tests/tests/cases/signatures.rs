//! Floods whose SYNs look alike. Each test but the one of the imitation fails on a tcpguard without signatures.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use ipnet::IpNet;
use lab::{
    Client, DistantClients, FloodSpec, Path, Scene, Sources, Stats,
    fixtures::{ipv4, ipv6},
    frame::{ACK, Frame, SYN},
    loaded::LoadedDatapath,
    network::{CLIENT_IPV4, SERVER_IPV4},
    scene::WEB,
    wire::Wire,
};
use tcpguard::{config::Hook, lists::replace_rules};
use tcpguard_common::{
    abi::{
        counters::Counter,
        lease::{Lease, flag},
        rule::Rule,
        signature::Signature,
    },
    packet::{self, Shape},
};

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const RATE: u32 = 50_000;
const LASTS: Duration = Duration::from_secs(6);
/// The TTL of the flood, as counted in a public capture.
const FAR_AWAY: u8 = 244;
const TOLD: &str = "IPv4, no TCP options, window 65535, TTL 244";

/// SYNs as tools make them.
fn of_a_tool() -> FloodSpec {
    FloodSpec { tcp_options: Vec::new(), time_to_live: FAR_AWAY, ..FloodSpec::syn(Sources::RANDOM_IPV4, 80) }
}

/// A host at which some hundred clients have completed handshakes, each of them 80 ms away.
fn host() -> Result<Scene> {
    let path = Path::milliseconds(80);
    let scene = Scene::at_distance(path, "")?;
    let first = Ipv4Addr::new(198, 18, 128, 1);
    DistantClients { first, count: 300, path, abandoned_one_in: 0, port: 80 }.run(
        &scene.lab,
        150,
        Duration::from_secs(2),
    )?;
    scene.daemon.stats_when("the clients have connected", |stats| stats.totals.completed >= 300)?;
    Ok(scene)
}

fn signatures(stats: &Stats) -> &[String] {
    &stats.measures.signatures
}

#[test]
fn a_tools_flood_is_dropped_by_what_it_looks_like_until_it_is_over() -> Result<()> {
    let scene = host()?;
    let attack = scene.attack(&of_a_tool(), RATE, LASTS)?;
    let dropped = attack.seen.dropped("signature");
    println!("{dropped} of {} dropped by a signature, clients {:.3}", attack.sent, attack.client.share());
    ensure!(dropped as f64 >= 0.5 * attack.sent as f64, "{dropped} of {}", attack.sent);
    ensure!(attack.client.share() >= 0.99, "{:.3} of the connections were served", attack.client.share());

    let learned = scene.events("signature_learned")?;
    ensure!(learned.len() == 1 && learned[0]["message"].to_string().contains(TOLD), "{learned:?}");
    let stats = scene.daemon.stats_when("the signature has ended", |stats| signatures(stats).is_empty())?;
    ensure!(stats.drops["signature"] >= dropped, "{:?}", stats.drops);
    let ended = scene.events("signature_ended")?;
    ensure!(ended.len() == 1 && ended[0]["message"].to_string().contains(TOLD), "{ended:?}");
    Ok(())
}

#[test]
fn a_flood_that_imitates_clients_has_no_signature() -> Result<()> {
    let scene = host()?;
    let attack = scene.attack(&FloodSpec::syn(Sources::RANDOM_IPV4, 80), RATE, Duration::from_secs(5))?;
    ensure!(attack.client.share() >= 0.99, "{:.3} of the connections were served", attack.client.share());
    let learned = scene.events("signature_learned")?;
    ensure!(learned.is_empty() && attack.seen.dropped("signature") == 0, "{learned:?}");
    Ok(())
}

/// Clients that look like the flood, from so many addresses that the turn of some of them comes.
#[test]
fn a_client_that_looks_like_the_flood_ends_its_signature_at_once() -> Result<()> {
    let scene = Scene::new("")?;
    Client::new(&scene.lab).run(WEB, 150, Duration::from_secs(3), || true)?;
    let mut flood = scene.flood(&of_a_tool())?;
    thread::scope(|scope| {
        let flood = scope.spawn(move || flood.send_at(20_000, Duration::from_secs(10)));
        let stats = scene.daemon.stats_when("a signature is learned", |stats| !signatures(stats).is_empty())?;
        ensure!(signatures(&stats) == [TOLD], "{:?}", signatures(&stats));
        let why = String::from_utf8(scene.daemon.tcpguard(&["why", "198.19.0.1"])?.stdout)?;
        ensure!(why.contains(TOLD), "{why}");

        // A source that completes handshakes here is not affected, whatever its SYNs look like.
        let wire = Wire::open(&scene.lab.client)?;
        for source_port in 50_000..50_020 {
            let syn = Frame::syn(CLIENT_IPV4.into(), SERVER_IPV4.into(), 80);
            let syn = Frame { source_port, time_to_live: FAR_AWAY, ..syn };
            wire.ask(&syn).with_context(|| format!("the proven source's SYN from port {source_port}"))?;
        }
        ensure!(signatures(&scene.daemon.stats()?) == [TOLD], "the signature has ended too early");

        ensure!(connect_like_the_flood(&scene)? > 0, "no source was let through");
        let stats = scene.daemon.stats_when("the signature has ended", |stats| signatures(stats).is_empty())?;
        ensure!(stats.state == "attack", "the flood goes on: {}", stats.state);
        let ended = scene.events("signature_ended")?;
        let message = ended.first().context("no event")?["message"].to_string();
        ensure!(message.contains("a client whose SYN has it completed a handshake"), "{message}");
        // It is not learned again in this attack.
        thread::sleep(Duration::from_secs(3));
        ensure!(signatures(&scene.daemon.stats()?).is_empty(), "it was learned again");
        flood.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(())
    })
}

/// Opens a connection from each of 4,000 addresses with SYNs that look like the flood's; returns how many were answered.
fn connect_like_the_flood(scene: &Scene) -> Result<u32> {
    const FIRST: Ipv4Addr = Ipv4Addr::new(198, 18, 128, 1);
    scene.lab.lead_clients("198.18.128.0/20")?;
    let wire = Wire::open(&scene.lab.client)?;
    let syn = |source: Ipv4Addr| Frame { time_to_live: FAR_AWAY, ..Frame::syn(source.into(), SERVER_IPV4.into(), 80) };
    for number in 0..4000 {
        wire.send(&syn(Ipv4Addr::from(u32::from(FIRST) + number)))?;
    }
    let deadline = Instant::now() + Duration::from_secs(1);
    let mut answered = 0;
    while let Some(bytes) = wire.receive(deadline)? {
        let word = |offset: usize| Some(u32::from_be_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?));
        let (Some(to), Some(sequence), Some(flags)) = (word(30), word(38), bytes.get(47)) else { continue };
        let to = Ipv4Addr::from(to);
        if *flags != SYN | ACK || !(FIRST..Ipv4Addr::new(198, 18, 143, 255)).contains(&to) {
            continue;
        }
        answered += 1;
        let syn = syn(to);
        let sequences = (syn.sequence + 1, sequence.wrapping_add(1));
        wire.send(&Frame { sequence: sequences.0, acknowledgement: sequences.1, ..syn.flags(ACK) })?;
    }
    Ok(answered)
}

#[test]
fn a_syn_with_a_signature_is_dropped_unless_its_source_is_allowed_or_its_turn_has_come() -> Result<()> {
    const SOURCES: u32 = 10_000;
    // The ring buffer registers with tokio.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _entered = runtime.enter();
    for (hook, (plain, length)) in
        [Hook::Xdp, Hook::Tc].into_iter().flat_map(|hook| [(hook, (ipv4(), 32)), (hook, (ipv6(), 128))])
    {
        let mut guard = LoadedDatapath::load_at(hook)?;
        let of = |frame: &Frame| {
            let bytes = frame.build().bytes;
            packet::parse(bytes.as_slice()).map(|segment| Shape::of(&segment)).map_err(|reason| anyhow!("{reason:?}"))
        };
        let value = of(&plain)?.0;
        let signatures = [Signature { mask: u64::MAX, value }, Signature::NONE, Signature::NONE, Signature::NONE];
        let grant = |guard: &mut LoadedDatapath, flags, generation| {
            let lease = Lease { valid_until: u64::MAX, flags, generation, signatures, ..Lease::NONE };
            guard.maps.lease.grant(&lease)
        };
        let numbered = |number: u32| match plain.source {
            IpAddr::V4(first) => Frame { source: Ipv4Addr::from(u32::from(first) + number).into(), ..plain.clone() },
            IpAddr::V6(first) => {
                Frame { source: Ipv6Addr::from(u128::from(first) + u128::from(number)).into(), ..plain.clone() }
            }
        };
        grant(&mut guard, flag::DROP | flag::SIGNATURES, 1)?;
        let before = guard.maps.observed.counts.read()?;
        let mut passed = Vec::new();
        for number in 0..SOURCES {
            let frame = numbered(number);
            match guard.datapath.test_run(&frame.build().bytes)? {
                XDP_PASS => passed.push(frame),
                verdict => ensure!(verdict == XDP_DROP, "{verdict}"),
            }
        }
        let after = guard.maps.observed.counts.read()?;
        let dropped = after.get(Counter::DropSignature) - before.get(Counter::DropSignature);
        ensure!(dropped == u64::from(SOURCES) - passed.len() as u64, "{dropped} and {}", passed.len());
        ensure!((15..=80).contains(&passed.len()), "{} of {SOURCES} were let through", passed.len());

        // Another TTL, another window, and no signature in force.
        let victim = numbered(
            (0..SOURCES).find(|n| !passed.iter().any(|frame| frame.source == numbered(*n).source)).unwrap_or(0),
        );
        let dropped = guard.run_to(XDP_DROP, &victim.build().bytes)?;
        ensure!(dropped.contains(&(Counter::DropSignature, 1)), "{dropped:?}");
        for other in [Frame { time_to_live: 9, ..victim.clone() }, Frame { window: 9, ..victim.clone() }] {
            guard.run(&other.build().bytes)?;
        }
        grant(&mut guard, flag::DROP, 2)?;
        guard.run(&victim.build().bytes)?;
        // Drops are not permitted.
        grant(&mut guard, flag::SIGNATURES, 3)?;
        let counted = guard.run(&victim.build().bytes)?;
        ensure!(counted.contains(&(Counter::WouldSignature, 1)), "{counted:?}");
        // An allowed source.
        let allowed = [(IpNet::new(victim.source, length)?.into(), Rule { is_allowed: 1, ..Rule::default() })];
        let flags = flag::DROP | flag::SIGNATURES | replace_rules(&mut guard.maps.rules, &[], &allowed)?;
        grant(&mut guard, flags, 4)?;
        guard.run(&victim.build().bytes)?;
    }
    Ok(())
}
