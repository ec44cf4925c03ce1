//! Faults of disks, clocks, privileges and interfaces: the host stays reachable, and each fault is reported.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown, symlink},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aya::{
    maps::loaded_maps,
    programs::{loaded_links, loaded_programs},
};
use lab::{
    Client, Daemon, Flood, FloodSpec, Lab, Setup, Sources,
    daemon::syn,
    eventually,
    network::{SECOND_CLIENT_INTERFACE, SECOND_SERVER_INTERFACE, SERVER_INTERFACE},
    said,
    scene::WEB,
    server::Nginx,
};
use nix::sys::signal::Signal;

/// An unprivileged user id.
const USER: u32 = 23_456;
/// Returns the path of libfaketime (Debian package: faketime).
fn faketime() -> String {
    format!("/usr/lib/{}-linux-gnu/faketime/libfaketimeMT.so.1", std::env::consts::ARCH)
}

fn guarding(rest: &str) -> String {
    format!("interfaces = [\"{SERVER_INTERFACE}\"]\n{rest}")
}

/// Makes [`USER`] the owner of the daemon's directory.
fn given_to_user(setup: Setup) -> Result<Setup> {
    chown(setup.folder(), Some(USER), Some(USER)).context("cannot change the owner of the directory")?;
    fs::set_permissions(setup.folder(), fs::Permissions::from_mode(0o755))?;
    Ok(setup)
}

#[test]
fn a_user_with_three_capabilities_can_run_it_and_one_is_not_enough_less() -> Result<()> {
    let lab = Lab::new()?;
    let pins = "/sys/fs/bpf/tcpguard-lab-user";
    let config = guarding(&format!("[pins]\npath = \"{pins}\""));
    for missing in ["perfmon", "bpf", "net_admin"] {
        let others: Vec<&str> = ["bpf", "net_admin", "perfmon"].into_iter().filter(|name| *name != missing).collect();
        let setup = given_to_user(Setup::new(&lab)?.config(&config))?.unprivileged(USER, &others.join(","));
        let output = setup.run_to_end()?;
        ensure!(output.status.code() == Some(1), "without {missing}: {output}");
        ensure!(said(&output).contains("CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"), "{output}");
    }
    let setup = given_to_user(Setup::new(&lab)?.config(&config))?.unprivileged(USER, "bpf,net_admin,perfmon");
    let mut daemon = setup.start()?;
    Flood::new(&lab, &FloodSpec::one_source(9))?.send(20)?;
    daemon.stats_when("the SYNs are counted", |stats| syn(stats) == 20)?;
    // Only root may write to the BPF file system here: the daemon reports that and continues without pins.
    ensure!(daemon.log()?.contains("a restart begins anew"), "{}", daemon.log()?);
    ensure!(daemon.end(Signal::SIGTERM)?.success());
    Ok(())
}

#[test]
fn a_folder_that_is_not_ones_own_is_named() -> Result<()> {
    let lab = Lab::new()?;
    let setup = Setup::new(&lab)?;
    let (locked, open) = (setup.file("locked"), setup.file("open"));
    for (folder, mode) in [(&locked, 0o700), (&open, 0o777)] {
        fs::create_dir(folder)?;
        fs::set_permissions(folder, fs::Permissions::from_mode(mode))?;
    }
    let config = |folder: &std::path::Path| {
        let store = folder.join("store.sqlite");
        guarding(&format!(
            "[listen]\nsocket = \"{}\"\n[store]\npath = \"{}\"\n",
            folder.join("tcpguard.sock").display(),
            store.display()
        ))
    };
    let setup = given_to_user(setup.whole_config(&config(&locked)))?;
    let output = setup.unprivileged(USER, "bpf,net_admin,perfmon").run_to_end()?;
    ensure!(output.status.code() == Some(1) && said(&output).contains("cannot make the socket"), "{output}");

    fs::create_dir_all("/tmp/tcpguard-lab-open")?;
    fs::set_permissions("/tmp/tcpguard-lab-open", fs::Permissions::from_mode(0o777))?;
    let open = std::path::Path::new("/tmp/tcpguard-lab-open");
    let daemon = Setup::new(&lab)?.whole_config(&config(open)).listening_on(&open.join("tcpguard.sock")).start()?;
    let log = daemon.log()?;
    drop(daemon);
    fs::remove_dir_all(open)?;
    ensure!(log.contains("others may write to /tmp/tcpguard-lab-open"), "{log}");
    Ok(())
}

