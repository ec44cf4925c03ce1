//! Clients whose handshakes complete are no attack, whatever their number and distance.

use std::{
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use lab::{
    Client, Daemon, DistantClients, FarClient, Flood, FloodSpec, Lab, Path, Served, Setup, Sources, Stats,
    network::{SECOND_CLIENT_INTERFACE, SECOND_SERVER_INTERFACE, SERVER_INTERFACE, SERVER_IPV4},
    server::{self, Aborting},
    share_machine,
};
use nix::sys::signal::Signal;

/// Clients that open connections to a guarded server for a while.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub clients: DistantClients,
    pub per_second: u32,
    pub lasts: Duration,
    /// The backlog of the server's listener.
    pub backlog: i32,
}

const SETTINGS: [&str; 3] = ["net.ipv4.tcp_syncookies", "net.ipv4.tcp_synack_retries", "net.ipv4.tcp_timestamps"];
/// A backlog that no row fills.
const AMPLE: i32 = 32_768;

impl Row {
    /// This many clients from 198.18.128.1 on, at a round-trip time in milliseconds.
    pub fn new(count: u32, round_trip: u64, per_second: u32, seconds: u64) -> Self {
        let path = Path::milliseconds(round_trip);
        let clients = DistantClients { first: [198, 18, 128, 1].into(), count, path, abandoned_one_in: 0, port: 80 };
        Self { clients, per_second, lasts: Duration::from_secs(seconds), backlog: AMPLE }
    }

    /// The same with 3 % of the packets lost in each direction.
    pub fn with_loss(self) -> Self {
        let path = Path { loss_one_in: 33, ..self.clients.path };
        Self { clients: DistantClients { path, ..self.clients }, ..self }
    }

    /// The same with one handshake in a hundred abandoned.
    pub fn with_abandoned(self) -> Self {
        Self { clients: DistantClients { abandoned_one_in: 100, ..self.clients }, ..self }
    }

    /// Runs the clients without a daemon.
    pub fn unguarded(&self) -> Result<Served> {
        let lab = Lab::new()?;
        let _server = Aborting::start(&lab, self.clients.port, self.backlog)?;
        self.clients.run(&lab, self.per_second, self.lasts)
    }

    /// Checks that the clients are served, the host stays calm and no setting is changed.
    pub fn stays_calm(&self) -> Result<Served> {
        self.stays_calm_through(|_, _| Ok(()))
    }

    /// Checks the same while `disturb` is called again and again, with the time since the clients began.
    fn stays_calm_through(&self, mut disturb: impl FnMut(&mut Daemon, Duration) -> Result<()>) -> Result<Served> {
        let lab = Lab::new()?;
        let _server = Aborting::start(&lab, self.clients.port, self.backlog)?;
        let mut daemon = Setup::new(&lab)?.argument("--hand-over").start()?;
        let read = || SETTINGS.iter().map(|name| lab.server.setting(name)).collect::<Result<Vec<_>>>();
        let before = read()?;
        let start = Instant::now();
        let served = thread::scope(|scope| -> Result<_> {
            let run = scope.spawn(|| self.clients.run(&lab, self.per_second, self.lasts));
            while !run.is_finished() {
                let stats: Stats = daemon.stats()?;
                ensure!(stats.state == "calm", "{self:?}: after {:?}: {:?}", start.elapsed(), stats.attack);
                ensure!(read()? == before, "{self:?}: {:?} instead of {before:?}", read()?);
                disturb(&mut daemon, start.elapsed())?;
                thread::sleep(Duration::from_millis(50));
            }
            run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        let stats = daemon.stats()?;
        println!(
            "{self:?}: {:.5} of {} served, p99 {:?}; half open {:?}",
            served.share(),
            served.tried,
            served.quantile(0.99),
            stats.half_open
        );
        ensure!(stats.totals.dropped == 0 && stats.totals.challenged == 0, "{self:?}: {:?}", stats.totals);
        // Where packets are lost, three SYNs in a row may be.
        let least = if self.clients.path.loss_one_in == 0 { 1.0 } else { 0.999 };
        ensure!(served.share() >= least, "{self:?}: {:.5} of {} were served", served.share(), served.tried);
        Ok(served)
    }
}

#[test]
fn five_thousand_connections_a_second_at_150_ms_are_no_attack() -> Result<()> {
    Row::new(3000, 150, 5000, 6).stays_calm().map(drop)
}

#[test]
fn nor_with_lost_packets() -> Result<()> {
    Row::new(3000, 150, 5000, 6).with_loss().stays_calm().map(drop)
}

#[test]
fn nor_across_a_reload_and_a_restart() -> Result<()> {
    let mut done = [false; 2];
    let row = Row::new(3000, 150, 5000, 10);
    let served = row.stays_calm_through(|daemon, since| {
        if since > Duration::from_secs(3) && !std::mem::replace(&mut done[0], true) {
            daemon.set_config(&format!("interfaces = [\"{SERVER_INTERFACE}\"]\n[thresholds]\nhold = \"20s\""))?;
            ensure!(daemon.tcpguard(&["reload"])?.status.success());
        }
        if since > Duration::from_secs(6) && !std::mem::replace(&mut done[1], true) {
            daemon.restart(Signal::SIGTERM)?;
        }
        Ok(())
    })?;
    ensure!(done == [true; 2], "the clients were done too early");
    ensure!(served.quantile(1.0) < Duration::from_millis(900), "a SYN was lost: {:?}", served.quantile(1.0));
    Ok(())
}

#[test]
#[ignore = "one more row: cargo xtask test distance"]
fn two_thousand_connections_a_second_at_300_ms_are_no_attack() -> Result<()> {
    Row::new(3000, 300, 2000, 5).stays_calm().map(drop)
}

#[test]
#[ignore = "one more row: cargo xtask test distance"]
fn one_address_with_a_thousand_connections_a_second_at_300_ms_is_no_attack() -> Result<()> {
    Row::new(1, 300, 1000, 5).stays_calm().map(drop)
}

#[test]
#[ignore = "one more row: cargo xtask test distance"]
fn sixteen_addresses_of_one_network_are_no_attack() -> Result<()> {
    Row::new(16, 80, 5000, 5).stays_calm().map(drop)
}

#[test]
fn a_crowd_that_arrives_at_once_where_the_backlog_is_small_is_no_attack() -> Result<()> {
    // The kernel answers most of them with cookies, which are no refusals unless they do not return.
    let crowd = Row { lasts: Duration::from_millis(50), backlog: 128, ..Row::new(600, 80, 12_000, 0) };
    crowd.stays_calm().map(drop)
}

#[test]
fn twenty_thousand_a_second_that_abandon_some_are_no_attack() -> Result<()> {
    Row::new(20_000, 60, 20_000, 8).with_abandoned().stays_calm().map(drop)
}

/// The address of a client that transfers data.
const FAR_CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 61, 9);
/// How long a transfer may take: without window scaling, 64 KiB per round trip of 50 ms would take 40 s.
const SCALED: Duration = Duration::from_secs(20);

/// A server that sends 50 MB over each connection.
struct Downloads {
    address: SocketAddr,
}

impl Downloads {
    const LENGTH: usize = 50_000_000;

