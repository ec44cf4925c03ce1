//! Protection must not make anything unreachable: published container ports, hosts behind the guarded one, and services
//! that challenges cannot work for. Also tests what happens where cookies are impossible.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use lab::{
    Client, Flood, FloodSpec, Lab, Path, Scene, Setup, Sources, Stats,
    daemon::{challenge_of, port_of},
    eventually,
    network::{SERVER_INTERFACE, SERVER_IPV4},
    redirect::{BEHIND, PUBLISHED, host_behind, masquerade, nft, publish},
    scene::{Crowd, WEB},
    server::{self, Nginx},
    share_machine,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

fn random(port: u16) -> FloodSpec {
    FloodSpec::syn(Sources::RANDOM_IPV4, port)
}

fn left_alone(stats: &Stats) -> String {
    format!("{:?}", stats.measures.challenge.left_alone)
}

#[test]
fn a_published_port_and_a_host_behind_stay_reachable() -> Result<()> {
    let scene = Scene::new("")?;
    let behind = host_behind(&scene.lab)?;
    let _service = server::echo(&behind, "0.0.0.0:80", 1)?;
    publish(&scene.lab)?;
    let published = SocketAddr::from((SERVER_IPV4, PUBLISHED));
    let direct = SocketAddr::from((BEHIND, 80));
    let client = Client::new(&scene.lab);
    client.fetch(published).context("the published port is not reachable")?;
    client.fetch(direct).context("the host behind is not reachable")?;
    // Both the web server's port and the published port are flooded.
    let mut flood = scene.flood(&random(80))?;
    let mut of_published = scene.flood(&random(PUBLISHED))?;
    flood.during(50_000, || {
        scene.daemon.stats_when("the port is challenged", |stats| challenge_of(stats, 80).is_some())?;
        for _ in 0..10 {
            of_published.send_at(5000, Duration::from_millis(100))?;
            for server in [published, direct, WEB] {
                client.fetch(server).with_context(|| format!("{server} is not reachable"))?;
            }
        }
        // Until then it is flooded, whatever share of a processor the flood gets.
        let stats = of_published.during(5_000, || {
            let is_challenged = |stats: &Stats| challenge_of(stats, PUBLISHED) == Some("reset");
            let stats = scene.daemon.stats_when("the published port is challenged", is_challenged)?;
            client.fetch(published).context("the published port is not reachable while it is challenged")?;
            Ok(stats)
        })?;
        ensure!(stats.measures.challenge.left_alone.is_empty(), "{:?}", stats.measures.challenge);
        Ok(())
    })
}

#[test]
#[ignore = "takes a minute and a half: `cargo xtask test` runs it in parallel with other tests"]
fn clients_of_a_forwarded_port_are_neither_an_attack_nor_blocked() -> Result<()> {
    share_machine();
    let scene = Scene::new("")?;
    let behind = host_behind(&scene.lab)?;
    let _service = server::echo(&behind, "0.0.0.0:80", 1)?;
    publish(&scene.lab)?;
    masquerade(&scene.lab)?;
    let far = scene.lab.far_client(&[Ipv4Addr::new(198, 18, 61, 7).into()], Path::milliseconds(20), true)?;
    let published = SocketAddr::from((SERVER_IPV4, PUBLISHED));
    let client = Client::in_namespace(&far.namespace).run(published, 20, Duration::from_secs(90), || true)?;
    ensure!(client.share() == 1.0, "{} of {}: {:?}", client.served(), client.tried, client.troubles);
    let stats = scene.daemon.stats_when("every SYN is counted", |stats| stats.totals.syn >= u64::from(client.tried))?;
    let published = port_of(&stats, PUBLISHED);
    ensure!(published.is_some_and(|port| port.redirected), "{published:?}");
    // The first ones passed before it was known that the port is redirected; of those under way at that moment, the completion
    // is counted and the SYN is not.
    let seen = published.map_or(0, |port| port.completed) + stats.totals.syn_closed;
    let tried = u64::from(client.tried);
    ensure!((tried..=tried + 2).contains(&seen) && stats.totals.syn_closed < 60, "{:?}", stats.totals);
    ensure!(stats.half_open.datapath == 0 && stats.totals.dropped == 0, "{:?}", stats.totals);
    ensure!(scene.events("attack_started")?.is_empty(), "{:?}", scene.events("attack_started")?);
    ensure!(scene.blocked()?.is_empty() && stats.measures.kernel_settings.is_empty(), "{:?}", stats.measures);
    Ok(())
}