/// A service's user that was taken over puts links in place of its pins, so that root removes other files when the service
/// stops. Fails on a tcpguard that removes pins as root.
#[test]
fn detach_does_no_more_to_a_users_files_than_that_user_could() -> Result<()> {
    let lab = Lab::new()?;
    let precious = tempfile::tempdir()?;
    for folder in ["links", "maps"] {
        fs::create_dir(precious.path().join(folder))?;
        fs::write(precious.path().join(folder).join("file"), "of root's")?;
    }
    let folder = std::path::Path::new("/sys/fs/bpf").join(format!("tcpguard-lab-links-{}", std::process::id()));
    fs::create_dir_all(folder.join("netns-1"))?;
    symlink(precious.path().join("links"), folder.join("netns-1/links"))?;
    symlink(precious.path().join("maps"), folder.join("netns-1/maps"))?;
    symlink(precious.path(), folder.join("netns-2"))?;
    for path in [&folder, &folder.join("netns-1")] {
        chown(path, Some(USER), Some(USER))?;
    }
    let detach = |pins: &std::path::Path| {
        let config = guarding(&format!("[pins]\npath = \"{}\"", pins.display()));
        Setup::new(&lab)?.config(&config).tcpguard(&["detach", "--all"])
    };
    let outcome = detach(&folder)?;
    let link = std::path::Path::new("/sys/fs/bpf").join(format!("tcpguard-lab-link-{}", std::process::id()));
    symlink(&folder, &link)?;
    let refused = detach(&link)?;
    fs::remove_file(&link)?;
    let left = |name: &str| precious.path().join(name).join("file").exists();
    ensure!(left("links") && left("maps"), "root's files were removed: {outcome}");
    ensure!(refused.status.code() == Some(1) && said(&refused).contains("cannot open"), "{refused}");
    fs::remove_dir_all(&folder).context("cannot remove the pins")
}

#[test]
fn a_disk_that_is_read_only_or_full_costs_the_memory_of_it_and_nothing_else() -> Result<()> {
    let lab = Lab::new()?;
    for (options, sentence) in [("ro", "will not survive a restart"), ("size=16k", "will not survive a restart")] {
        let setup = Setup::new(&lab)?.config(&guarding(""));
        let folder = setup.store().parent().context("a directory")?.to_owned();
        fs::create_dir(&folder)?;
        let daemon = setup.after(&format!("mount -t tmpfs -o {options} none {}", folder.display())).start()?;
        ensure!(daemon.tcpguard(&["block", "198.18.1.1"])?.status.success(), "{options}: the command failed");
        let before = syn(&daemon.stats()?);
        Flood::new(&lab, &FloodSpec::one_source(9))?.send(20)?;
        daemon.stats_when("the SYNs are dropped", |stats| syn(stats) == before + 20 && stats.drops["denied"] >= 20)?;
        eventually("the fault is reported", || daemon.log(), |log| log.contains(sentence))?;
        drop(daemon);
        // Remove the pins that outlive the daemon, so that the next round starts afresh.
        ensure!(Setup::new(&lab)?.config(&guarding("")).tcpguard(&["detach"])?.status.success());
    }
    Ok(())
}