    fn serve(lab: &Lab) -> Result<Self> {
        let listener = server::listen(&lab.server, SERVER_IPV4.into(), 81)?;
        let address = listener.local_addr()?;
        // It ends with the test's process.
        thread::spawn(move || {
            let block = vec![0x55; 100_000];
            while let Ok((mut stream, _)) = listener.accept() {
                let sent = (0..Self::LENGTH / block.len()).try_for_each(|_| stream.write_all(&block));
                if let Err(error) = sent {
                    eprintln!("a transfer was cut off: {error}");
                }
            }
        });
        Ok(Self { address })
    }

    /// Transfers everything over one connection, and returns how long that took.
    fn fetch(&self, far: &FarClient) -> Result<Duration> {
        let start = Instant::now();
        let mut stream = Client::in_namespace(&far.namespace).connect(self.address)?;
        let length = std::io::copy(&mut stream, &mut std::io::sink())?;
        ensure!(length == Self::LENGTH as u64, "only {length} bytes arrived");
        Ok(start.elapsed())
    }
}

#[test]
#[ignore = "takes a minute and a half: `cargo xtask test` runs it in parallel with other tests"]
fn a_trickle_of_forged_syns_beside_clients_changes_nothing() -> Result<()> {
    share_machine();
    let lab = Lab::new()?;
    lab.lay_second_cable()?;
    let _server = Aborting::start(&lab, 80, 4096)?;
    let interfaces = format!("interfaces = [\"{SERVER_INTERFACE}\", \"{SECOND_SERVER_INTERFACE}\"]");
    let daemon = Setup::new(&lab)?.config(&interfaces).start()?;
    let clients = Row::new(100, 50, 200, 90).clients;
    let far = lab.far_client(&[FAR_CLIENT.into()], Path::milliseconds(50), true)?;
    far.namespace.sysctl("net.ipv4.tcp_timestamps", "0")?;
    let downloads = Downloads::serve(&lab)?;
    let is_over = AtomicBool::new(false);
    let served = thread::scope(|scope| -> Result<_> {
        let run = scope.spawn(|| clients.run(&lab, 200, Duration::from_secs(90)));
        let transfers = scope.spawn(|| -> Result<()> {
            while !is_over.load(Ordering::Relaxed) {
                let took = downloads.fetch(&far)?;
                ensure!(took < SCALED, "a transfer took {took:?}: its window was not scaled");
            }
            Ok(())
        });
        let forged = FloodSpec::syn(Sources::RANDOM_IPV4, 80);
        let mut flood = Flood::from_interface(&lab.client, SECOND_CLIENT_INTERFACE, &forged)?;
        let sent = flood.send_at(10, Duration::from_secs(90));
        is_over.store(true, Ordering::Relaxed);
        sent?;
        transfers.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    let stats = daemon.stats()?;
    let events = daemon.json("/events")?.to_string();
    ensure!(stats.half_open.datapath > 500, "{:?}", stats.half_open);
    ensure!(stats.state == "calm" && !events.contains("attack_started"), "{:?} {events}", stats.attack);
    ensure!(stats.totals.challenged == 0 && stats.totals.dropped == 0, "{:?}", stats.totals);
    ensure!(served.share() == 1.0, "{:.4} of {} were served", served.share(), served.tried);
    Ok(())
}
