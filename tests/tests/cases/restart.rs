//! Restarts: what the next daemon takes over, in calm and under flood, and what it does not trust.

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
    Client, Connections, Daemon, Flood, FloodSpec, Lab, Setup, Sources, Stats,
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
use tcpguard_common::abi::{names::map, takeover::CARRIED_MAPS};

const PINS: &str = "/sys/fs/bpf/tcpguard";

/// Returns the directory with the pins of the lab's server, if there is one.
fn pins(lab: &Lab) -> Result<Option<PathBuf>> {
    let output = lab.server.command("ip").args(["-o", "link", "show", SERVER_INTERFACE]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let index = text.split(':').next().context("no interface")?.to_owned();
    let folders = fs::read_dir(PINS).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    // Other labs may have pins too, even for an interface with the same index.
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
                let stats = daemon.stats()?;
                ensure!(
                    stats.state == "attack",
                    "after {signal} the attack was not taken over: the state is {}",
                    stats.state
                );
                thread::sleep(Duration::from_secs(2));
            }
            Ok(())
        });
        is_over.store(true, Ordering::Relaxed);
        let client = client.join().unwrap_or_else(|panic| resume_unwind(panic));
        restarts?;
        client
    })?;
    let troubles = || format!("{:?}, {:?}", client.troubles, daemon.stats().map(|stats| stats.totals));
    ensure!(client.served() == client.tried, "{} of {}: {}", client.served(), client.tried, troubles());
    let slowest = client.quantile(1.0);
    ensure!(slowest < Duration::from_millis(900), "a SYN was lost and retransmitted: {}", troubles());
    let sent = flood.delivered()? + oracle::syns_sent(&lab.client)?;
    daemon.stats_when("every SYN of all three daemons is counted", |stats| syn(stats) == sent)?;
    let stats = daemon.stats_when("the attack is over", |stats| stats.state == "calm")?;
    ensure!(stats.totals.completed == u64::from(client.tried), "{}: {:?}", client.tried, stats.totals);
    let kinds = kinds(&daemon)?;
    let count = |kind: &str| kinds.iter().filter(|found| *found == kind).count();
    ensure!(
        count("attack_started") == 1 && count("attack_ended") == 1,
        "the attack was not reported exactly once: {kinds:?}"
    );
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
    let blocked = |stats: &Stats| stats.sources.first().is_some_and(|source| source.blocked_until.is_some());
    let before = daemon.stats_when("the source is blocked", blocked)?;
    daemon.restart(Signal::SIGKILL)?;
    let stats = daemon.stats_when("all SYNs are still counted", |stats| syn(stats) == 600)?;
    let until = |stats: &Stats| stats.sources[0].blocked_until.map(|until| until.to_string()[..18].to_owned());
    ensure!(until(&stats) == until(&before), "{:?} {:?}", stats.sources[0], before.sources[0]);
    let lists = daemon.json("/lists")?;
    ensure!(lists["deny"][0]["network"] == "203.0.113.0/24" && lists["deny"][0]["reason"] == "a guest", "{lists}");
    ensure!(lists["deny"][0]["expires"].is_string() && lists["deny"][1].is_null(), "{lists}");
    ensure!(lists["allow"][0]["network"] == "192.0.2.7", "{lists}");
    ensure!(lists["blocks"][0]["network"] == "198.18.1.1", "{lists}");
    // The block remains in force, and is not repeated for SYNs from before the restart.
    let dropped = stats.totals.dropped;
    flood.send(10)?;
    let stats = daemon.stats_when("its SYNs are still dropped", |stats| stats.totals.dropped == dropped + 10)?;
    ensure!(stats.sources[0].completed == 0, "{:?}", stats.sources[0]);
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
    ensure!(has_xdp(&lab, SERVER_INTERFACE)?, "the program is not attached any more");
    thread::sleep(Duration::from_millis(1500));
    Flood::new(&lab, &FloodSpec::one_source(80))?.send(5)?;
    Client::new(&lab).fetch(WEB)?;
    daemon.start_again()?;
    let stats = daemon.stats_when("SYNs are counted that arrived without a daemon", |stats| syn(stats) == 6)?;
    ensure!(stats.totals.dropped == 0, "{:?}", stats.totals);
    ensure!(stats.totals.completed == 1, "{:?}", stats.totals);

    let refused = daemon.tcpguard(&["detach"])?;
    ensure!(refused.status.code() == Some(1), "a daemon runs: {refused}");
    ensure!(said(&refused).contains("a daemon answers on"), "{refused}");
    daemon.end(Signal::SIGTERM)?;
    let folder = pins(&lab)?.context("there are no pins")?;
    let done = daemon.tcpguard(&["detach"])?;
    ensure!(done.status.success() && said(&done).contains("detached"), "{done}");
    ensure!(!has_xdp(&lab, SERVER_INTERFACE)? && !folder.exists(), "the program or its pins are left");
    ensure!(
        said(&daemon.tcpguard(&["detach"])?).contains("nothing was attached"),
        "a second detach found something attached"
    );
    Ok(())
}

