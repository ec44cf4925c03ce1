//! The HTTP interface: security headers, access checks, and behaviour with many clients.

use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
    process::Command,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lab::{
    Client, Daemon, FloodSpec, Lab, Namespace, Scene, Setup, Sources, bridge::Bridge, http, oracle::stolen_seconds,
    scene::WEB, share_machine,
};
use xtask::bpf::toolchain::target_folder;

const HTTP: &str = "127.0.0.1:9477";

/// Sends a request over TCP, as a browser on the server would, and returns the head, in lower case, and the body.
fn ask(namespace: &Namespace, request: &str) -> Result<(String, String)> {
    let mut stream = namespace.within(|| TcpStream::connect(HTTP).context("the daemon does not listen"))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("not an HTTP response: {answer:?}"))?;
    Ok((head.to_ascii_lowercase(), body.to_owned()))
}

fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n")
}

#[test]
fn every_answer_has_the_headers_that_it_should() -> Result<()> {
    let lab = Lab::new()?;
    let _daemon = Setup::new(&lab)?.start()?;
    let paths =
        ["/", "/assets/app.js", "/assets/app.css", "/stats", "/metrics", "/openapi.json", "/nothing", "/sources/x"];
    for path in paths {
        let (head, _) = ask(&lab.server, &get(path, "Host: localhost\r\n"))?;
        for header in [
            "x-content-type-options: nosniff",
            "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';",
            "x-frame-options: deny",
            "referrer-policy: no-referrer",
            "cross-origin-resource-policy: same-origin",
            "cache-control: no-store",
        ] {
            ensure!(head.contains(header), "{path} has no {header}: {head}");
        }
        ensure!(head.contains("content-type: ") && !head.contains("access-control-allow"), "{path}: {head}");
    }
    let (head, body) = ask(&lab.server, "PUT /stats HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    ensure!(head.starts_with("http/1.1 405") && head.contains("allow: get"), "{head}");
    ensure!(body.contains("\"error\""), "{body}");
    Ok(())
}

#[test]
fn pages_of_others_cannot_read_or_drive_it() -> Result<()> {
    let lab = Lab::new()?;
    let setup = Setup::new(&lab)?;
    let (socket, store) = (setup.socket(), setup.store());
    let daemon = setup
        .whole_config(&format!(
            "interfaces = [\"lab-server\"]\n[listen]\nsocket = \"{}\"\nhosts = [\"guard.example\"]\n[store]\npath = \"{}\"\n",
            socket.display(),
            store.display()
        ))
        .start()?;
    for (headers, status) in [
        ("Host: 127.0.0.1:9477\r\n", 200),
        ("Host: [::1]:9477\r\n", 200),
        ("Host: localhost\r\n", 200),
        ("Host: guard.example\r\n", 200),
        ("Host: guard.example:443\r\nOrigin: https://guard.example:443\r\n", 200),
        ("Host: 127.0.0.1:9477\r\nOrigin: http://127.0.0.1:9477\r\n", 200),
        // DNS rebinding, and pages of other origins.
        ("Host: evil.example:9477\r\n", 403),
        ("Host: 127.0.0.1:9477\r\nOrigin: http://evil.example\r\n", 403),
        ("Host: 127.0.0.1:9477\r\nOrigin: null\r\n", 403),
        ("Host: evil.example\r\nOrigin: http://evil.example\r\n", 403),
    ] {
        for path in ["/", "/stats", "/metrics", "/events"] {
            let (head, _) = ask(&lab.server, &get(path, headers))?;
            ensure!(head.starts_with(&format!("http/1.1 {status}")), "{path} with {headers:?}: {head}");
        }
    }
    // Over TCP nothing can be changed, whatever the request looks like.
    let body = r#"{"network": "198.51.100.0/24"}"#;
    for headers in
        ["Content-Type: text/plain\r\n", "Content-Type: application/json\r\nOrigin: http://127.0.0.1:9477\r\n"]
    {
        let request = format!(
            "POST /lists/deny HTTP/1.1\r\nHost: 127.0.0.1:9477\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let (head, _) = ask(&lab.server, &request)?;
        ensure!(head.starts_with("http/1.1 403"), "{head}");
    }
    ensure!(daemon.json("/lists")?["deny"].as_array().is_some_and(Vec::is_empty), "a list was changed");
    Ok(())
}

/// Number of clients that follow `/live`.
const FOLLOWERS: usize = 100;
/// Number of followers that read nothing, or a byte at a time.
const SLOW: usize = 40;
const REQUESTS_PER_SECOND: u32 = 1000;
const ASKERS: u32 = 4;
const CROWD_LASTS: Duration = Duration::from_secs(10);
/// Maximum delay of a tick, in seconds.
const LATEST_TICK: f64 = 0.1;
const MAX_GROWTH_KIB: u64 = 16 * 1024;

#[test]
fn a_crowd_that_looks_on_is_borne_in_a_flood() -> Result<()> {
    let scene = Scene::new("")?;
    let before = scene.daemon.resident_kib()?;
    let stolen_before = stolen_seconds()?;
    let is_over = AtomicBool::new(false);
    let answered = AtomicU32::new(0);
    let heard = AtomicU32::new(0);
    let start = Instant::now();
    let (client, stats, memory) = thread::scope(|scope| -> Result<_> {
        let (is_over, answered, heard, scene) = (&is_over, &answered, &heard, &scene);
        let followers = scope.spawn(move || follow_all(&scene.lab.server, is_over, heard));
        let askers: Vec<_> =
            (0..ASKERS).map(|_| scope.spawn(move || ask_often(&scene.daemon, is_over, answered))).collect();
        let heavy: Vec<_> = ["/sources?limit=100000", "/half-open", "/lists", "/events?limit=10000", "/metrics"]
            .map(|path| scope.spawn(move || ask_heavily(&scene.daemon, path, is_over)))
            .into();
        let client = scope.spawn(move || Client::new(&scene.lab).run(WEB, 100, CROWD_LASTS, || true));
        let flood =
            scope.spawn(move || scene.flood(&FloodSpec::syn(Sources::RANDOM_IPV4, 80))?.send_at(400_000, CROWD_LASTS));
        let client = client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let (stats, memory) = (scene.daemon.stats()?, scene.daemon.resident_kib()?);
        is_over.store(true, Ordering::Relaxed);
        flood.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        for asker in heavy {
            let answers = asker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            ensure!(answers > 0, "an expensive request was never answered");
        }
        for asker in askers {
            asker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        followers.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok((client, stats, memory))
    })?;
    let wanted = REQUESTS_PER_SECOND * CROWD_LASTS.as_secs() as u32;
    let (answered, heard) = (answered.into_inner(), heard.into_inner());
    let (delay, stolen) = (stats.cost.longest_tick_delay_seconds, stolen_seconds()? - stolen_before);
    println!(
        "{answered} responses, {heard} messages, ticks up to {delay:.3} s late, {stolen:.2} s stolen, memory {before} to \
         {memory} KiB, client {:.3}",
        client.share()
    );
    // The processors were not ours for the time that was stolen.
    let processors = thread::available_parallelism().map_or(1, usize::from) as f64;
    let ours = 1.0 - stolen / (processors * start.elapsed().as_secs_f64());
    ensure!(
        f64::from(answered) >= f64::from(wanted) * 0.9 * ours,
        "only {answered} of {wanted} requests were answered in {:?}, {stolen:.2} s of it stolen",
        start.elapsed()
    );
    ensure!(heard as usize >= (FOLLOWERS - SLOW) * 8, "only {heard} messages were received");
    ensure!(delay <= LATEST_TICK + stolen, "a tick was {delay} s late, {stolen} s of it stolen at most");
    ensure!(memory < before + MAX_GROWTH_KIB, "memory grew from {before} to {memory} KiB");
    ensure!(client.share() >= 0.99, "only {:.3} of the client's connections were served", client.share());
    Ok(())
}

/// Follows `/live` over many connections, some of which hardly read, and counts the messages received.
fn follow_all(namespace: &Namespace, is_over: &AtomicBool, heard: &AtomicU32) -> Result<()> {
    let mut streams = Vec::new();
    for _ in 0..FOLLOWERS {
        let mut stream = namespace.within(|| TcpStream::connect(HTTP).context("the daemon does not listen"))?;
        stream.write_all(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        stream.set_nonblocking(true)?;
        streams.push(stream);
    }
    let mut chunk = vec![0; 256 * 1024];
    while !is_over.load(Ordering::Relaxed) {
        for (index, stream) in streams.iter_mut().enumerate() {
            let share = if index < SLOW { &mut chunk[..index % 2] } else { &mut chunk[..] };
            match stream.read(share) {
                Ok(read) => {
                    let messages = String::from_utf8_lossy(&share[..read]).matches("event: stats").count();
                    heard.fetch_add(messages as u32, Ordering::Relaxed);
                }
                Err(error) => ensure!(error.kind() == ErrorKind::WouldBlock, "a follower was disconnected: {error}"),
            }
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Requests `/stats` repeatedly over one connection, at its share of [`REQUESTS_PER_SECOND`].
fn ask_often(daemon: &Daemon, is_over: &AtomicBool, answered: &AtomicU32) -> Result<()> {
    let mut stream = daemon.connect()?;
    let start = Instant::now();
    let mut asked = 0;
    while !is_over.load(Ordering::Relaxed) {
        let status = http::exchange_kept_alive(&mut stream, b"GET /stats HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        ensure!(status == 200, "{status}");
        answered.fetch_add(1, Ordering::Relaxed);
        asked += 1;
        let due = Duration::from_secs(1) * ASKERS / REQUESTS_PER_SECOND * asked;
        thread::sleep(due.saturating_sub(start.elapsed()));
    }
    Ok(())
}

fn schemathesis(namespace: &Namespace, address: &str) -> Result<()> {
    let program = target_folder().join("venv/bin/schemathesis");
    let folder = tempfile::tempdir()?;
    let mut command: Command = namespace.command(&program);
    let output = command
        .current_dir(folder.path())
        .args(["run", &format!("http://{address}/openapi.json"), "--seed", "1", "--max-examples", "40", "--no-color"])
        .args(["--continue-on-failure", "--suppress-health-check", "all"])
        .output()
        .with_context(|| format!("cannot run {}: `cargo xtask test` installs it", program.display()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let tail: Vec<&str> = said.lines().rev().take(300).collect();
    ensure!(output.status.success(), "{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
    Ok(())
}

/// Requests `path`, which is expensive, repeatedly without a pause, and returns the number of responses.
fn ask_heavily(daemon: &Daemon, path: &str, is_over: &AtomicBool) -> Result<u32> {
    let mut answers = 0;
    while !is_over.load(Ordering::Relaxed) {
        let (status, _) = daemon.get(path)?;
        ensure!(status == 200, "{path}: {status}");
        answers += 1;
    }
    Ok(answers)
}

#[test]
#[ignore = "takes a minute: `cargo xtask test` runs it in parallel with other tests"]
fn it_does_as_its_description_says() -> Result<()> {
    share_machine();
    let lab = Lab::new()?;
    let daemon = Setup::new(&lab)?.start()?;
    schemathesis(&lab.server, HTTP)?;
    // The same over the Unix socket, which permits changes.
    let listener = lab.server.within(|| TcpListener::bind("127.0.0.1:9500").context("cannot listen"))?;
    let socket = daemon.socket();
    let _bridge = Bridge::start(listener, move || Ok(UnixStream::connect(&socket)?))?;
    schemathesis(&lab.server, "127.0.0.1:9500")
}
