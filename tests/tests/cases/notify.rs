//! Notifications by command and webhook, and what happens if the receiver hangs or fails.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lab::{Flood, FloodSpec, Lab, Setup, Sources, eventually};
use nix::sys::signal::Signal;
use serde_json::Value;

const WEBHOOK: &str = "127.0.0.1:9600";
/// How long a test waits for a notification.
const PATIENCE: Duration = Duration::from_secs(20);

/// Reads a request, responds with `status`, and returns the body.
fn answer(stream: TcpStream, status: &str) -> Result<Value> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut length, mut line) = (0, String::new());
    while reader.read_line(&mut line)? > 2 {
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
        line.clear();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    write!(&stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
    Ok(serde_json::from_slice(&body)?)
}

/// Starts a receiver that responds with `statuses` in turn, and then with the last one, and returns the bodies that it
/// receives.
fn receiver(lab: &Lab, statuses: &'static [&'static str]) -> Result<Receiver<Value>> {
    let listener = lab.server.within(|| TcpListener::bind(WEBHOOK).context("cannot listen"))?;
    let (tell, told) = channel();
    thread::spawn(move || {
        let statuses = statuses.iter().chain(std::iter::repeat(&statuses[statuses.len() - 1]));
        for (stream, status) in listener.incoming().zip(statuses) {
            let Ok(body) = stream.map_err(Into::into).and_then(|stream| answer(stream, status)) else { return };
            if tell.send(body).is_err() {
                return;
            }
        }
    });
    Ok(told)
}

fn attack(lab: &Lab) -> Result<()> {
    let spec = FloodSpec::syn(Sources::InTurn("198.18.66.1".parse()?, 20), 9);
    Flood::new(lab, &spec)?.send_at(5000, Duration::from_secs(1)).map(drop)
}

fn config(notify: &str) -> String {
    format!("interfaces = [\"lab-server\"]\n[thresholds]\nhold = \"1s\"\n[notify]\n{notify}")
}

#[test]
fn command_and_webhook_are_told_of_start_and_end() -> Result<()> {
    let lab = Lab::new()?;
    let told = receiver(&lab, &["503 Service Unavailable", "200 OK"])?;
    let setup = Setup::new(&lab)?;
    let file = setup.file("told");
    let capabilities = setup.file("capabilities");
    let script =
        "cat >> FILE; echo >> FILE; grep -E 'Cap(Prm|Eff|Amb)' /proc/self/status > CAPS; echo $TCPGUARD_EVENT >> FILE";
    let script = script.replace("FILE", &file.to_string_lossy()).replace("CAPS", &capabilities.to_string_lossy());
    let command = format!("[\"/bin/sh\", \"-c\", \"{script}\"]");
    let _daemon =
        setup.config(&config(&format!("command = {command}\nwebhook = \"http://{WEBHOOK}/hook\"\n"))).start()?;
    attack(&lab)?;
    // The first attempt is rejected and retried.
    for (event, is_again) in [("attack_started", false), ("attack_started", true), ("attack_ended", false)] {
        let body = told.recv_timeout(PATIENCE).with_context(|| format!("{event}: no notification was received"))?;
        ensure!(body["event"] == event, "expected {event}, retried {is_again}: {body}");
        ensure!(body["message"].as_str().is_some_and(|text| !text.is_empty()) && body["host"].is_string(), "{body}");
        ensure!(body["left_out"] == 0 && body["id"].is_u64(), "{body}");
    }
    let lines = eventually(
        "the command was run for both events",
        || Ok(fs::read_to_string(&file).unwrap_or_default()),
        |text| text.lines().count() == 4,
    )?;
    let lines: Vec<&str> = lines.lines().collect();
    ensure!((lines[1], lines[3]) == ("attack_started", "attack_ended"), "{lines:?}");
    let body: Value = serde_json::from_str(lines[0])?;
    ensure!(body["event"] == "attack_started" && body["attack"].is_string(), "{body}");
    // It runs as root here, and has no capability nevertheless.
    let capabilities = fs::read_to_string(capabilities)?;
    let sets: Vec<&str> = capabilities.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    ensure!(sets == ["0000000000000000"; 3], "{capabilities}");
    Ok(())
}

#[test]
fn who_hangs_or_fails_holds_nobody_up() -> Result<()> {
    let lab = Lab::new()?;
    // The receiver's connections are established, but never answered.
    let listener = lab.server.within(|| TcpListener::bind(WEBHOOK).context("cannot listen"))?;
    let setup = Setup::new(&lab)?;
    let leftover = setup.file("leftover");
    let command = format!("[\"/bin/sh\", \"-c\", \"(sleep 3; touch {}) & sleep 60\"]", leftover.display());
    let daemon = setup
        .config(&config(&format!(
            "command = {command}\nwebhook = \"http://{WEBHOOK}/\"\ntimeout = \"1s\"\nretries = 1\n"
        )))
        .start()?;
    let start = Instant::now();
    attack(&lab)?;
    let events = eventually(
        "both failures are reported",
        || daemon.json("/events?limit=1000"),
        |events| failures(events).len() >= 2,
    )?;
    let failures = failures(&events);
    ensure!(
        failures.iter().any(|message| message.contains("command of [notify]") && message.contains("longer than")),
        "{failures:?}"
    );
    ensure!(
        failures.iter().any(|message| message.contains("webhook of [notify]") && message.contains("longer than")),
        "{failures:?}"
    );
    let stats = daemon.stats()?;
    let delay = stats.cost.longest_tick_delay_seconds;
    ensure!(delay < 0.1, "a tick was {delay} s late");
    thread::sleep(Duration::from_secs(5).saturating_sub(start.elapsed()));
    ensure!(!leftover.exists(), "a process that the command started outlived it");
    drop(listener);
    Ok(())
}

#[test]
fn a_webhook_that_hangs_does_not_hold_up_the_end() -> Result<()> {
    let lab = Lab::new()?;
    let listener = lab.server.within(|| TcpListener::bind(WEBHOOK).context("cannot listen"))?;
    let config = config(&format!("webhook = \"http://{WEBHOOK}/\"\ntimeout = \"1m\"\n"));
    let mut daemon = Setup::new(&lab)?.config(&config).start()?;
    attack(&lab)?;
    // The daemon sends its request, which is not answered.
    let (mut asking, _) = listener.accept()?;
    asking.read_exact(&mut [0; 4])?;
    let start = Instant::now();
    let status = daemon.end(Signal::SIGTERM)?;
    ensure!(status.success() && start.elapsed() < Duration::from_secs(2), "{status} after {:?}", start.elapsed());
    Ok(())
}

#[test]
fn a_command_that_fails_is_told_of_with_what_it_said() -> Result<()> {
    for (command, complaint) in [
        ("[\"/bin/sh\", \"-c\", \"echo no such pager >&2; exit 3\"]", "exit status: 3: no such pager"),
        ("[\"/nonexistent/pager\"]", "cannot be run: No such file"),
    ] {
        let lab = Lab::new()?;
        let daemon = Setup::new(&lab)?.config(&config(&format!("command = {command}\n"))).start()?;
        attack(&lab)?;
        let events = eventually(
            "the failure is reported",
            || daemon.json("/events?limit=1000"),
            |events| !failures(events).is_empty(),
        )?;
        ensure!(failures(&events)[0].contains(complaint), "{events}");
    }
    Ok(())
}

fn failures(events: &Value) -> Vec<String> {
    let failed = events.as_array().into_iter().flatten().filter(|event| event["kind"] == "notify_failed");
    failed.filter_map(|event| event["message"].as_str().map(str::to_owned)).collect()
}