#[test]
fn a_published_port_that_a_proxy_listens_on_too_is_challenged_without_cookies() -> Result<()> {
    let scene = Scene::new("")?;
    let behind = host_behind(&scene.lab)?;
    let _service = server::echo(&behind, "0.0.0.0:80", 1)?;
    // As a container engine's proxy does; connections from outside are redirected before they reach it.
    let _proxy = server::listen(&scene.lab.server, Ipv4Addr::UNSPECIFIED.into(), PUBLISHED)?;
    publish(&scene.lab)?;
    let published = SocketAddr::from((SERVER_IPV4, PUBLISHED));
    let client = Client::new(&scene.lab);
    for _ in 0..100 {
        client.fetch(published)?;
    }
    thread::sleep(Duration::from_secs(4));
    for _ in 0..60 {
        client.fetch(published)?;
        thread::sleep(Duration::from_millis(50));
    }
    let mut flood = scene.flood(&random(PUBLISHED))?;
    flood.during(20_000, || {
        scene.daemon.stats_when("it is challenged without cookies", |stats| {
            left_alone(stats).contains("redirected") && challenge_of(stats, PUBLISHED) == Some("reset")
        })?;
        for _ in 0..5 {
            client.fetch(published).context("the published port is not reachable")?;
        }
        // Each fetch, because handshakes that complete elsewhere prove nobody.
        let stats = scene.daemon.stats_when("the flood and the client are challenged", |stats| {
            stats.totals.challenged > 1000 && stats.drops["returned_reset"] >= 5
        })?;
        ensure!(stats.measures.challenge.cookies_returned == 0, "{:?}", stats.measures.challenge);
        Ok(())
    })
}

#[test]
fn challenges_that_lead_to_nothing_are_ended() -> Result<()> {
    let scene = Scene::new("[challenge]\nproven_for = \"1s\"")?;
    // A firewall that drops connections whose SYN it has not seen.
    nft(
        &scene.lab.server,
        "table ip lab {\nchain input {\ntype filter hook input priority 0;\ntcp dport 80 ct state invalid drop\n}\n}\n",
    )?;
    scene.lab.server.sysctl("net.netfilter.nf_conntrack_tcp_loose", "0")?;
    let addresses: Vec<IpAddr> = (1..=200).map(|n| [198, 18, 220, n].into()).collect();
    for address in &addresses {
        scene.lab.add_client_address(*address)?;
    }
    let crowd = Crowd { lab: &scene.lab, addresses, rate: 100, threads: 4 };
    let before = crowd.run(WEB, Duration::from_secs(15))?;
    ensure!(before.share() == 1.0, "{} of {} connections were served before the flood", before.served(), before.tried);
    let mut flood = scene.flood(&random(80))?;
    flood.during(20_000, || {
        scene.daemon.stats_when("the port is challenged", |stats| challenge_of(stats, 80).is_some())?;
        scene.daemon.stats_when("the watchdog ends the challenge", |stats| {
            left_alone(stats).contains("no handshake completed") && challenge_of(stats, 80) == Some("reset")
        })?;
        let told = scene.events("challenge_ended")?;
        ensure!(told.iter().any(|event| event["message"].to_string().contains("firewall")), "{told:?}");
        let after = crowd.run(WEB, Duration::from_secs(2))?;
        ensure!(after.share() > 0.9, "{} of {} connections were served without cookies", after.served(), after.tried);
        Ok(())
    })
}

#[test]
fn without_timestamps_cookies_carry_less() -> Result<()> {
    let scene = Scene::new("[challenge]\nmode = \"always\"")?;
    scene.lab.server.sysctl("net.ipv4.tcp_timestamps", "0")?;
    let attack = scene.attack(&random(80), 50_000, Duration::from_secs(2))?;
    ensure!(
        attack.client.share() == 1.0,
        "{} of {} connections were served",
        attack.client.served(),
        attack.client.tried
    );
    ensure!(scene.setting("net.ipv4.tcp_timestamps")? == "0", "timestamps were enabled");
    Ok(())
}

