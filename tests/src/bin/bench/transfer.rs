//! The throughput of a connection established through a cookie, compared with a normal one.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use lab::{
    Client, Daemon, Lab, Setup,
    network::{SERVER_INTERFACE, SERVER_IPV4},
    server,
};

use super::Effort;

const PORT: u16 = 443;

struct Host {
    lab: Lab,
    listener: TcpListener,
    daemon: Daemon,
}

impl Host {
    fn new(mode: &str) -> Result<Self> {
        let lab = Lab::new()?;
        let listener = server::listen(&lab.server, SERVER_IPV4.into(), PORT)?;
        let config = format!("interfaces = [\"{SERVER_INTERFACE}\"]\n[challenge]\nmode = \"{mode}\"\n");
        let daemon = Setup::new(&lab)?.config(&config).start()?;
        if mode == "always" {
            daemon.stats_when("the port is challenged", |stats| {
                stats.measures.challenge.ports.first().is_some_and(|port| port.method == "cookie")
            })?;
        }
        Ok(Self { lab, listener, daemon })
    }

    /// Returns the bytes per second, down and up, of a connection from an address that has not connected before.
    fn speeds(&self, run: u8, bytes: usize) -> Result<[f64; 2]> {
        let address = IpAddr::from([198, 18, 210, run + 1]);
        self.lab.add_client_address(address)?;
        let mut client = Client::new(&self.lab).from(address).connect(SocketAddr::from((SERVER_IPV4, PORT)))?;
        let (mut server, _) = self.listener.accept().context("cannot accept the connection")?;
        Ok([carry(&mut server, &mut client, bytes)?, carry(&mut client, &mut server, bytes)?])
    }
}

fn carry(from: &mut TcpStream, to: &mut TcpStream, bytes: usize) -> Result<f64> {
    let started = Instant::now();
    thread::scope(|scope| {
        let sender = scope.spawn(|| from.write_all(&vec![0x55; bytes]));
        let mut buffer = vec![0; 1 << 18];
        let mut left = bytes;
        to.set_read_timeout(Some(Duration::from_secs(20))).context("cannot set a timeout")?;
        while left > 0 {
            let read = to.read(&mut buffer).context("cannot read from the connection")?;
            ensure!(read > 0, "the connection ended early");
            left -= read;
        }
        sender.join().map_err(|_| anyhow!("the sender panicked"))?.context("cannot send")
    })?;
    Ok(bytes as f64 / started.elapsed().as_secs_f64())
}

pub fn compare(effort: &Effort) -> Result<()> {
    let (normal, by_cookie) = (Host::new("never")?, Host::new("always")?);
    let mut best = [[0.0f64; 2]; 2];
    for run in 0..effort.rounds as u8 {
        for (host, best) in [&normal, &by_cookie].into_iter().zip(&mut best) {
            for (best, speed) in best.iter_mut().zip(host.speeds(run, effort.transfer)?) {
                *best = best.max(speed);
            }
        }
    }
    // The daemon reads the counters with each tick.
    by_cookie.daemon.stats_when("every connection was established through a cookie", |stats| {
        stats.totals.challenged >= effort.rounds as u64
    })?;
    println!(
        "\n{} MB over a connection established through a cookie, compared with a normal one",
        effort.transfer / 1_000_000
    );
    for (index, direction) in ["down", "up"].into_iter().enumerate() {
        let ratio = best[1][index] / best[0][index];
        println!(
            "{direction:<36} {:>12.2} of {:.2} GB/s, ratio {ratio:.2} (limit 0.95)",
            best[1][index] / 1e9,
            best[0][index] / 1e9
        );
    }
    Ok(())
}
