//! One daemon after another: what the next takes over, in calm and under flood, and what it does not trust.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    panic::resume_unwind,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use lab::{
    Client, Connections, Daemon, Flood, FloodSpec, Lab, Setup, Sources,
    daemon::syn,
    eventually,
    neighbour::has_xdp,
    network::{SECOND_CLIENT_INTERFACE, SECOND_SERVER_INTERFACE, SERVER_INTERFACE, SERVER_IPV4},
    oracle, said,
    scene::WEB,
    server::Nginx,
};
use nix::{
    fcntl::{Flock, FlockArg},
    sys::signal::Signal,
};
use serde_json::Value;

const PINS: &str = "/sys/fs/bpf/tcpguard";

/// The folder of pins that belongs to the lab's server.
fn pins(lab: &Lab) -> Result<Option<PathBuf>> {
    let output = lab.server.command("ip").args(["-o", "link", "show", SERVER_INTERFACE]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let index = text.split(':').next().context("no interface")?.to_owned();
    let folders = fs::read_dir(PINS).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    // Other labs' pins may stand beside these, of another boot of the same interface's index even.
    let mut ours: Vec<PathBuf> = folders.filter(|path| path.join(format!("links/xdp-{index}")).exists()).collect();
    ours.sort_by_key(|path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok());
    Ok(ours.pop())
}

#[test]
fn under_flood_no_syn_is_uncounted_and_no_client_fails() -> Result<()> {
    let lab = Lab::new()?;
    lab.lay_second_cable()?;
    let _nginx = Nginx::start(&lab, &[80])?;
    let config =
        format!("interfaces = [\"{SERVER_INTERFACE}\", \"{SECOND_SERVER_INTERFACE}\"]\n[thresholds]\nhold = \"2s\"\n");
    let mut daemon = Setup::new(&lab)?.argument("--hand-over").config(&config).start()?;
    let spoofed = FloodSpec::syn(Sources::RANDOM_IPV4, 80);
    let mut flood = Flood::from_interface(&lab.client, SECOND_CLIENT_INTERFACE, &spoofed)?;
    let is_over = AtomicBool::new(false);
    let client = thread::scope(|scope| -> Result<Connections> {
        let client = scope
            .spawn(|| Client::new(&lab).run(WEB, 100, Duration::from_secs(60), || !is_over.load(Ordering::Relaxed)));
        let restarts = flood.during(100_000, || {
            thread::sleep(Duration::from_secs(2));
            for signal in [Signal::SIGTERM, Signal::SIGKILL] {
                daemon.restart(signal)?;
                let stats = daemon.json("/stats")?;
                ensure!(stats["state"] == "attack", "after {signal} it begins where it was: {}", stats["state"]);
                thread::sleep(Duration::from_secs(2));
            }
            Ok(())
        });
        is_over.store(true, Ordering::Relaxed);
        let client = client.join().unwrap_or_else(|panic| resume_unwind(panic));
        restarts?;
        client
    })?;
    ensure!(client.served() == client.tried, "{} of {} connections served", client.served(), client.tried);
    let slowest = client.quantile(1.0);
    ensure!(slowest < Duration::from_millis(900), "no SYN was lost and sent again: {slowest:?}");
    let sent = flood.delivered()? + oracle::syns_sent(&lab.client)?;
    daemon.stats_when("every SYN of all three daemons is counted", |stats| syn(stats) == sent)?;
    let stats = daemon.stats_when("the attack is over", |stats| stats["state"] == "calm")?;
    ensure!(stats["totals"]["completed"] == client.tried, "{}: {}", client.tried, stats["totals"]);
    let kinds = kinds(&daemon)?;
    let count = |kind: &str| kinds.iter().filter(|found| *found == kind).count();
    ensure!(count("attack_started") == 1 && count("attack_ended") == 1, "one attack, told of once: {kinds:?}");
    Ok(())
}

fn kinds(daemon: &Daemon) -> Result<Vec<String>> {
    let events = daemon.json("/events?limit=1000")?;
    let events = events.as_array().context("no events")?;
    Ok(events.iter().filter_map(|event| event["kind"].as_str()).map(str::to_owned).collect())
}

#[test]
fn blocks_lists_and_counters_survive_a_crash() -> Result<()> {
    let lab = Lab::new()?;
    let mut daemon = Setup::new(&lab)?.start()?;
    ensure!(daemon.tcpguard(&["block", "203.0.113.0/24", "--for", "1h", "--reason", "a guest"])?.status.success());
    ensure!(daemon.tcpguard(&["allow", "192.0.2.7"])?.status.success());
    ensure!(daemon.tcpguard(&["block", "203.0.113.99"])?.status.success());
    ensure!(daemon.tcpguard(&["unblock", "203.0.113.99"])?.status.success());
    let mut flood = Flood::new(&lab, &FloodSpec::one_source(9))?;
    for _ in 0..12 {
        flood.send(50)?;
    }
    let blocked = |stats: &Value| stats["sources"][0]["blocked_until"].is_string();
    let before = daemon.stats_when("its source is blocked", blocked)?;
    daemon.restart(Signal::SIGKILL)?;
    let stats = daemon.stats_when("all is counted still", |stats| syn(stats) == 600)?;
    let until = |stats: &Value| stats["sources"][0]["blocked_until"].as_str().map(|text| text[..18].to_owned());
    ensure!(until(&stats) == until(&before), "{} {}", stats["sources"][0], before["sources"][0]);
    let lists = daemon.json("/lists")?;
    ensure!(lists["deny"][0]["network"] == "203.0.113.0/24" && lists["deny"][0]["reason"] == "a guest", "{lists}");
    ensure!(lists["deny"][0]["expires"].is_string() && lists["deny"][1].is_null(), "{lists}");
    ensure!(lists["allow"][0]["network"] == "192.0.2.7", "{lists}");
    ensure!(lists["blocks"][0]["network"] == "198.18.1.1", "{lists}");
    // The block holds, and is not given once more for what was before.
    let dropped = stats["totals"]["dropped"].as_u64().context("no number")?;
    flood.send(10)?;
    let stats = daemon.stats_when("it is still dropped", |stats| stats["totals"]["dropped"] == dropped + 10)?;
    ensure!(stats["sources"][0]["completed"] == 0, "{}", stats["sources"][0]);
    Ok(())
}

#[test]
fn kept_it_counts_and_lets_everything_in_until_it_is_detached() -> Result<()> {
    let lab = Lab::new()?;
    let _nginx = Nginx::start(&lab, &[80])?;
    let config = |rest: &str| format!("interfaces = [\"{SERVER_INTERFACE}\"]\non_exit = \"keep\"\n{rest}");
    let limits = "[limits]\nheartbeat_timeout = \"1s\"\n";
    let mut daemon = Setup::new(&lab)?.config(&config(limits)).start()?;
    ensure!(daemon.tcpguard(&["block", "198.18.1.1"])?.status.success());
    daemon.end(Signal::SIGTERM)?;
    ensure!(has_xdp(&lab, SERVER_INTERFACE)?, "it is still attached");
    thread::sleep(Duration::from_millis(1500));
    Flood::new(&lab, &FloodSpec::one_source(80))?.send(5)?;
    Client::new(&lab).fetch(WEB)?;
    daemon.start_again()?;
    let stats = daemon.stats_when("what came meanwhile is counted", |stats| syn(stats) == 6)?;
    ensure!(stats["totals"]["dropped"] == 0, "{}", stats["totals"]);
    ensure!(stats["totals"]["completed"] == 1, "{}", stats["totals"]);

    let refused = daemon.tcpguard(&["detach"])?;
    ensure!(refused.status.code() == Some(1), "a daemon runs: {refused}");
    ensure!(said(&refused).contains("a daemon answers on"), "{refused}");
    daemon.end(Signal::SIGTERM)?;
    let folder = pins(&lab)?.context("nothing is pinned")?;
    let done = daemon.tcpguard(&["detach"])?;
    ensure!(done.status.success() && said(&done).contains("detached"), "{done}");
    ensure!(!has_xdp(&lab, SERVER_INTERFACE)? && !folder.exists(), "something is left");
    ensure!(said(&daemon.tcpguard(&["detach"])?).contains("nothing was attached"), "and then there is nothing");
    Ok(())
}

#[test]
fn detach_needs_no_sound_configuration_and_puts_settings_back() -> Result<()> {
    let lab = Lab::new()?;
    let listener = lab::server::listen(&lab.server, SERVER_IPV4.into(), 80)?;
    let config = format!("interfaces = [\"{SERVER_INTERFACE}\"]\non_exit = \"keep\"\n[challenge]\nmode = \"always\"");
    let mut daemon = Setup::new(&lab)?.argument("--hand-over").config(&config).start()?;
    let cookies = || lab.server.setting(COOKIES);
    eventually("cookies are to be taken", cookies, |cookies| cookies == "2")?;
    daemon.end(Signal::SIGTERM)?;
    ensure!(cookies()? == "2", "the next daemon would go on");
    // As systemd does after a stop: on_exit says that it stays attached, and nothing more.
    let kept = daemon.tcpguard(&["detach", "--unless-restarting", "tcpguard-lab.service"])?;
    ensure!(kept.status.success() && cookies()? == "1", "{kept}");
    ensure!(has_xdp(&lab, SERVER_INTERFACE)?, "it was to stay");
    daemon.set_config("this is no configuration")?;
    let done = daemon.tcpguard(&["detach"])?;
    ensure!(done.status.success() && said(&done).contains("detached"), "{done}");
    ensure!(!has_xdp(&lab, SERVER_INTERFACE)?);
    drop(listener);
    Ok(())
}

const COOKIES: &str = "net.ipv4.tcp_syncookies";

#[test]
fn settings_come_back_though_the_next_daemon_has_other_paths() -> Result<()> {
    let lab = Lab::new()?;
    let _listener = lab::server::listen(&lab.server, SERVER_IPV4.into(), 80)?;
    let config = format!("interfaces = [\"{SERVER_INTERFACE}\"]\n[challenge]\nmode = \"always\"");
    let mut daemon = Setup::new(&lab)?.config(&config).start()?;
    eventually("cookies are to be taken", || lab.server.setting(COOKIES), |cookies| cookies == "2")?;
    daemon.end(Signal::SIGKILL)?;
    // It has a folder of its own, for its socket and its store.
    let mut next = Setup::new(&lab)?.start()?;
    // For as long as cookies are good that were sent before.
    next.stats_when("it knows what is to come back", |stats| {
        let changed = stats["measures"]["kernel_settings"].as_array();
        changed.into_iter().flatten().any(|setting| setting["name"] == COOKIES && setting["original"] == "1")
    })?;
    next.end(Signal::SIGTERM)?;
    ensure!(lab.server.setting(COOKIES)? == "1", "it has to come back: {}", next.log()?);
    Ok(())
}

#[test]
fn only_one_daemon_guards_a_network_namespace() -> Result<()> {
    let lab = Lab::new()?;
    let daemon = Setup::new(&lab)?.start()?;
    // Another socket, another store, another port.
    let second = Setup::new(&lab)?.run_to_end()?;
    ensure!(second.status.code() == Some(1), "{second}");
    let process = format!("another tcpguard (process {})", daemon.id());
    ensure!(said(&second).contains(&process), "{second}");
    ensure!(daemon.get("/readyz")?.0 == 200, "the first one is not disturbed");
    ensure!(has_xdp(&lab, SERVER_INTERFACE)?);
    // One beside it, in another namespace, is not in its way.
    let other = Lab::new()?;
    Setup::new(&other)?.start().map(drop)
}

#[test]
fn who_starts_waits_for_others_that_look_through_the_pins() -> Result<()> {
    let lab = Lab::new()?;
    let mut daemon = Setup::new(&lab)?.start()?;
    let folder = pins(&lab)?.context("nothing is pinned")?;
    daemon.end(Signal::SIGKILL)?;
    // As a daemon of another network namespace does at its start.
    let lock = |path: &Path| {
        let file = fs::File::open(path)?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| anyhow::Error::from(error))
    };
    let turn = lock(Path::new(PINS))?;
    let looked_at = lock(&folder)?;
    let starts = thread::spawn(move || daemon.into_setup().start());
    thread::sleep(Duration::from_millis(500));
    ensure!(!starts.is_finished(), "it did not wait");
    drop((looked_at, turn));
    starts.join().unwrap_or_else(|panic| resume_unwind(panic)).map(drop)
}

