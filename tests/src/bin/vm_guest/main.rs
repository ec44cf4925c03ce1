//! Runs in the virtual machine of `cargo xtask test vm`: tests the Debian package from installation to purge.

mod machine;
mod network;
mod service;
mod takeover;

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use lab::{
    Client, Connections, Flood, FloodSpec, Lab, Sources, eventually,
    machine::OUTCOME,
    oracle,
    scene::WEB,
    wait::{GoesOn, beside as run_beside},
};

use machine::{lines, run};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use service::Service;

/// The file in which the process that keeps the network stores the path of the client's namespace.
const CLIENT: &str = "/run/lab-client";
/// A file that is written before the reboot.
const STAGE: &str = "/var/lib/lab-stage";
/// SYNs per second; an emulated machine is slow.
const FLOOD_RATE: u32 = 4000;
const CLIENT_RATE: u32 = 20;

fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("network") => network(),
        Some("test") => test(),
        other => bail!("expected the argument network or test, not {other:?}"),
    }
}

/// Creates the lab's network and keeps it until the process ends. The default route leads to the client.
fn network() -> Result<()> {
    let lab = Lab::at_home()?;
    lab.server.ip("route add default via 198.18.0.2")?;
    fs::write(CLIENT, lab.client.path()).context("cannot write the path of the client's namespace")?;
    loop {
        thread::park();
    }
}

fn test() -> Result<()> {
    let result = if Path::new(STAGE).exists() { after_reboot() } else { before_reboot() };
    match result {
        Ok(Next::Reboot) => run("systemctl reboot").map(drop),
        Ok(Next::PowerOff) => end("passed"),
        Err(error) => {
            println!(
                "vm: {}",
                run("journalctl -b --no-pager -o short-monotonic -n 60 -u tcpguard").unwrap_or_default()
            );
            end(&format!("{error:#}"))
        }
    }
}

enum Next {
    Reboot,
    PowerOff,
}

fn end(outcome: &str) -> Result<()> {
    println!("{OUTCOME}{}", outcome.replace('\n', " | "));
    run("systemctl poweroff").map(drop)
}

fn joined() -> Result<Lab> {
    Lab::join(&fs::read_to_string(CLIENT).context("the network is not set up")?)
}

/// Runs a step of the test and prints how long it took.
fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let result = work().with_context(|| what.to_owned())?;
    println!("vm: {what}: {:.1} s", start.elapsed().as_secs_f64());
    Ok(result)
}

fn before_reboot() -> Result<Next> {
    let lab = joined()?;
    let service = Service;
    step("apt installs the package", || run("apt-get install -y --no-install-recommends /lab/tcpguard.deb"))?;
    step("the service is active within 5 s, as an unprivileged user", || {
        service.is_active_and_unprivileged()?;
        let took = service.start_took()?;
        println!("vm: the service started in {:.2} s", took.as_secs_f64());
        ensure!(took < Duration::from_secs(5), "the start took {took:?}");
        Ok(())
    })?;
    step("a flood is challenged, and a client is served", || {
        let mut flood = spoofed(&lab)?;
        let (client, _) = beside(&lab, &mut flood, || {
            eventually(
                "the state is attack",
                || service.stats(),
                |stats| stats["state"] == "attack" && stats["totals"]["challenged"].as_u64() > Some(0),
            )
        })?;
        all_served(&client)
    })?;
    step("the daemon cannot do what requires root", || service.changes_kernel_settings_unprivileged())?;
    step("reload", || {
        fs::write("/etc/tcpguard/tcpguard.toml", "[thresholds]\nmax_half_open = 450\nhold = \"3s\"\n")?;
        run("systemctl reload tcpguard")?;
        eventually(
            "the configuration is applied",
            || service.stats(),
            |stats| stats["thresholds"]["max_half_open"] == 450,
        )?;
        fs::write("/etc/tcpguard/tcpguard.toml", "[thresholds]\nmax_half_open = 0\n")?;
        ensure!(run("systemctl reload tcpguard").is_err(), "an invalid configuration was reloaded");
        fs::write("/etc/tcpguard/tcpguard.toml", "[thresholds]\nhold = \"3s\"\n")?;
        run("systemctl reload tcpguard").map(drop)
    })?;
    step("upgrade under flood", || {
        let before = service.process()?;
        uninterrupted(&lab, &service, || {
            run("apt-get install -y --no-install-recommends -o Dpkg::Options::=--force-confold /lab/upgrade.deb")
        })?;
        ensure!(service.process()? != before, "the new version did not take over");
        ensure!(
            run("dpkg-query -W -f ${Version} tcpguard")?.contains("0.1.0-2"),
            "the installed package is not the new version"
        );
        Ok(())
    })?;
    step("restart under flood", || uninterrupted(&lab, &service, || run("systemctl restart tcpguard")))?;
    step("kill -9 under flood", || {
        let before = service.process()?;
        uninterrupted(&lab, &service, || {
            kill(Pid::from_raw(before as i32), Signal::SIGKILL).context("cannot kill the daemon")?;
            eventually("systemd starts the daemon again", || service.process(), |now| ![0, before].contains(now))?;
            eventually("the daemon is ready", || Ok(service.stats().is_ok()), |ready| *ready)
        })
    })?;
    step("the watchdog ends a daemon that hangs, and systemd starts it again", || {
        let before = service.process()?;
        kill(Pid::from_raw(before as i32), Signal::SIGSTOP).context("cannot stop the daemon")?;
        let hung = Instant::now();
        while [0, before].contains(&service.process()?) {
            ensure!(hung.elapsed() < Duration::from_secs(30), "the daemon still hangs");
            thread::sleep(Duration::from_millis(200));
        }
        eventually("the daemon is ready", || Ok(service.stats().is_ok()), |ready| *ready)
    })?;
    step("other hosts reach its HTTP only once the operator allows it", || {
        network::is_closed_by_default(&lab, &service)
    })?;
    step("its exposure is at most 1.5", || {
        run("systemd-analyze security --no-pager --threshold=15 tcpguard.service").map(drop)
    })?;
    step("whoever takes over its user does not become root", || takeover::is_confined(&service))?;
    step("stop detaches everything, start attaches again", || {
        run("systemctl stop tcpguard")?;
        machine::nothing_is_attached()?;
        run("systemctl start tcpguard").map(drop)
    })?;
    run("tcpguard block 203.0.113.0/24 --reason reboot")?;
    fs::write(STAGE, "rebooted").context("cannot write the stage file")?;
    println!("vm: rebooting");
    Ok(Next::Reboot)
}

