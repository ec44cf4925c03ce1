//! During a flood from random sources, a source that sends repeatedly soon gets an entry with an accurate count.

use std::{
    net::IpAddr,
    panic::resume_unwind,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use lab::{
    Client, Flood, FloodSpec, Lab, Setup, Sources, eventually,
    network::{SECOND_CLIENT_INTERFACE, SECOND_SERVER_INTERFACE, SERVER_INTERFACE, SERVER_IPV4, SERVER_IPV6},
    server::listen,
};
use tcpguard_common::tracking::sketch;

const FLOOD_RATE: u32 = 300_000;
const SOURCE_RATE: u32 = 500;

fn a_real_source_stands_out(source: &str, random: Sources) -> Result<()> {
    let lab = Lab::new()?;
    lab.lay_second_cable()?;
    // The lab has fewer IPv4 addresses than the default table has room for.
    let config =
        format!("interfaces = [\"{SERVER_INTERFACE}\", \"{SECOND_SERVER_INTERFACE}\"]\n[limits]\nmax_sources = 8192");
    let config = format!("syn_attack_protect = 0\n{config}");
    let daemon = Setup::new(&lab)?.config(&config).start()?;
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        let flood = scope.spawn(|| -> Result<u64> {
            // To a closed port, since the kernel's answers do not matter here.
            Flood::new(&lab, &FloodSpec::syn(random, 9))?
                .send_at_while(FLOOD_RATE, Duration::from_secs(60), || !is_over.load(Ordering::Relaxed))
        });
        let result = watch_source(&lab, &daemon, source);
        is_over.store(true, Ordering::Relaxed);
        let sent = flood.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        result?;
        ensure!(sent > 0, "there was no flood");
        let stats = daemon.stats()?;
        let untracked = stats.tracking.syn_untracked;
        ensure!(untracked > sent / 4, "only {untracked} of the flood's {sent} SYNs were not tracked");
        Ok(())
    })
}

fn watch_source(lab: &Lab, daemon: &lab::Daemon, source: &str) -> Result<()> {
    daemon.stats_when("the flood's SYNs are not tracked", |stats| stats.tracking.syn_untracked > 50_000)?;
    // The source uses the second cable, so that its SYNs arrive.
    let spec = FloodSpec::syn(Sources::InTurn(source.parse::<IpAddr>()?, 1), 9);
    let mut real = Flood::from_interface(&lab.client, SECOND_CLIENT_INTERFACE, &spec)?;
    let start = Instant::now();
    real.send_at(SOURCE_RATE, Duration::from_secs(1))?;
    let first = daemon.source(source)?;
    ensure!(first.is_some(), "{source} had no entry after {:?}", start.elapsed());

    // From then on the count follows the number of SYNs sent, within 10 %.
    let count = || -> Result<u64> { Ok(daemon.source(source)?.and_then(|row| row["syn"].as_u64()).unwrap_or(0)) };
    let (sent_before, counted_before) = (real.delivered()?, count()?);
    real.send_at(SOURCE_RATE, Duration::from_secs(4))?;
    let sent = real.delivered()? - sent_before;
    eventually("the count follows the number of SYNs sent", count, |counted| {
        let counted = counted - counted_before;
        counted * 10 >= sent * 9 && counted * 10 <= sent * 11
    })?;
    Ok(())
}

#[test]
fn an_ipv4_source_among_random_ones() -> Result<()> {
    a_real_source_stands_out("198.18.1.1", Sources::Random("198.18.128.0".parse()?, 98_304))
}

#[test]
fn an_ipv6_source_among_random_ones() -> Result<()> {
    a_real_source_stands_out("2001:db8:1::1", Sources::RANDOM_IPV6)
}

#[test]
fn who_completes_a_handshake_gets_an_entry_even_when_the_table_is_closed() -> Result<()> {
    let lab = Lab::new()?;
    let _listeners = [listen(&lab.server, SERVER_IPV4.into(), 80)?, listen(&lab.server, SERVER_IPV6.into(), 80)?];
    let config = format!("interfaces = [\"{SERVER_INTERFACE}\"]\n[limits]\nmax_sources = 1024");
    let config = format!("syn_attack_protect = 0\n{config}");
    let daemon = Setup::new(&lab)?.config(&config).start()?;
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        // The flood keeps the allowance of every CPU exhausted.
        let flood = scope.spawn(|| {
            Flood::new(&lab, &FloodSpec::syn(Sources::RANDOM_IPV6, 9))?.send_at_while(
                50_000,
                Duration::from_secs(60),
                || !is_over.load(Ordering::Relaxed),
            )
        });
        let result = (|| {
            daemon.stats_when("the table is closed", |stats| stats.tracking.syn_untracked > 100_000)?;
            let mut completed = 0;
            for n in 1..=20u16 {
                for (client, server) in [
                    (IpAddr::from([198, 18, 2, n as u8]), IpAddr::from(SERVER_IPV4)),
                    (IpAddr::from([0x2001, 0xdb8, 2, 0, 0, 0, 0, n]), SERVER_IPV6.into()),
                ] {
                    lab.add_client_address(client)?;
                    Client::new(&lab).from(client).connect((server, 80).into())?;
                    completed += 1;
                }
            }
            daemon.stats_when("every completion is counted", |stats| {
                stats.totals.completed == completed && stats.tracking.completed_untracked > 0
            })
        })();
        is_over.store(true, Ordering::Relaxed);
        flood.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        result.map(drop)
    })
}

#[test]
fn distinct_sources_are_estimated() -> Result<()> {
    let lab = Lab::new()?;
    let daemon = Setup::new(&lab)?.start()?;
    const SOURCES: u64 = 5000;
    let mut flood = Flood::new(&lab, &FloodSpec::syn(Sources::InTurn("198.18.64.0".parse()?, SOURCES), 9))?;
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        let sender =
            scope.spawn(|| flood.send_at_while(50_000, Duration::from_secs(30), || !is_over.load(Ordering::Relaxed)));
        let result = daemon.stats_when("about 5,000 distinct sources per second are estimated", |stats| {
            // Each source sends ten times per second, so a period (1.02 s here) contains all of them: 4,882 per second,
            // with an error of 3.3 %.
            let rate = stats.rates.distinct_sources_per_second;
            (4500.0..5500.0).contains(&rate)
        });
        is_over.store(true, Ordering::Relaxed);
        sender.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        result.map(drop)
    })
}

#[test]
fn a_flood_is_refused_anywhere_but_in_the_lab() -> Result<()> {
    let lab = Lab::new()?;
    let spec = FloodSpec::syn(Sources::RANDOM_IPV4, 80);
    for interface in ["lo", "eth0", SERVER_INTERFACE] {
        let refusal = Flood::from_interface(&lab.client, interface, &spec).err().expect("refused").to_string();
        ensure!(refusal.contains("lab-client only"), "{refusal}");
    }
    // Any other interface counts as an uplink, even if it leads nowhere.
    lab.client.ip("link add uplink type veth peer name uplink-peer")?;
    lab.client.ip("link set uplink up")?;
    let refusal = Flood::new(&lab, &spec).err().expect("refused").to_string();
    ensure!(refusal.contains("uplink is up"), "{refusal}");
    Ok(())
}

#[test]
fn the_sketch_is_as_large_as_its_documentation_says() {
    assert_eq!(sketch::LINES * 64, 256 * 1024, "docs/datapath.md documents 256 KiB per CPU");
}