#[test]
fn a_clock_that_is_set_back_a_day_is_told_of_and_harms_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let setup = Setup::new(&lab)?.config(&guarding("[source]\nblock_for = \"1h\"\n[thresholds]\nmax_half_open = 50"));
    let clock = setup.file("clock");
    fs::write(&clock, "+0")?;
    let fake = |setup: Setup| {
        setup
            .environment("LD_PRELOAD", &faketime())
            .environment("FAKETIME_TIMESTAMP_FILE", &clock.to_string_lossy())
            .environment("FAKETIME_NO_CACHE", "1")
            .environment("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    };
    let mut daemon = fake(setup).start()?;
    let mut flood = Flood::new(&lab, &FloodSpec::one_source(9))?;
    for _ in 0..3 {
        flood.send(40)?;
    }
    daemon.stats_when("the source is blocked", |stats| {
        stats.sources.first().is_some_and(|source| source.blocked_until.is_some())
    })?;
    ensure!(daemon.tcpguard(&["block", "203.0.113.1", "--for", "1h"])?.status.success());
    fs::write(&clock, "-1d")?;
    eventually(
        "the jump of the clock is reported",
        || daemon.json("/events?limit=100").map(|events| events.to_string()),
        |events| events.contains("clock_jumped") && events.contains("the clock was set back by 24h"),
    )?;
    let dropped = daemon.stats()?.drops["blocked"];
    flood.send(10)?;
    daemon.stats_when("the block remains in force", |stats| stats.drops["blocked"] == dropped + 10)?;
    // After a restart too, and the entries do not last a day longer.
    daemon.restart(Signal::SIGKILL)?;
    let lists = daemon.json("/lists")?;
    ensure!(lists["blocks"][0]["network"] == "198.18.1.1" && lists["deny"][0]["network"] == "203.0.113.1", "{lists}");
    for expires in [&lists["blocks"][0]["expires"], &lists["deny"][0]["expires"]] {
        let expires: jiff::Timestamp = expires.as_str().context("the entry has no time")?.parse()?;
        let left = expires.duration_since(jiff::Timestamp::now()).as_secs() + 24 * 3600;
        ensure!((3500..=3600).contains(&left), "the entry expires in {left} s");
    }
    Ok(())
}

#[test]
fn an_interface_renamed_or_down_for_a_while_stays_guarded() -> Result<()> {
    let lab = Lab::new()?;
    let _nginx = Nginx::start(&lab, &[80])?;
    let daemon = Setup::new(&lab)?.config(&guarding("")).start()?;
    let counts = |name: &str, expected: u64| {
        Client::new(&lab).fetch(WEB)?;
        daemon.stats_when("the SYN is counted", |stats| {
            syn(stats) == expected && stats.interfaces[0].name == name && stats.interfaces[0].xdp_mode == "native"
        })
    };
    counts(SERVER_INTERFACE, 1)?;
    lab.server.ip(&format!("link set {SERVER_INTERFACE} down"))?;
    thread::sleep(Duration::from_secs(2));
    lab.server.ip(&format!("link set {SERVER_INTERFACE} up"))?;
    lab.restore_routes(SERVER_INTERFACE)?;
    counts(SERVER_INTERFACE, 2)?;
    lab.server.ip(&format!("link set {SERVER_INTERFACE} down"))?;
    lab.server.ip(&format!("link set {SERVER_INTERFACE} name wan0"))?;
    lab.server.ip("link set wan0 up")?;
    lab.restore_routes("wan0")?;
    counts("wan0", 3)?;
    let log = daemon.log()?;
    ensure!(log.contains("interface lab-server is called wan0 now; it is still guarded"), "{log}");
    Ok(())
}

#[test]
fn an_mtu_over_the_native_limit_is_refused_while_it_is_native_and_falls_back_at_the_start() -> Result<()> {
    let lab = Lab::new()?;
    // Another cable, since the lab's has a program at the client's end as well.
    lab.server.ip("link add wide type veth peer name wide-peer")?;
    lab.server.ip("link set wide up")?;
    let config = "interfaces = [\"wide\"]";
    let mut daemon = Setup::new(&lab)?.config(config).start()?;
    // Frames of that size from the other end would not fit here.
    ensure!(
        lab.server.ip("link set wide-peer mtu 9000").is_err(),
        "the driver accepted an MTU that is too large for native XDP"
    );
    ensure!(daemon.stats()?.interfaces[0].xdp_mode == "native", "the XDP mode was changed");
    daemon.end(Signal::SIGTERM)?;
    for interface in ["wide", "wide-peer"] {
        lab.server.ip(&format!("link set {interface} mtu 9000"))?;
    }
    let daemon = Setup::new(&lab)?.config(config).start()?;
    let stats = daemon.stats()?;
    ensure!(stats.interfaces[0].xdp_mode == "generic", "{:?}", stats.interfaces);
    ensure!(stats.interfaces[0].reason.is_some(), "there is no reason: {:?}", stats.interfaces);
    ensure!(daemon.log()?.contains("wide: no native XDP ("), "{}", daemon.log()?);
    Ok(())
}

/// Numbers of BPF objects in the kernel and of the daemon's open file descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Holdings {
    programs: usize,
    maps: usize,
    links: usize,
    descriptors: usize,
}