#[test]
fn detach_needs_no_sound_configuration_and_puts_settings_back() -> Result<()> {
    let lab = Lab::new()?;
    let listener = lab::server::listen(&lab.server, SERVER_IPV4.into(), 80)?;
    let config = format!("interfaces = [\"{SERVER_INTERFACE}\"]\non_exit = \"keep\"\n[challenge]\nmode = \"always\"");
    let mut daemon = Setup::new(&lab)?.argument("--hand-over").config(&config).start()?;
    let cookies = || lab.server.setting(COOKIES);
    eventually("the kernel accepts cookies", cookies, |cookies| cookies == "2")?;
    daemon.end(Signal::SIGTERM)?;
    ensure!(cookies()? == "2", "the setting was not kept for the next daemon");
    // As systemd does after a stop: on_exit = "keep" applies to the attachment, not to kernel settings.
    let kept = daemon.tcpguard(&["detach", "--unless-restarting", "tcpguard-lab.service"])?;
    ensure!(kept.status.success() && cookies()? == "1", "{kept}");
    ensure!(has_xdp(&lab, SERVER_INTERFACE)?, "the program is not attached any more");
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
    eventually("the kernel accepts cookies", || lab.server.setting(COOKIES), |cookies| cookies == "2")?;
    daemon.end(Signal::SIGKILL)?;
    // The next daemon has another directory for its socket and store.
    let mut next = Setup::new(&lab)?.start()?;
    // The setting stays changed until the cookies sent before expire.
    next.stats_when("the daemon knows the original value", |stats| {
        let changed = &stats.measures.kernel_settings;
        changed.iter().any(|setting| setting.name == COOKIES && setting.original == "1")
    })?;
    next.end(Signal::SIGTERM)?;
    ensure!(lab.server.setting(COOKIES)? == "1", "the setting was not restored: {}", next.log()?);
    Ok(())
}

#[test]
fn only_one_daemon_guards_a_network_namespace() -> Result<()> {
    let lab = Lab::new()?;
    let daemon = Setup::new(&lab)?.start()?;
    // With another socket and another store.
    let second = Setup::new(&lab)?.run_to_end()?;
    ensure!(second.status.code() == Some(1), "{second}");
    let process = format!("another tcpguard (process {})", daemon.id());
    ensure!(said(&second).contains(&process), "{second}");
    ensure!(daemon.get("/readyz")?.0 == 200, "the first daemon is not ready any more");
    ensure!(has_xdp(&lab, SERVER_INTERFACE)?);
    // A daemon in another namespace is not affected.
    let other = Lab::new()?;
    Setup::new(&other)?.start().map(drop)
}

#[test]
fn who_starts_waits_for_others_that_look_through_the_pins() -> Result<()> {
    let lab = Lab::new()?;
    let mut daemon = Setup::new(&lab)?.start()?;
    let folder = pins(&lab)?.context("there are no pins")?;
    daemon.end(Signal::SIGKILL)?;
    // As a daemon of another network namespace does when it starts.
    let lock = |path: &Path| {
        let file = fs::File::open(path)?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| anyhow::Error::from(error))
    };
    let turn = lock(Path::new(PINS))?;
    let looked_at = lock(&folder)?;
    let starts = thread::spawn(move || daemon.into_setup().start());
    thread::sleep(Duration::from_millis(500));
    ensure!(!starts.is_finished(), "the daemon did not wait for the lock");
    drop((looked_at, turn));
    starts.join().unwrap_or_else(|panic| resume_unwind(panic)).map(drop)
}

