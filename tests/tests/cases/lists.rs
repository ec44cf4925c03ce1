//! The lists, changed by command, over HTTP and by file: what they do, over which interface they can be changed, and
//! which input they reject.

use std::{
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv4Addr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lab::{
    Client, Daemon, Finished, Flood, FloodSpec, Lab, Setup, Sources, daemon::tcpguard, eventually, http,
    network::SERVER_IPV4, server::Nginx, share_machine,
};
use serde_json::{Value, json};

struct Fixture {
    lab: Lab,
    daemon: Daemon,
    _nginx: Nginx,
}

fn fixture(config: &str) -> Result<Fixture> {
    let lab = Lab::new()?;
    let nginx = Nginx::start(&lab, &[80])?;
    let daemon = Setup::new(&lab)?.config(&format!("interfaces = [\"lab-server\"]\n{config}")).start()?;
    Ok(Fixture { lab, daemon, _nginx: nginx })
}

impl Fixture {
    fn command(&self, arguments: &[&str]) -> Result<Finished> {
        tcpguard(arguments, &self.daemon.socket())
    }

    fn done(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command(arguments)?;
        ensure!(output.status.success(), "{output}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn refused(&self, arguments: &[&str], code: i32, reason: &str) -> Result<()> {
        let output = self.command(arguments)?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(code), "{arguments:?}: {:?} {error}", output.status);
        ensure!(error.contains(reason), "{arguments:?}: {error}");
        Ok(())
    }

    fn send(&self, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
        http::exchange(self.daemon.connect()?, request(method, path, body).as_bytes())
    }

    fn networks(&self, list: &str) -> Result<Vec<String>> {
        let lists = self.daemon.json("/lists")?;
        let entries = lists[list].as_array().into_iter().flatten();
        Ok(entries.filter_map(|entry| entry["network"].as_str()).map(str::to_owned).collect())
    }

    /// Waits until the lab's client can connect, or until it cannot.
    fn is_let_in(&self, expected: bool) -> Result<()> {
        let client = Client::new(&self.lab);
        let look = || Ok(client.fetch((SERVER_IPV4, 80).into()).is_ok());
        eventually("the client can connect, or cannot", look, |let_in| *let_in == expected).map(drop)
    }
}

fn request(method: &str, path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

#[test]
fn who_is_denied_is_not_let_in_until_allowed() -> Result<()> {
    let fixture = fixture("")?;
    fixture.is_let_in(true)?;
    let text = fixture.done(&["block", "198.18.0.0/24", "--for", "1h", "--reason", "a test"])?;
    ensure!(text.starts_with("198.18.0.0/24 is on the deny list until 20"), "{text}");
    fixture.is_let_in(false)?;
    fixture.done(&["allow", "198.18.0.2"])?;
    fixture.is_let_in(true)?;
    let text = fixture.done(&["lists"])?;
    ensure!(text.contains("a test") && text.contains("198.18.0.2"), "{text}");
    fixture.done(&["disallow", "198.18.0.2"])?;
    fixture.is_let_in(false)?;
    fixture.done(&["unblock", "198.18.0.0/24"])?;
    fixture.is_let_in(true)?;
    let text = fixture.done(&["lists"])?;
    ensure!(text == "the lists are empty, and nobody is blocked\n", "{text}");
    let events = fixture.done(&["events"])?;
    ensure!(events.contains("198.18.0.0/24 was put on the deny list for 3600s: a test"), "{events}");
    Ok(())
}

#[test]
fn an_entry_ends_when_its_time_is_over() -> Result<()> {
    let fixture = fixture("")?;
    fixture.done(&["block", "198.18.0.2", "--for", "6s"])?;
    fixture.is_let_in(false)?;
    fixture.is_let_in(true)?;
    eventually("the entry has expired", || fixture.networks("deny"), Vec::is_empty).map(drop)
}

#[test]
fn a_block_by_judgement_can_be_lifted() -> Result<()> {
    let fixture = fixture("")?;
    let source = Ipv4Addr::new(198, 18, 1, 1);
    let mut flood = Flood::new(&fixture.lab, &FloodSpec::syn(Sources::InTurn(source.into(), 1), 9))?;
    flood.send_at(20_000, Duration::from_millis(500))?;
    eventually("the source is blocked", || fixture.networks("blocks"), |blocked| *blocked == [source.to_string()])?;
    let row = fixture.daemon.source("198.18.1.1")?.context("the source has no row")?;
    ensure!(row["blocked_until"].is_string(), "{row}");
    let text = fixture.done(&["unblock", "198.18.1.0/24"])?;
    ensure!(text.contains("1 blocks by judgement were lifted"), "{text}");
    let row = fixture.daemon.source("198.18.1.1")?.context("the source has no row")?;
    ensure!(row["blocked_until"].is_null(), "{row}");
    Ok(())
}

#[test]
fn bad_input_is_refused_and_changes_nothing() -> Result<()> {
    let fixture = fixture("")?;
    for (arguments, reason) in [
        (&["block", "198.18.0"][..], "is not a network"),
        (&["block", "198.18.0.0/33"], "is not a network"),
        (&["block", "0.0.0.0/0"], "--force"),
        (&["block", "::/0"], "--force"),
        (&["block", "128.0.0.0/1"], "--force"),
        (&["block", "198.18.0.2", "--for", "0s"], "a second to 366 days"),
        (&["block", "198.18.0.2", "--for", "400days"], "a second to 366 days"),
        (&["block", "198.18.0.2", "--for", "soon"], "10m"),
        (&["block"], "required"),
    ] {
        fixture.refused(arguments, 2, reason)?;
    }
    fixture.refused(&["unblock", "198.18.0.2"], 1, "198.18.0.2 is not on the deny list")?;
    for (body, reason) in [
        (json!({"network": "198.18.0.0/40"}).to_string(), "is not a network"),
        (json!({"network": "198.18.0.2", "for": 0}).to_string(), "a second to 366 days"),
        (json!({"network": "198.18.0.2", "for": "2years"}).to_string(), "a second to 366 days"),
        (json!({"network": "198.18.0.2", "for": -5}).to_string(), "not understood"),
        (json!({"network": "198.18.0.2", "reason": "x".repeat(201)}).to_string(), "200 characters"),
        (json!({"network": "0.0.0.0/0"}).to_string(), "force"),
        (json!({"nonsense": 1}).to_string(), "not understood"),
        ("{".to_owned(), "not understood"),
    ] {
        let (status, answer) = fixture.send("POST", "/lists/deny", &body)?;
        ensure!(status == 400 && answer.contains(reason), "{body}: {status} {answer}");
    }
    let (status, answer) = fixture.send("POST", "/lists/grey", r#"{"network": "198.18.0.2"}"#)?;
    ensure!(status == 404 && answer.contains("allow and deny"), "{status} {answer}");
    let (status, answer) = fixture.send("POST", "/lists/deny", &" ".repeat(70_000))?;
    ensure!(status == 413 && answer.contains("64 KiB"), "{status} {answer}");
    let (status, answer) = fixture.send("DELETE", "/lists/deny", "")?;
    ensure!(status == 400 && answer.contains("which network"), "{status} {answer}");
    ensure!(fixture.networks("deny")?.is_empty(), "{:?}", fixture.networks("deny")?);
    fixture.is_let_in(true)
}

#[test]
fn over_tcp_one_can_only_read() -> Result<()> {
    let fixture = fixture("")?;
    let send = |method: &str, path: &str, body: &str| {
        let stream = fixture.lab.server.within(|| TcpStream::connect("127.0.0.1:9477").context("no TCP"))?;
        http::exchange(stream, request(method, path, body).as_bytes())
    };
    for (method, path, body) in [
        ("POST", "/lists/deny", r#"{"network": "198.18.0.2"}"#.to_owned()),
        ("POST", "/lists/grey", String::new()),
        ("POST", "/lists/allow", " ".repeat(70_000)),
        ("DELETE", "/lists/deny?network=198.18.0.2", String::new()),
    ] {
        let (status, answer) = send(method, path, &body)?;
        ensure!(status == 403 && answer.contains("Unix socket"), "{method} {path}: {status} {answer}");
    }
    let (status, _) = send("GET", "/lists", "")?;
    ensure!(status == 200, "{status}");
    ensure!(fixture.networks("deny")?.is_empty(), "a list was changed");
    Ok(())
}

#[test]
fn everybody_is_shut_out_only_if_insisted_on_and_never_who_is_allowed() -> Result<()> {
    let fixture = fixture("[lists]\nallow = [\"198.18.0.0/24\"]")?;
    fixture.done(&["block", "0.0.0.0/0", "--force"])?;
    std::thread::sleep(Duration::from_millis(300));
    fixture.is_let_in(true)?;
    let outsider: IpAddr = Ipv4Addr::new(198, 18, 7, 7).into();
    fixture.lab.add_client_address(outsider)?;
    ensure!(
        Client::new(&fixture.lab).from(outsider).fetch((SERVER_IPV4, 80).into()).is_err(),
        "a source that is not allowed was let in"
    );
    // A command cannot remove an entry of the configuration.
    fixture.refused(&["disallow", "198.18.0.0/24"], 1, "by configuration")
}

#[test]
fn files_are_read_again_when_they_change_and_bad_lines_told_of() -> Result<()> {
    let lab = Lab::new()?;
    let nginx = Nginx::start(&lab, &[80])?;
    let setup = Setup::new(&lab)?;
    let file = setup.file("deny.txt");
    fs::write(&file, "# bad ones\n203.0.113.77/24\nnonsense\n198.51.100.0/24 # inside\n198.51.0.0/16\n0.0.0.0/0\n")?;
    let config =
        format!("interfaces = [\"lab-server\"]\n[lists]\ndeny_files = [\"{}\", \"/no/such/file\"]", file.display());
    let daemon = setup.config(&config).start()?;
    let fixture = Fixture { lab, daemon, _nginx: nginx };
    let expected = ["198.51.0.0/16", "198.51.100.0/24", "203.0.113.0/24"];
    eventually("the file is read", || fixture.networks("deny"), |networks| *networks == expected)?;
    let problems = fixture.daemon.json("/events?limit=100")?.to_string();
    for line in [
        "deny.txt:3: \\\"nonsense\\\" is not a network",
        "deny.txt:6: 0.0.0.0/0 would shut out",
        "/no/such/file cannot be read",
    ] {
        ensure!(problems.contains(line), "{line}: {problems}");
    }
    fixture.is_let_in(true)?;
    fs::write(&file, "198.18.0.2\n")?;
    fixture.is_let_in(false)?;
    ensure!(fixture.networks("deny")? == ["198.18.0.2"], "{:?}", fixture.networks("deny")?);
    // When a file is removed, its entries remain in force.
    fs::remove_file(&file)?;
    eventually(
        "the missing file is reported",
        || fixture.daemon.json("/events?limit=100"),
        |events| events.to_string().contains("what it said before holds"),
    )?;
    ensure!(fixture.networks("deny")? == ["198.18.0.2"], "{:?}", fixture.networks("deny")?);
    fixture.refused(&["unblock", "198.18.0.2"], 1, "by file")?;
    fs::write(&file, "")?;
    fixture.is_let_in(true)
}

#[test]
#[ignore = "takes a minute: `cargo xtask test` runs it in parallel with other tests"]
fn a_hundred_thousand_blocks_in_a_row_are_all_kept() -> Result<()> {
    share_machine();
    let fixture = fixture("")?;
    let mut stream = fixture.daemon.connect()?;
    let mut text = String::new();
    const BLOCKS: u32 = 100_000;
    let begun = Instant::now();
    // One connection, without delays between requests.
    for n in 0..BLOCKS {
        let network = Ipv4Addr::from(0x2000_0000 + 7 * n);
        let body = json!({"network": network.to_string(), "for": "1h"}).to_string();
        text.clear();
        write!(text, "POST /lists/deny HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
        http::exchange_kept_alive(&mut stream, text.as_bytes()).map(|status| {
            ensure!(status == 201, "block {n}: {status}");
            Ok(())
        })??;
    }
    ensure!(fixture.networks("deny")?.len() == BLOCKS as usize, "{} are listed", fixture.networks("deny")?.len());
    let status = fs::read_to_string(format!("/proc/{}/status", fixture.daemon.id()))?;
    let resident =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS in the process status")?;
    let kib: u64 = resident.trim().trim_end_matches(" kB").parse()?;
    ensure!(kib < 256 * 1024, "the daemon uses {kib} KiB of memory");
    // Many changes must not cause as many events: fifty at once and five per second, and every ten seconds the number
    // of those omitted.
    let events = fixture.daemon.json("/events?limit=10000")?;
    let told = events.as_array().map_or(0, Vec::len) as u64;
    let most = 60 + 6 * begun.elapsed().as_secs();
    ensure!(told <= most, "{told} events, more than {most}");
    fixture.is_let_in(true)
}

#[test]
fn events_can_be_followed() -> Result<()> {
    use std::io::{BufRead, BufReader};
    let fixture = fixture("")?;
    let mut follower = std::process::Command::new(lab::build::binary()?)
        .args(["events", "--follow", "--json", "--limit", "0", "--socket"])
        .arg(fixture.daemon.socket())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .context("cannot run tcpguard events --follow")?;
    let lines = BufReader::new(follower.stdout.take().context("no standard output")?).lines();
    let (told, heard) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || lines.map_while(Result::ok).all(|line| told.send(line).is_ok()));
    fixture.done(&["block", "203.0.113.9"])?;
    let line = loop {
        let line = heard.recv_timeout(Duration::from_secs(5)).context("the event was not reported")?;
        if line.contains("203.0.113.9") {
            break line;
        }
    };
    let event: Value = serde_json::from_str(&line)?;
    ensure!(event["kind"] == "list_changed" && event["subject"] == "203.0.113.9", "{event}");
    follower.kill()?;
    follower.wait()?;
    drop(heard);
    reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?;

    let all = fixture.daemon.json("/events")?;
    let last = all.as_array().and_then(|events| events.last()).cloned().expect("an event");
    let id = last["id"].as_u64().unwrap_or(0);
    let since = fixture.daemon.json(&format!("/events?since={}", id - 1))?;
    ensure!(since == json!([last]), "{since}");
    let (status, answer) = fixture.daemon.get("/events?since=yesterday")?;
    ensure!(status == 400 && answer.contains("neither an event's id nor a time"), "{status} {answer}");
    let (status, answer) = fixture.daemon.get("/events?limit=100000")?;
    ensure!(status == 400 && answer.contains("at most"), "{status} {answer}");
    Ok(())
}

#[test]
fn what_is_answered_for_holds_for_the_next_packet() -> Result<()> {
    const ROUNDS: u64 = 10;
    let lab = Lab::new()?;
    let daemon = Setup::new(&lab)?.start()?;
    let mut flood = Flood::new(&lab, &FloodSpec::one_source(9))?;
    for _ in 0..ROUNDS {
        ensure!(daemon.tcpguard(&["block", "198.18.1.1"])?.status.success());
        flood.send(5)?;
        ensure!(daemon.tcpguard(&["unblock", "198.18.1.1"])?.status.success());
        flood.send(3)?;
    }
    daemon
        .stats_when("only SYNs sent while the source was listed are dropped", |stats| {
            stats.totals.syn == ROUNDS * 8 && stats.drops["denied"] == ROUNDS * 5
        })
        .map(drop)
}
