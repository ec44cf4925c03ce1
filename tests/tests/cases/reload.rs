//! Reloading: the differences to the previous configuration are applied, and nothing else is changed.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use lab::{
    Client, Daemon, Flood, FloodSpec, Lab, Setup, Sources, Stats, eventually, finish,
    neighbour::program_on,
    network::{SECOND_CLIENT_INTERFACE, SECOND_SERVER_INTERFACE, SERVER_INTERFACE, SERVER_IPV4},
    oracle, said,
    scene::WEB,
    server::{Nginx, listen},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

fn config(rest: &str) -> String {
    format!("interfaces = [\"{SERVER_INTERFACE}\"]\n{rest}")
}

/// Returns the id of the XDP program on the guarded interface.
fn program(lab: &Lab) -> Result<u32> {
    program_on(lab, SERVER_INTERFACE)?.context("the interface has no XDP program")
}

fn reload(daemon: &mut Daemon, text: &str) -> Result<String> {
    daemon.set_config(text)?;
    let output = daemon.tcpguard(&["reload"])?;
    ensure!(output.status.success(), "{output}");
    Ok(said(&output))
}

#[test]
fn what_is_different_is_shown_and_taken_up_and_the_rest_stays() -> Result<()> {
    let lab = Lab::new()?;
    let mut daemon = Setup::new(&lab)?.config(&config("[thresholds]\nmax_half_open = 40")).start()?;
    let before = program(&lab)?;
    ensure!(daemon.tcpguard(&["block", "203.0.113.9"])?.status.success());
    let mut flood = Flood::new(&lab, &FloodSpec::one_source(9))?;
    flood.send(30)?;
    daemon.stats_when("the SYNs are counted", |stats| stats.totals.syn == 30)?;
    ensure!(reload(&mut daemon, &config("[thresholds]\nmax_half_open = 40"))?.contains("nothing is different"));

    let other = "[thresholds]\nmax_half_open = 20\n[source]\nmax_half_open = 10\nblock_for = \"2m\"\n[limits]\nmax_sources \
                 = 4096\n[lists]\ndeny = [\"192.0.2.0/24\"]\nkeep_ssh = false";
    let told = reload(&mut daemon, &config(other))?;
    for line in [
        "thresholds.max_half_open: 40 → 20\n",
        "limits.max_sources: 262144 → 4096 (after a restart)\n",
        "lists.deny: [] → [\"192.0.2.0/24\"]\n",
    ] {
        ensure!(told.contains(line), "{line}: {told}");
    }
    // The handshakes that are already half-open exceed the new threshold.
    let stats = daemon.stats_when("the state is attack", |stats| stats.state == "attack")?;
    ensure!(stats.thresholds.max_half_open == 20 && stats.totals.syn == 30, "{:?}", stats.thresholds);
    daemon.stats_when("the source is blocked", |stats| {
        stats.sources.first().is_some_and(|source| source.blocked_until.is_some())
    })?;
    ensure!(program(&lab)? == before, "the program was replaced");
    let lists = daemon.json("/lists")?;
    let denied = lists["deny"].to_string();
    ensure!(denied.contains("203.0.113.9") && denied.contains("192.0.2.0/24"), "{denied}");
    let events = daemon.json("/events?limit=100")?.to_string();
    ensure!(events.contains("config_reloaded"), "{events}");

    // And the configuration is changed back.
    reload(&mut daemon, &config("[thresholds]\nmax_half_open = 40"))?;
    let denied = daemon.json("/lists")?["deny"].to_string();
    ensure!(denied.contains("203.0.113.9") && !denied.contains("192.0.2.0/24"), "{denied}");
    Ok(())
}

