//! What is meant to keep the daemon busy: readers, events, files, disks and descriptors. Guarding goes on.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
    sync::atomic::{AtomicBool, Ordering},
    thread::{self, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lab::{
    Client, Daemon, Lab, Setup, eventually, http,
    network::{SERVER_INTERFACE, SERVER_IPV4},
    said,
    server::Nginx,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tcpguard::api::model::Stats;

const HTTP: &str = "127.0.0.1:9477";
const STREAMS: usize = 256;

fn guarding(sections: &str) -> String {
    format!("interfaces = [\"{SERVER_INTERFACE}\"]\n{sections}")
}

fn ask(lab: &Lab, path: &str) -> Result<(u16, String)> {
    lab.server.within(|| http::get(TcpStream::connect(HTTP).context("the daemon does not listen")?, path))
}

/// Opens a stream and returns it with the beginning of the response.
fn follow(lab: &Lab) -> Result<(TcpStream, String)> {
    let mut stream = lab.server.within(|| TcpStream::connect(HTTP).context("the daemon does not listen"))?;
    stream.write_all(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n").context("cannot ask for the stream")?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).context("no response")?;
    Ok((stream, String::from_utf8_lossy(&head).into_owned()))
}

/// Fails on a tcpguard whose streams may take up all connections: the probe gets no answer.
#[test]
fn a_crowd_of_readers_leaves_room_for_a_health_probe() -> Result<()> {
    let lab = Lab::new()?;
    let daemon = Setup::new(&lab)?.config(&guarding("")).start()?;
    let mut streams = Vec::new();
    for number in 0..STREAMS {
        let (stream, head) = follow(&lab)?;
        ensure!(head == "HTTP/1.1 200", "stream {number}: {head}");
        streams.push(stream);
    }
    let (_, refused) = follow(&lab)?;
    ensure!(refused == "HTTP/1.1 503", "one stream more: {refused}");
    for _ in 0..30 {
        let start = Instant::now();
        let (status, text) = ask(&lab, "/healthz")?;
        ensure!(
            status == 200 && start.elapsed() < Duration::from_millis(500),
            "{status} after {:?}: {text}",
            start.elapsed()
        );
        sleep(Duration::from_millis(50));
    }
    drop(streams);
    let follows_again = || Ok(follow(&lab)?.1);
    eventually("there is room again", follows_again, |head| head == "HTTP/1.1 200")?;
    ensure!(daemon.stats()?.cost.longest_tick_delay_seconds < 1.0, "{:?}", daemon.stats()?.cost);
    Ok(())
}

/// Fails on a tcpguard that accepts connections until it has no descriptor left: it cannot read the kernel's counters then.
#[test]
fn connections_do_not_use_up_the_descriptors() -> Result<()> {
    let lab = Lab::new()?;
    let daemon = Setup::new(&lab)?.config(&guarding("")).after("ulimit -n 300").start()?;
    let administrator = daemon.connect()?;
    let (mut idle, mut local) = (Vec::new(), Vec::new());
    for _ in 0..300 {
        idle.push(lab.server.within(|| TcpStream::connect(HTTP).context("the daemon does not listen"))?);
        local.extend(UnixStream::connect(daemon.socket()));
    }
    let before = daemon.log()?;
    sleep(Duration::from_secs(2));
    drop((administrator, idle, local));
    let stats = eventually("it answers", || Ok(daemon.stats().ok()), Option::is_some)?.context("no answer")?;
    ensure!(stats.features["kernel_view"].available, "{:?}", stats.features);
    let log = daemon.log()?;
    ensure!(before.contains("files may be open"), "{before}");
    ensure!(!log.contains("no snapshot") && !log.contains("Too many open files"), "{log}");
    Ok(())
}

/// Opens and closes listeners, each of which is an event, until the ring has no room for more.
#[test]
fn a_full_ring_of_events_loses_events_and_nothing_else() -> Result<()> {
    let lab = Lab::new()?;
    let daemon = Setup::new(&lab)?.config(&guarding("")).start()?;
    let process = Pid::from_raw(i32::try_from(daemon.id())?);
    kill(process, Signal::SIGSTOP).context("cannot stop the daemon")?;
    let listeners = lab.server.within(|| {
        // Not the same port at once: a process that another test starts at that moment has the last listener still open.
        for port in (8000..9000).cycle().take(3000) {
            drop(TcpListener::bind((SERVER_IPV4, port)).context("cannot listen")?);
        }
        Ok(())
    });
    let nginx = Nginx::start(&lab, &[80]);
    kill(process, Signal::SIGCONT).context("cannot continue the daemon")?;
    listeners?;
    let _nginx = nginx?;
    Client::new(&lab).fetch((SERVER_IPV4, 80).into())?;
    let is_right = |stats: &Stats| {
        let port = stats.ports.iter().find(|port| port.port == 80);
        stats.tracking.events_lost > 0 && port.is_some_and(|port| port.completed == 1 && port.backlog > 0)
    };
    daemon.stats_when("the listener is known although its event was lost", is_right).map(drop)
}

/// Fails on a tcpguard that reads a file whenever it changes: it reads half of it, and what that does not list is let in.
#[test]
fn a_list_that_is_written_all_the_time_stays_in_force() -> Result<()> {
    let lab = Lab::new()?;
    let setup = Setup::new(&lab)?;
    let file = setup.file("deny.txt");
    let mut text: String = (0..20_000u32).map(|n| format!("10.{}.{}.{}\n", n >> 16, n >> 8 & 255, n & 255)).collect();
    text.push_str("203.0.113.77\n");
    fs::write(&file, &text)?;
    let daemon = setup.config(&guarding(&format!("[lists]\ndeny_files = [\"{}\"]", file.display()))).start()?;
    let is_denied = || -> Result<bool> {
        let why = daemon.json("/sources/203.0.113.77")?;
        Ok(why["lists"].to_string().contains("deny"))
    };
    eventually("the file is read", is_denied, |is_denied| *is_denied)?;
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let writer = scope.spawn(|| -> Result<u32> {
            let mut written = 0;
            while !is_over.load(Ordering::Relaxed) {
                fs::write(&file, &text)?;
                written += 1;
                sleep(Duration::from_millis(20));
            }
            Ok(written)
        });
        let start = Instant::now();
        let mut problem = Ok(());
        while start.elapsed() < Duration::from_secs(7) && problem.is_ok() {
            problem = is_denied().and_then(|is_denied| {
                ensure!(is_denied, "the last network is let in after {:?}", start.elapsed());
                Ok(())
            });
            sleep(Duration::from_millis(20));
        }
        is_over.store(true, Ordering::Relaxed);
        let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        ensure!(written > 100, "the file was written only {written} times");
        problem
    })?;
    fs::write(&file, "203.0.113.78\n")?;
    eventually("the last contents are in force", is_denied, |is_denied| !is_denied)?;
    ensure!(daemon.stats()?.cost.longest_tick_delay_seconds < 1.0, "{:?}", daemon.stats()?.cost);
    Ok(())
}

/// Fails on a tcpguard that waits for its store: the command does not return, nor does the daemon end.
#[test]
fn a_disk_that_hangs_costs_the_memory_of_it_and_nothing_else() -> Result<()> {
    for (step, sentence) in
        [("writing to the store", "may not survive a restart"), ("opening the store", "will not survive a restart")]
    {
        let lab = Lab::new()?;
        let start = Instant::now();
        let setup = Setup::new(&lab)?.config(&guarding("")).environment("TCPGUARD_HANG_AT", step);
        let mut daemon = setup.start()?;
        ensure!(start.elapsed() < Duration::from_secs(8), "{step}: the start took {:?}", start.elapsed());
        let asked = Instant::now();
        let blocked = daemon.tcpguard(&["block", "198.18.0.2"])?;
        ensure!(blocked.status.success() && asked.elapsed() < Duration::from_secs(4), "{step}: {}", said(&blocked));
        is_guarded(&lab, &daemon)?;
        eventually("the fault is reported", || daemon.log(), |log| log.contains(sentence))?;
        let asked = Instant::now();
        ensure!(daemon.end(Signal::SIGTERM)?.success(), "{step}: it did not end well");
        ensure!(asked.elapsed() < Duration::from_secs(8), "{step}: the end took {:?}", asked.elapsed());
    }
    Ok(())
}

/// Checks that the client's SYN is dropped, as its network is denied.
fn is_guarded(lab: &Lab, daemon: &Daemon) -> Result<()> {
    let _nginx = Nginx::start(lab, &[80])?;
    ensure!(Client::new(lab).connect((SERVER_IPV4, 80).into()).is_err(), "the denied client was let in");
    daemon.stats_when("the drop is counted", |stats| stats.drops["denied"] > 0).map(drop)
}