#[test]
fn what_does_not_fit_is_dropped_and_said() -> Result<()> {
    let lab = Lab::new()?;
    let mut daemon = Setup::new(&lab)?.start()?;
    Flood::new(&lab, &FloodSpec::one_source(9))?.send(20)?;
    daemon.stats_when("they are counted", |stats| syn(stats) == 20)?;
    let larger =
        format!("interfaces = [\"{SERVER_INTERFACE}\"]\n[limits]\nmax_sources = 4096\n[source]\nprefix_v4 = 16");
    daemon.set_config(&larger)?;
    daemon.restart(Signal::SIGKILL)?;
    let stats = daemon.stats_when("counters fit", |stats| syn(stats) == 20)?;
    ensure!(stats["sources"][0].is_null(), "the source table does not: {}", stats["sources"]);
    let log = daemon.log()?;
    for lost in ["what is known of each source", "the accounts of networks"] {
        ensure!(log.contains(lost), "{lost}: {log}");
    }
    Flood::new(&lab, &FloodSpec::one_source(9))?.send(5)?;
    daemon.stats_when("and all goes on", |stats| syn(stats) == 25 && stats["sources"][0]["syn"] == 5)?;
    Ok(())
}

#[test]
fn pins_that_are_not_tcpguards_are_not_trusted() -> Result<()> {
    let lab = Lab::new()?;
    let mut daemon = Setup::new(&lab)?.start()?;
    let folder = pins(&lab)?.context("nothing is pinned")?;
    daemon.end(Signal::SIGKILL)?;
    // A map in the place of a link, another map in the place of one, and something unknown.
    let maps = folder.join("maps");
    let link = fs::read_dir(folder.join("links"))?.filter_map(Result::ok).map(|entry| entry.path());
    let link = link.into_iter().find(|path| path.to_string_lossy().contains("xdp-")).context("no link")?;
    fs::rename(maps.join("DISTINCT-1"), maps.join("PREFIXES-1"))?;
    fs::rename(maps.join("SKETCH-1"), maps.join("UNKNOWN-9"))?;
    daemon.start_again()?;
    let log = daemon.log()?;
    ensure!(log.contains("the accounts of networks") && log.contains("the number of different sources"), "{log}");
    ensure!(!maps.join("UNKNOWN-9").exists(), "what nobody knows is removed");
    daemon.end(Signal::SIGKILL)?;
    fs::rename(maps.join("DISTINCT-1"), &link)?;
    // The link has lost its pin, and with it its hold: the interface is free.
    daemon.start_again()?;
    ensure!(daemon.log()?.contains("is not taken over"), "{}", daemon.log()?);
    ensure!(has_xdp(&lab, SERVER_INTERFACE)?);
    Flood::new(&lab, &FloodSpec::one_source(9))?.send(5)?;
    daemon.stats_when("it guards", |stats| syn(stats) == 5)?;
    Ok(())
}