#[test]
fn what_does_not_fit_is_dropped_and_said() -> Result<()> {
    let lab = Lab::new()?;
    let mut daemon = Setup::new(&lab)?.start()?;
    Flood::new(&lab, &FloodSpec::one_source(9))?.send(20)?;
    daemon.stats_when("all SYNs are counted", |stats| syn(stats) == 20)?;
    let larger =
        format!("interfaces = [\"{SERVER_INTERFACE}\"]\n[limits]\nmax_sources = 4096\n[source]\nprefix_v4 = 16");
    daemon.set_config(&larger)?;
    daemon.restart(Signal::SIGKILL)?;
    let stats = daemon.stats_when("the counters were taken over", |stats| syn(stats) == 20)?;
    ensure!(stats.sources.is_empty(), "the source table was taken over in spite of another size: {:?}", stats.sources);
    let log = daemon.log()?;
    for lost in ["what is known of each source", "the accounts of networks"] {
        ensure!(log.contains(lost), "{lost}: {log}");
    }
    Flood::new(&lab, &FloodSpec::one_source(9))?.send(5)?;
    daemon.stats_when("new SYNs are counted", |stats| {
        syn(stats) == 25 && stats.sources.first().is_some_and(|source| source.syn == 5)
    })?;
    Ok(())
}

#[test]
fn pins_that_are_not_tcpguards_are_not_trusted() -> Result<()> {
    let lab = Lab::new()?;
    let mut daemon = Setup::new(&lab)?.start()?;
    let folder = pins(&lab)?.context("there are no pins")?;
    daemon.end(Signal::SIGKILL)?;
    // Another map in place of a map, an unknown name, and, below, a map in place of a link.
    let maps = folder.join("maps");
    let link = fs::read_dir(folder.join("links"))?.filter_map(Result::ok).map(|entry| entry.path());
    let link =
        link.into_iter().find(|path| path.to_string_lossy().contains("xdp-")).context("there is no pinned link")?;
    let pin = |map: &str| {
        let version = CARRIED_MAPS.iter().find(|carried| carried.map == map).map(|carried| carried.version);
        version.map(|version| maps.join(format!("{map}-{version}"))).context("the map is not carried over")
    };
    fs::rename(pin(map::DISTINCT)?, pin(map::PREFIXES)?)?;
    fs::rename(pin(map::SKETCH)?, maps.join("UNKNOWN-9"))?;
    daemon.start_again()?;
    let log = daemon.log()?;
    ensure!(log.contains("the accounts of networks") && log.contains("the number of different sources"), "{log}");
    ensure!(!maps.join("UNKNOWN-9").exists(), "the pin with an unknown name was not removed");
    daemon.end(Signal::SIGKILL)?;
    fs::rename(pin(map::DISTINCT)?, &link)?;
    // Without its pin, nothing holds the link any more: the interface is free.
    daemon.start_again()?;
    ensure!(daemon.log()?.contains("is not taken over"), "{}", daemon.log()?);
    ensure!(has_xdp(&lab, SERVER_INTERFACE)?);
    Flood::new(&lab, &FloodSpec::one_source(9))?.send(5)?;
    daemon.stats_when("the daemon guards the interface", |stats| syn(stats) == 5)?;
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
    ensure!(entries == 0, "something was pinned there");
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
    eventually("the kernel detaches the program", || has_xdp(&lab, SERVER_INTERFACE), |has_xdp| !has_xdp)?;
    Client::new(&lab).fetch((SERVER_IPV4, 9).into()).err().context("the connection to a closed port succeeded")?;
    Ok(())
}

#[test]
fn what_namespaces_that_are_gone_have_left_is_swept_away() -> Result<()> {
    let lab = Lab::new()?;
    let mut daemon = Setup::new(&lab)?.start()?;
    let folder = pins(&lab)?.context("there are no pins")?;
    daemon.end(Signal::SIGKILL)?;
    drop((daemon, lab));
    let other = Lab::new()?;
    let starts = || {
        let _daemon = Setup::new(&other)?.start()?;
        Ok(folder.exists())
    };
    // The kernel destroys a namespace some time after its last reference is gone.
    eventually("the next daemon, in any namespace, removes the pins", starts, |exists| !exists).map(drop)
}