fn after_reboot() -> Result<Next> {
    let service = Service;
    step("after the reboot", || {
        eventually("the service is active", || Ok(service.is_active_and_unprivileged().is_ok()), |active| *active)?;
        let lists = run("tcpguard lists --json")?;
        ensure!(lists.contains("203.0.113.0/24") && lists.contains("reboot"), "the list entry is missing: {lists}");
        let events = run("tcpguard events --json --limit 1000")?;
        ensure!(
            events.contains("attack_started") && events.contains("attack_ended"),
            "events from before the reboot are missing"
        );
        Ok(())
    })?;
    step("purge", || {
        run("apt-get purge -y tcpguard")?;
        machine::nothing_is_attached()?;
        let left = lines(
            "find / -xdev ( -path /proc -o -path /sys -o -path /lab -o -path /tmp ) -prune -o -name *tcpguard* -print",
        )?;
        let left: Vec<&String> =
            left.iter().filter(|path| !path.starts_with("/var/log/") && !path.contains("/usr/share/doc/")).collect();
        ensure!(left.is_empty(), "files are left: {left:?}");
        ensure!(!Path::new("/sys/fs/bpf/tcpguard").exists(), "pins are left");
        ensure!(run("getent passwd tcpguard").is_err(), "the user is left");
        Ok(())
    })?;
    Ok(Next::PowerOff)
}

fn spoofed(lab: &Lab) -> Result<Flood> {
    Flood::new(lab, &FloodSpec::syn(Sources::RANDOM_IPV4, 80))
}

/// Runs `work` while a flood and a client are running.
fn beside<T>(lab: &Lab, flood: &mut Flood, work: impl FnOnce() -> Result<T>) -> Result<(Connections, T)> {
    let client = |goes_on: GoesOn| Client::new(lab).run(WEB, CLIENT_RATE, Duration::from_secs(120), goes_on);
    let (result, client) = run_beside(client, || flood.during(FLOOD_RATE, work))?;
    Ok((client, result))
}

fn all_served(client: &Connections) -> Result<()> {
    ensure!(client.served() == client.tried, "{} of {} connections served", client.served(), client.tried);
    Ok(())
}

/// Runs `work` under flood, and checks that every SYN is counted and every client connection is served.
fn uninterrupted<T>(lab: &Lab, service: &Service, work: impl FnOnce() -> Result<T>) -> Result<()> {
    let (before, by_client) = (service.syn()?, oracle::syns_sent(&lab.client)?);
    let mut flood = spoofed(lab)?;
    let (client, _) = beside(lab, &mut flood, || {
        eventually("the state is attack", || service.stats(), |stats| stats["state"] == "attack")?;
        let result = work()?;
        thread::sleep(Duration::from_secs(2));
        Ok(result)
    })?;
    all_served(&client)?;
    let sent = before + flood.delivered()? + oracle::syns_sent(&lab.client)? - by_client;
    // The emulated machine may be too slow to empty the cable's queue: what was dropped of the client's segments counts
    // as if SYNs of the flood had been.
    let lost_of_others = flood.lost_of_others()?;
    println!("vm: dropped on the cable, of others than the flood: {lost_of_others}");
    let sent = sent..=sent + lost_of_others;
    eventually(&format!("each of {sent:?} SYNs is counted"), || service.syn(), |syn| sent.contains(syn)).map(drop)
}

/// Returns the command for a command line; arguments are separated by whitespace.
fn command(arguments: &str) -> Command {
    let mut words = arguments.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    command
}