#[test]
fn what_is_not_sound_changes_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let mut daemon = Setup::new(&lab)?.config(&config("")).start()?;
    let not_sound = [
        ("syn_attack_protect = 1\n[thresholds]\nmax_half_open = 0", "0 is out of range"),
        ("syn_attack_protect = 1\nno_such_key = 1", "no_such_key"),
        ("syn_attack_protect = 1\n[", "tcpguard.toml:"),
    ];
    for (text, problem) in not_sound {
        daemon.set_config(&config(text))?;
        let output = daemon.tcpguard(&["reload"])?;
        ensure!(output.status.code() == Some(2) && said(&output).contains(problem), "{output}");
    }
    daemon.set_config(&format!("interfaces = [\"{SERVER_INTERFACE}\", \"nowhere0\"]\nsyn_attack_protect = 1"))?;
    let output = daemon.tcpguard(&["reload"])?;
    ensure!(output.status.code() == Some(2) && said(&output).contains("no interface nowhere0"), "{output}");
    // Not by a signal either.
    kill(Pid::from_raw(daemon.id() as i32), Signal::SIGHUP).context("no signal")?;
    eventually("it says so", || daemon.log(), |log| log.contains("nothing was changed: there is no interface"))?;
    ensure!(daemon.stats()?.syn_attack_protect == 2, "nothing was changed");
    Ok(())
}

#[test]
fn a_signal_does_it_too_for_services_lists_and_notifications() -> Result<()> {
    let lab = Lab::new()?;
    let setup = Setup::new(&lab)?;
    let (list, told) = (setup.file("deny.txt"), setup.file("told"));
    std::fs::write(&list, "198.51.100.0/24\n")?;
    let mut daemon = setup.config(&config("[[service]]\nports = [80]\nmax_half_open = 5000")).start()?;
    let _listener = listen(&lab.server, SERVER_IPV4.into(), 443)?;
    // Only the datapath counts handshakes: the kernel keeps none that it answers with cookies.
    lab.server.sysctl("net.ipv4.tcp_syncookies", "2")?;
    let mut flood = Flood::new(&lab, &FloodSpec::one_source(443))?;
    flood.send(20)?;
    daemon.stats_when("the SYNs are counted", |stats| stats.totals.syn == 20)?;
    let command = format!("[\"/bin/sh\", \"-c\", \"cat >> {}\"]", told.display());
    let other = format!(
        "[lists]\ndeny_files = [\"{}\"]\n[notify]\ncommand = {command}\n[[service]]\nports = [80]\nmax_half_open = 4000\n\
         [[service]]\nports = [443]\nmax_half_open = 10",
        list.display()
    );
    daemon.set_config(&config(&other))?;
    kill(Pid::from_raw(daemon.id() as i32), Signal::SIGHUP).context("cannot signal the daemon")?;
    let denied = |daemon: &Daemon| daemon.json("/lists").map(|lists| lists["deny"].to_string());
    eventually("the file is read", || denied(&daemon), |denied| denied.contains("198.51.100.0/24"))?;
    let stats = daemon.stats()?;
    ensure!(stats.state == "calm", "a new service is judged by SYNs from before the reload: {:?}", stats.attack);
    flood.send(30)?;
    daemon.stats_when("the new threshold is exceeded", |stats| stats.state == "attack")?;
    eventually(
        "the command of the new configuration is run",
        || Ok(std::fs::read_to_string(&told).unwrap_or_default()),
        |text| text.contains("attack_started"),
    )?;
    daemon.set_config(&config(""))?;
    kill(Pid::from_raw(daemon.id() as i32), Signal::SIGHUP).context("cannot signal the daemon")?;
    eventually("the file's entries are removed", || denied(&daemon), |denied| !denied.contains("198.51.100.0/24"))?;
    Ok(())
}