#[test]
fn a_folder_that_others_may_write_is_not_used() -> Result<()> {
    let lab = Lab::new()?;
    let root = Path::new("/sys/fs/bpf/tcpguard-lab-untrusted");
    fs::create_dir_all(root)?;
    fs::set_permissions(root, fs::Permissions::from_mode(0o777))?;
    let config = format!("interfaces = [\"{SERVER_INTERFACE}\"]\n[pins]\npath = \"{}\"", root.display());
    let daemon = Setup::new(&lab)?.config(&config).start();
    let entries = fs::read_dir(root)?.count();
    fs::remove_dir_all(root)?;
    let log = daemon?.log()?;
    ensure!(log.contains("can be written by others, so what is pinned there cannot be trusted"), "{log}");
    ensure!(entries == 0, "something was pinned all the same");
    Ok(())
}

#[test]
fn without_bpffs_it_guards_and_says_what_is_lost() -> Result<()> {
    let lab = Lab::new()?;
    let config = format!("interfaces = [\"{SERVER_INTERFACE}\"]\n[pins]\npath = \"/tmp/no-bpffs\"");
    let mut daemon = Setup::new(&lab)?.config(&config).start()?;
    let log = daemon.log()?;
    ensure!(log.contains("/tmp/no-bpffs is not on a BPF file system"), "{log}");
    ensure!(has_xdp(&lab, SERVER_INTERFACE)?);
    daemon.end(Signal::SIGKILL)?;
    eventually("the kernel takes it off", || has_xdp(&lab, SERVER_INTERFACE), |has_xdp| !has_xdp)?;
    Client::new(&lab).fetch((SERVER_IPV4, 9).into()).err().context("nothing listens there")?;
    Ok(())
}

#[test]
fn what_namespaces_that_are_gone_have_left_is_swept_away() -> Result<()> {
    let lab = Lab::new()?;
    let mut daemon = Setup::new(&lab)?.start()?;
    let folder = pins(&lab)?.context("nothing is pinned")?;
    daemon.end(Signal::SIGKILL)?;
    drop((daemon, lab));
    let other = Lab::new()?;
    let starts = || {
        let _daemon = Setup::new(&other)?.start()?;
        Ok(folder.exists())
    };
    // The kernel takes a namespace down some time after its last process.
    eventually("the next daemon anywhere removes it", starts, |exists| !exists).map(drop)
}
