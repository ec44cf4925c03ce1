//! Exact thresholds, the time to the first drop, the levels of `syn_attack_protect`, and what happens when the daemon
//! is stopped or killed during an attack.

use std::{
    net::{IpAddr, Ipv4Addr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lab::{
    Flood, FloodSpec, Lab, Scene, Setup, Sources, Stats, eventually, machine_lock::lock_machine,
    network::SERVER_INTERFACE, oracle, server,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

const SERVER: Ipv4Addr = lab::network::SERVER_IPV4;

fn many_sources(port: u16) -> FloodSpec {
    FloodSpec::syn(Sources::InTurn(Ipv4Addr::new(198, 18, 4, 0).into(), 1024), port)
}

/// Returns the evidence of the current attack.
fn evidence(stats: &Stats) -> String {
    stats.attack.as_ref().map(|attack| attack.evidence.join("; ")).unwrap_or_default()
}

/// Sends `count` frames in portions that fit into every queue on the path.
fn send(flood: &mut Flood, count: u32) -> Result<()> {
    for sent in (0..count).step_by(50) {
        flood.send(50.min(count - sent))?;
    }
    Ok(())
}

/// Checks that the state stays calm for some ticks.
fn still_calm(scene: &Scene) -> Result<()> {
    let (_, seen) = scene.observe(|| {
        thread::sleep(Duration::from_millis(500));
        Ok(())
    })?;
    ensure!(seen.states == ["calm"], "{:?}: {:?}", seen.states, seen.last()?.attack);
    Ok(())
}

#[test]
fn half_open_by_the_datapath_at_the_threshold_and_one_more() -> Result<()> {
    // To a port without a listener, so that the kernel has no half-open handshakes.
    let scene = Scene::new("")?;
    let mut flood = scene.flood(&many_sources(9))?;
    send(&mut flood, 500)?;
    scene.daemon.stats_when("500 handshakes are half-open", |stats| stats.half_open.datapath == 500)?;
    still_calm(&scene)?;
    flood.send(1)?;
    let stats = scene.daemon.stats_when("the state is attack", |stats| stats.state == "attack")?;
    ensure!(evidence(&stats).contains("501 handshakes half open by the datapath"), "{}", evidence(&stats));
    Ok(())
}

#[test]
fn half_open_in_the_kernel_at_the_threshold_and_one_more() -> Result<()> {
    // The flood arrives on an interface that is not guarded, so that only the kernel sees it.
    let lab = Lab::new()?;
    lab.lay_second_cable()?;
    let _listener = server::listen(&lab.server, SERVER.into(), 80)?;
    let config = "interfaces = [\"lab-server2\"]\n[thresholds]\nmax_half_open = 50\nmax_half_open_retried = 50";
    let daemon = Setup::new(&lab)?.config(config).start()?;
    lab.receive_without_daemon()?;
    let mut flood = Flood::new(&lab, &many_sources(80))?;
    send(&mut flood, 50)?;
    daemon.stats_when("50 handshakes are half-open", |stats| stats.half_open.kernel == 50)?;
    thread::sleep(Duration::from_millis(300));
    let stats = daemon.stats()?;
    ensure!(stats.state == "calm" && stats.half_open.datapath == 0, "{:?}", stats.attack);
    flood.send(1)?;
    let stats = daemon.stats_when("the state is attack", |stats| stats.state == "attack")?;
    ensure!(evidence(&stats).contains("51 handshakes half open in the kernel"), "{}", evidence(&stats));
    Ok(())
}

#[test]
fn retried_at_the_threshold_and_one_more() -> Result<()> {
    let scene = Scene::new("[thresholds]\nmax_half_open_retried = 40\nhold = \"2s\"")?;
    let mut flood = scene.flood(&many_sources(80))?;
    flood.send(40)?;
    scene.daemon.stats_when("40 handshakes are retried", |stats| stats.half_open.kernel_retried == 40)?;
    still_calm(&scene)?;
    flood.send(1)?;
    let stats = scene.daemon.stats_when("the state is attack", |stats| stats.state == "attack")?;
    ensure!(evidence(&stats).contains("41 half-open handshakes whose SYN-ACK was sent again"), "{}", evidence(&stats));
    Ok(())
}

#[test]
fn refused_at_the_threshold_and_one_more() -> Result<()> {
    let lab = Lab::new()?;
    // Without cookies a listener refuses requests when its backlog, 16 here, is full.
    lab.server.sysctl("net.ipv4.tcp_syncookies", "0")?;
    lab.server.sysctl("net.core.somaxconn", "16")?;
    let _listener = server::listen(&lab.server, SERVER.into(), 80)?;
    let daemon = Setup::new(&lab)?.start()?;
    let refused = || -> Result<u64> { Ok(daemon.stats()?.refused) };
    let mut flood = Flood::new(&lab, &many_sources(80))?;
    // The kernel gives up requests early while the queue is half full: a few more SYNs may be needed to fill it.
    let mut refuse = |number: u64| -> Result<()> {
        let so_far = || oracle::tcp_ext(&lab.server, "ListenDrops");
        let until = so_far()? + number;
        loop {
            // All at once, so that they lie within a second.
            match until.saturating_sub(so_far()?) {
                0 => return Ok(()),
                missing => flood.send(u32::try_from(missing)?)?,
            }
            thread::sleep(Duration::from_millis(5));
        }
    };
    refuse(1)?;
    // One request was refused. Five per second do not exceed the threshold of five.
    thread::sleep(Duration::from_millis(1300));
    refuse(5)?;
    eventually("five more requests are refused", refused, |refused| *refused == 6)?;
    thread::sleep(Duration::from_millis(300));
    ensure!(daemon.stats()?.state == "calm", "{:?}", daemon.stats()?.attack);
    thread::sleep(Duration::from_millis(1300));
    refuse(6)?;
    let stats = daemon.stats_when("the state is attack", |stats| stats.state == "attack")?;
    ensure!(evidence(&stats).contains("6 connection requests refused"), "{}", evidence(&stats));
    // Cookies are enabled for the duration of the attack.
    let settings = format!("{:?}", stats.measures.kernel_settings);
    ensure!(settings.contains("tcp_syncookies"), "{settings}");
    Ok(())
}

#[test]
fn a_service_has_a_threshold_of_its_own() -> Result<()> {
    let scene =
        Scene::new("[[service]]\nports = [80]\nmax_half_open = 100\n[[service]]\nports = [9]\nmax_half_open = 2000")?;
    let mut elsewhere = scene.flood(&many_sources(9))?;
    send(&mut elsewhere, 700)?;
    scene.daemon.stats_when("700 handshakes are half-open", |stats| stats.half_open.datapath == 700)?;
    still_calm(&scene)?;
    let mut flood = scene.flood(&many_sources(80))?;
    send(&mut flood, 101)?;
    let stats = scene.daemon.stats_when("the state is attack", |stats| stats.state == "attack")?;
    ensure!(evidence(&stats).contains("service 80: 101 handshakes half open"), "{}", evidence(&stats));
    let states: Vec<&str> = stats.services.iter().map(|service| service.state.as_str()).collect();
    ensure!(states == ["attack", "calm"], "{states:?}");
    Ok(())
}

#[test]
fn the_first_drop_comes_within_300_ms_of_calm() -> Result<()> {
    const LABS: usize = 4;
    const ROUNDS: usize = 5;
    let _machine = lock_machine()?;
    // The labs mostly wait for their daemons to start.
    let times = thread::scope(|scope| {
        let labs: Vec<_> =
            (0..LABS).map(|_| scope.spawn(|| (0..ROUNDS).map(|_| first_drop()).collect::<Result<Vec<_>>>())).collect();
        let of_labs = labs.into_iter().map(|lab| lab.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        of_labs.collect::<Result<Vec<_>>>()
    })?;
    let mut times = times.concat();
    times.sort_by(f64::total_cmp);
    let median = times[times.len() / 2];
    println!("time from exceeding the threshold to the first drop: median {median:.3} s, {times:.3?}");
    ensure!(times.len() == LABS * ROUNDS && median <= 0.3, "the median is {median} s: {times:?}");
    Ok(())
}

/// Returns the seconds from the SYN that exceeds the threshold to the first that is dropped.
fn first_drop() -> Result<f64> {
    let lab = Lab::new()?;
    let daemon = Setup::new(&lab)?.start()?;
    let mut flood = Flood::new(&lab, &FloodSpec::one_source(9))?;
    // Two ticks follow each other at the start. The next one is due in a second, unless the datapath wakes the daemon.
    thread::sleep(Duration::from_millis(300));
    for _ in 0..10 {
        flood.send(50)?;
    }
    flood.send(1)?;
    let exceeded = seconds_now();
    // Single SYNs, below the rate limit: the first one dropped shows that the block is in force.
    loop {
        flood.send(1)?;
        let events = daemon.json("/events")?;
        let found = events.as_array().into_iter().flatten().find(|event| event["kind"] == "first_drop").cloned();
        if let Some(event) = found {
            return Ok(seconds(&event["time"]).context("the event has no time")? - exceeded);
        }
        ensure!(seconds_now() - exceeded < 5.0, "nothing was dropped: {:?}", daemon.stats()?.attack);
    }
}

/// Returns the current time in seconds since 1970.
fn seconds_now() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0.0, |elapsed| elapsed.as_secs_f64())
}

/// Converts a time such as `2026-11-20T14:00:00.123Z` to seconds since 1970.
fn seconds(time: &Value) -> Option<f64> {
    time.as_str()?.parse::<jiff::Timestamp>().ok().map(|time| time.as_nanosecond() as f64 / 1e9)
}

#[test]
fn watching_only_changes_nothing_and_tells_what_it_would() -> Result<()> {
    let scene = Scene::new("syn_attack_protect = 0\n[lists]\ndeny = [\"198.18.50.0/24\"]")?;
    let mut denied = scene.flood(&FloodSpec::syn(Sources::InTurn(Ipv4Addr::new(198, 18, 50, 1).into(), 1), 80))?;
    denied.send(7)?;
    let attack = scene.attack(&FloodSpec::one_source(80), 50_000, Duration::from_secs(2))?;
    ensure!(attack.seen.states.contains(&"attack".to_owned()), "{:?}", attack.seen.states);
    let stats = scene.daemon.stats_when("SYNs that would have been dropped are counted", |stats| {
        stats.would_drop["denied"] == 7 && stats.would_drop["blocked"] > 10_000
    })?;
    ensure!(stats.totals.dropped == 0, "{:?}", stats.drops);
    ensure!(attack.seen.settings.is_empty(), "{:?}", attack.seen.settings);
    ensure!(scene.setting("net.ipv4.tcp_synack_retries")? == "5", "a kernel setting was changed");
    for kind in ["source_blocked", "kernel_setting_changed"] {
        let events = scene.events(kind)?;
        ensure!(!events.is_empty() && events.iter().all(|event| event["watch_only"] == true), "{kind}: {events:?}");
    }
    let row = scene.daemon.source("198.18.1.1")?.context("the source has no row")?;
    ensure!(row["blocked_until"].is_null() && row["dropped"] == 0, "{row}");
    Ok(())
}

#[test]
fn level_1_changes_kernel_settings_and_drops_nothing() -> Result<()> {
    let scene = Scene::new("syn_attack_protect = 1")?;
    let attack = scene.attack(&FloodSpec::one_source(80), 20_000, Duration::from_secs(2))?;
    ensure!(attack.seen.settings.contains("net.ipv4.tcp_synack_retries=1"), "{:?}", attack.seen.settings);
    ensure!(attack.seen.last()?.totals.dropped == 0, "{:?}", attack.seen.last()?.drops);
    scene.back_to_calm(attack.ended)
}

#[test]
fn backlogs_are_tuned_where_that_is_allowed() -> Result<()> {
    let scene = Scene::new("[kernel]\ntune_backlog = true")?;
    scene.lab.server.sysctl("net.core.somaxconn", "511")?;
    let attack = scene.attack(&FloodSpec::syn(Sources::RANDOM_IPV4, 80), 30_000, Duration::from_secs(2))?;
    let raised = attack.seen.settings.iter().any(|setting| setting.starts_with("net.core.somaxconn="));
    ensure!(raised, "{:?}", attack.seen.settings);
    let advice = scene.events("backlog_advice")?;
    ensure!(
        advice.iter().any(|event| event["message"].to_string().contains("nginx: `listen 80 backlog=")),
        "{advice:?}"
    );
    scene.back_to_calm(attack.ended)?;
    ensure!(scene.setting("net.core.somaxconn")? == "511", "somaxconn was not restored");
    Ok(())
}

#[test]
fn a_stopped_daemon_lets_everything_pass_and_goes_on_when_continued() -> Result<()> {
    let scene = Scene::new("[limits]\nheartbeat_timeout = \"1s\"")?;
    let process = Pid::from_raw(i32::try_from(scene.daemon.id())?);
    // The number of resets from the closed port shows how many SYNs passed.
    // Segments that reached the kernel.
    let received = || -> Result<u64> {
        let text = scene
            .lab
            .server
            .within(|| std::fs::read_to_string("/proc/thread-self/net/snmp").context("cannot read the counters"))?;
        let values = text.lines().filter_map(|line| line.strip_prefix("Tcp: ")).nth(1).context("no TCP counters")?;
        values.split_whitespace().nth(9).and_then(|value| value.parse().ok()).context("no InSegs")
    };
    // With random ports and sequence numbers: those that come in turn come again after three seconds, and are retransmits.
    let source = Sources::Random(Ipv4Addr::new(198, 18, 1, 1).into(), 1);
    let mut flood = scene.flood(&FloodSpec::syn(source, 9))?;
    flood.during(20_000, || {
        eventually("the source is blocked", || scene.blocked(), |blocked| blocked.contains("198.18.1.1"))?;
        let before = received()?;
        thread::sleep(Duration::from_millis(500));
        ensure!(received()? - before < 100, "{} SYNs passed although the source is blocked", received()? - before);

        kill(process, Signal::SIGSTOP).context("cannot stop the daemon")?;
        thread::sleep(Duration::from_millis(1300));
        let before = received()?;
        thread::sleep(Duration::from_millis(500));
        let passed = received()? - before;
        kill(process, Signal::SIGCONT).context("cannot continue the daemon")?;
        ensure!(passed > 2000, "only {passed} SYNs passed although the lease had expired");

        thread::sleep(Duration::from_millis(500));
        let before = received()?;
        thread::sleep(Duration::from_millis(500));
        ensure!(received()? - before < 100, "{} SYNs passed after the daemon was continued", received()? - before);
        Ok(())
    })
}

#[test]
fn a_killed_daemon_s_settings_come_back_and_protection_resumes() -> Result<()> {
    let lab = Lab::new()?;
    let retries = || lab.server.setting("net.ipv4.tcp_synack_retries");
    lab.server.sysctl("net.ipv4.tcp_synack_retries", "4")?;
    let config = format!("interfaces = [\"{SERVER_INTERFACE}\"]\n[thresholds]\nhold = \"1s\"");
    let mut daemon = Setup::new(&lab)?.config(&config).start()?;
    lab.receive_without_daemon()?;
    let mut flood = Flood::new(&lab, &FloodSpec::one_source(9))?;
    flood.during(20_000, || {
        eventually("the setting is changed", retries, |retries| retries == "1")?;
        daemon.end(Signal::SIGKILL)?;
        ensure!(retries()? == "1", "the setting was restored before the next daemon started");
        let started = Instant::now();
        daemon.start_again()?;
        let log = daemon.log()?;
        ensure!(log.contains("tcp_synack_retries was put back to 4"), "{log}");
        eventually(
            "the source is blocked again",
            || daemon.json("/lists"),
            |lists| lists["blocks"].to_string().contains("198.18.1.1"),
        )?;
        ensure!(started.elapsed() < Duration::from_secs(2), "protection resumed after {:?}", started.elapsed());
        Ok(())
    })?;
    daemon.stats_when("the state is calm", |stats| stats.state == "calm")?;
    ensure!(retries()? == "4", "{}", retries()?);
    // The events from before the kill are kept.
    let events = daemon.json("/events?limit=1000")?;
    let started = events.as_array().into_iter().flatten().filter(|event| event["kind"] == "attack_started").count();
    ensure!(started == 1, "the attack was not reported exactly once: {events}");
    Ok(())
}

#[test]
fn settings_come_back_when_the_daemon_ends() -> Result<()> {
    let mut scene = Scene::new("")?;
    let mut flood = scene.flood(&FloodSpec::one_source(80))?;
    flood.send_at(50_000, Duration::from_millis(500))?;
    scene.daemon.stats_when("the setting is changed", |stats| {
        stats.measures.kernel_settings.iter().any(|setting| setting.name.contains("tcp_synack_retries"))
    })?;
    scene.daemon.end(Signal::SIGTERM)?;
    let retries = scene.setting("net.ipv4.tcp_synack_retries")?;
    ensure!(retries == "5", "tcp_synack_retries is {retries}");
    Ok(())
}

#[test]
fn a_repeat_is_blocked_for_twice_as_long() -> Result<()> {
    let scene = Scene::new("[source]\nblock_for = \"2s\"")?;
    let mut flood = scene.flood(&FloodSpec::one_source(80))?;
    flood.during(20_000, || {
        let lasts = |times: u64| {
            scene.daemon.stats_when("the state is attack", |stats| stats.state == "attack").and_then(|_| {
                eventually(
                    "the block is repeated",
                    || scene.events("source_blocked"),
                    |events| events.len() as u64 >= times,
                )
            })
        };
        let events = lasts(3)?;
        let messages: Vec<&str> = events.iter().filter_map(|event| event["message"].as_str()).collect();
        for (message, expected) in messages.iter().zip(["for 2s:", "for 4s (second block)", "for 8s (third block)"]) {
            ensure!(message.contains(expected), "{messages:?}");
        }
        Ok(())
    })
}

#[test]
fn every_kind_of_drop_is_counted_exactly() -> Result<()> {
    let scene = Scene::new("[lists]\ndeny = [\"198.18.50.0/24\", \"2001:db8:50::/48\"]")?;
    let from = |source: &str| Sources::InTurn(source.parse::<IpAddr>().expect("an address"), 4);
    let cases = [
        ("denied", FloodSpec::syn(from("198.18.50.1"), 80)),
        ("denied", FloodSpec::syn(from("2001:db8:50::1"), 80)),
        (
            "bad_flags",
            FloodSpec { flags: lab::frame::SYN | lab::frame::RST, ..FloodSpec::syn(from("198.18.51.1"), 80) },
        ),
        ("bad_flags", FloodSpec { flags: 0, ..FloodSpec::syn(from("2001:db8:51::1"), 80) }),
        ("bad_flags", FloodSpec { flags: 0x29, ..FloodSpec::syn(from("198.18.51.1"), 80) }),
        ("port_zero", FloodSpec { source_ports: (0, 1), ..FloodSpec::syn(from("198.18.51.1"), 80) }),
        ("port_zero", FloodSpec::syn(from("2001:db8:51::1"), 0)),
    ];
    for (reason, spec) in cases {
        let before = scene.daemon.stats()?.drops[reason];
        scene.flood(&spec)?.send(40)?;
        scene.daemon.stats_when(reason, |stats| stats.drops[reason] == before + 40)?;
    }
    let stats = scene.daemon.stats()?;
    let totals = &stats.totals;
    ensure!(totals.dropped == 280 && totals.packets == totals.passed + 280, "{totals:?}");
    ensure!(totals.bad_flags == 120 && totals.syn == 160, "{totals:?}");
    Ok(())
}