#[test]
fn where_a_setting_is_locked_clients_are_asked_for_resets_and_it_is_said() -> Result<()> {
    let lab = Lab::new()?;
    let _nginx = Nginx::start(&lab, &[80])?;
    let locked = "/proc/sys/net/ipv4/tcp_syncookies";
    let script = format!("mount --bind {locked} {locked} && mount -o remount,bind,ro {locked}");
    let config = format!("interfaces = [\"{SERVER_INTERFACE}\"]\n");
    let daemon = Setup::new(&lab)?.config(&config).after(&script).start()?;
    let mut flood = Flood::new(&lab, &random(80))?;
    Client::new(&lab).fetch(WEB)?;
    flood.during(20_000, || {
        let stats = daemon.stats_when("SYNs are challenged", |stats| stats.totals.challenged > 1000)?;
        ensure!(challenge_of(&stats, 80) == Some("reset"), "{:?}", stats.measures.challenge);
        let challenge = &stats.measures.challenge;
        let no_cookies = challenge.no_cookies.as_deref().unwrap_or_default();
        ensure!(no_cookies.contains("tcp_syncookies"), "{challenge:?}");
        // A proven source passes.
        Client::new(&lab).fetch(WEB).map(drop)
    })?;
    let log = daemon.log()?;
    ensure!(log.contains("no cookies can be sent"), "{log}");
    Ok(())
}

#[test]
fn first_syns_are_dropped_where_that_is_the_method() -> Result<()> {
    let scene = Scene::new("[challenge]\nmethod = \"retransmit\"")?;
    let stranger = Ipv4Addr::new(198, 18, 210, 1);
    scene.lab.add_client_address(stranger.into())?;
    let mut flood = scene.flood(&random(80))?;
    Client::new(&scene.lab).fetch(WEB)?;
    flood.during(100_000, || {
        scene.daemon.stats_when("the port is challenged", |stats| challenge_of(stats, 80).is_some())?;
        let known = Client::new(&scene.lab).fetch(WEB)?;
        ensure!(known < Duration::from_millis(500), "a proven source waited for {known:?}");
        let unknown = Client::new(&scene.lab).from(stranger.into()).fetch(WEB)?;
        ensure!(unknown > Duration::from_millis(800), "an unproven source connected after only {unknown:?}");
        ensure!(unknown < Duration::from_millis(1600), "an unproven source waited for {unknown:?}");
        Ok(())
    })?;
    let stats = scene.daemon.stats()?;
    ensure!(stats.drops["first_syn"] > 50_000 && stats.totals.challenged == 0, "{:?}", stats.drops);
    let kept = scene.setting("net.ipv4.tcp_timestamps")?;
    ensure!(kept == "1", "tcp_timestamps is {kept}");
    Ok(())
}

#[test]
fn the_datapath_challenges_by_itself_before_the_daemon_does() -> Result<()> {
    let scene = Scene::new("[challenge]\nsyn_per_second = 10000")?;
    let process = Pid::from_raw(i32::try_from(scene.daemon.id())?);
    Client::new(&scene.lab).fetch(WEB)?;
    let mut flood = scene.flood(&random(80))?;
    kill(process, Signal::SIGSTOP).context("cannot stop the daemon")?;
    let sent = flood.send_at(100_000, Duration::from_secs(2));
    kill(process, Signal::SIGCONT).context("cannot continue the daemon")?;
    let sent = sent?;
    let stats = scene.daemon.stats_when("all SYNs are counted", |stats| stats.totals.syn > sent)?;
    let challenged = stats.totals.challenged;
    ensure!(challenged > sent * 8 / 10, "only {challenged} of {sent} SYNs were challenged");
    let told = eventually("the event is reported", || scene.events("challenge_triggered"), |told| !told.is_empty())?;
    ensure!(told.len() == 1 && told[0]["message"].to_string().contains("port 80"), "{told:?}");
    Ok(())
}

#[test]
fn never_is_never() -> Result<()> {
    let scene = Scene::new("[challenge]\nmode = \"never\"")?;
    let attack = scene.attack(&random(80), 100_000, Duration::from_secs(2))?;
    let stats = scene.daemon.stats()?;
    ensure!(stats.totals.challenged == 0 && stats.drops["first_syn"] == 0, "{:?}", stats.drops);
    ensure!(attack.seen.kinds.last().map(String::as_str) == Some("spoofed"), "{:?}", attack.seen.kinds);
    ensure!(scene.setting("net.ipv4.tcp_timestamps")? == "1", "timestamps were changed");
    Ok(())
}