fn holdings(daemon: &Daemon) -> Result<Holdings> {
    let descriptors = fs::read_dir(format!("/proc/{}/fd", daemon.id()))?.count();
    Ok(Holdings {
        programs: loaded_programs().count(),
        maps: loaded_maps().count(),
        links: loaded_links().count(),
        descriptors,
    })
}

/// Checks that reloads and restarts under load leak neither BPF objects, descriptors nor memory.
fn nothing_leaks(reloads: u32, restarts: u32) -> Result<()> {
    let lab = Lab::new()?;
    lab.lay_second_cable()?;
    let _nginx = Nginx::start(&lab, &[80])?;
    let config = |threshold: u32| {
        let interfaces = format!("interfaces = [\"{SERVER_INTERFACE}\", \"{SECOND_SERVER_INTERFACE}\"]");
        format!(
            "{interfaces}\n[thresholds]\nmax_half_open = {threshold}\nhold = \"1s\"\n[[service]]\nports = [{}]\n",
            threshold % 7 + 1
        )
    };
    let mut daemon = Setup::new(&lab)?.argument("--hand-over").config(&config(400)).start()?;
    let mut flood =
        Flood::from_interface(&lab.client, SECOND_CLIENT_INTERFACE, &FloodSpec::syn(Sources::RANDOM_IPV4, 80))?;
    flood.during(20_000, || {
        // Warm-up: fills the daemon's caches.
        for round in 0..5 {
            daemon.set_config(&config(300 + round))?;
            ensure!(daemon.tcpguard(&["reload"])?.status.success());
        }
        let (before, memory) = (settled(&daemon)?, daemon.resident_kib()?);
        for round in 0..reloads {
            daemon.set_config(&config(400 + round))?;
            ensure!(daemon.tcpguard(&["reload"])?.status.success());
        }
        let (after, grown) = (settled(&daemon)?, daemon.resident_kib()?);
        ensure!(after == before, "after {reloads} reloads: {after:?} instead of {before:?}");
        ensure!(grown < memory + memory / 4 + 4096, "after {reloads} reloads: {grown} KiB instead of {memory}");
        for round in 0..restarts {
            daemon.restart(if round % 2 == 0 { Signal::SIGTERM } else { Signal::SIGKILL })?;
        }
        let after = settled(&daemon)?;
        ensure!(after == before, "after {restarts} restarts: {after:?} instead of {before:?}");
        Client::new(&lab).fetch(WEB).map(drop)
    })
}

/// Returns the holdings once the kernel has freed what is no longer referenced.
fn settled(daemon: &Daemon) -> Result<Holdings> {
    let mut last = holdings(daemon)?;
    eventually(
        "the numbers of BPF objects and descriptors are stable",
        || {
            thread::sleep(Duration::from_millis(300));
            let now = holdings(daemon)?;
            Ok((std::mem::replace(&mut last, now), now))
        },
        |(before, now)| before == now,
    )
    .map(|(_, now)| now)
}

#[test]
fn a_few_reloads_and_restarts_leave_nothing_behind() -> Result<()> {
    nothing_leaks(8, 3)
}

#[test]
#[ignore = "takes a minute: cargo xtask test faults"]
fn a_hundred_reloads_and_fifty_restarts_leave_nothing_behind() -> Result<()> {
    nothing_leaks(100, 50)
}