#[test]
fn interfaces_are_taken_in_and_let_go() -> Result<()> {
    let lab = Lab::new()?;
    lab.lay_second_cable()?;
    let mut daemon = Setup::new(&lab)?.config(&config("")).start()?;
    let names =
        |stats: &Stats| -> Vec<String> { stats.interfaces.iter().map(|interface| interface.name.clone()).collect() };
    let both = format!("interfaces = [\"{SERVER_INTERFACE}\", \"{SECOND_SERVER_INTERFACE}\"]");
    reload(&mut daemon, &both)?;
    daemon.stats_when("both interfaces are guarded", |stats| {
        names(stats) == [SERVER_INTERFACE, SECOND_SERVER_INTERFACE] && stats.interfaces[1].xdp_mode == "native"
    })?;
    let mut flood = Flood::from_interface(&lab.client, SECOND_CLIENT_INTERFACE, &FloodSpec::one_source(9))?;
    flood.send(5)?;
    daemon.stats_when("SYNs on the second interface are counted", |stats| stats.totals.syn == 5)?;
    reload(&mut daemon, &config(""))?;
    daemon.stats_when("the second interface is no longer guarded", |stats| names(stats) == [SERVER_INTERFACE])?;
    let output = lab.server.command("ip").args(["-d", "link", "show", SECOND_SERVER_INTERFACE]).output()?;
    ensure!(!String::from_utf8_lossy(&output.stdout).contains("prog/xdp"), "the second interface still has a program");
    Ok(())
}

#[test]
fn what_matches_a_pattern_is_guarded_as_it_appears() -> Result<()> {
    let lab = Lab::new()?;
    let daemon = Setup::new(&lab)?.config(&format!("interfaces = [\"{SERVER_INTERFACE}\", \"pod*\"]")).start()?;
    for round in 0..2 {
        for name in ["pod1", "pod2", "other1"] {
            lab.server.ip(&format!("link add {name} type veth peer name peer-{name}"))?;
            lab.server.ip(&format!("link set {name} up"))?;
        }
        let shown = |stats: &Stats| format!("{:?}", stats.interfaces);
        daemon.stats_when("both interfaces are guarded", |stats| {
            let shown = shown(stats);
            stats.interfaces.len() == 3
                && shown.contains("pod1")
                && shown.contains("pod2")
                && shown.matches("native").count() == 3
        })?;
        // A bridge over a guarded interface is not guarded, since its frames were already seen there.
        lab.server.ip("link add pod-bridge type bridge")?;
        lab.server.ip("link set pod1 master pod-bridge")?;
        lab.server.ip("link set pod-bridge up")?;
        thread::sleep(Duration::from_millis(500));
        let bridge = finish(lab.server.command("ip").args(["-d", "link", "show", "pod-bridge"]))?;
        ensure!(!said(&bridge).contains("prog/xdp"), "{bridge}");
        for name in ["pod1", "pod2", "other1", "pod-bridge"] {
            lab.server.ip(&format!("link del {name}"))?;
        }
        daemon.stats_when("the deleted interfaces are removed", |stats| stats.interfaces.len() == 1)?;
        ensure!(daemon.get("/readyz")?.0 == 200, "round {round}");
    }
    Ok(())
}

#[test]
fn reloads_under_flood_lose_no_syn_and_no_client() -> Result<()> {
    let lab = Lab::new()?;
    lab.lay_second_cable()?;
    let _nginx = Nginx::start(&lab, &[80])?;
    let config = |max: u32| {
        let interfaces = format!("interfaces = [\"{SERVER_INTERFACE}\", \"{SECOND_SERVER_INTERFACE}\"]");
        format!("{interfaces}\n[thresholds]\nmax_half_open = {max}\nhold = \"2s\"")
    };
    let mut daemon = Setup::new(&lab)?.config(&config(500)).start()?;
    let spec = FloodSpec::syn(Sources::RANDOM_IPV4, 80);
    let mut flood = Flood::from_interface(&lab.client, SECOND_CLIENT_INTERFACE, &spec)?;
    let client = thread::scope(|scope| {
        let client = scope.spawn(|| Client::new(&lab).run(WEB, 100, Duration::from_secs(3), || true));
        flood.during(100_000, || {
            for round in 0..8 {
                reload(&mut daemon, &config(400 + round))?;
                thread::sleep(Duration::from_millis(300));
            }
            client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })?;
    ensure!(client.served() == client.tried, "{} of {} connections were served", client.served(), client.tried);
    let sent = flood.delivered()? + oracle::syns_sent(&lab.client)?;
    daemon.stats_when("every SYN is counted", |stats| stats.totals.syn == sent).map(drop)
}
