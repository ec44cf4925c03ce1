//! A scene to test judgement with: a server, clients, an SSH session, optionally an attacker, and the daemon, whose
//! `/stats` are recorded.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    panic::resume_unwind,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tcpguard::api::model::Stats;

use crate::{
    client::{Client, Connections},
    daemon::{Daemon, Setup},
    distance::Path,
    flood::{Flood, FloodSpec},
    network::{Lab, SECOND_CLIENT_INTERFACE, SECOND_SERVER_INTERFACE, SERVER_INTERFACE, SERVER_IPV4},
    oracle,
    server::{self, Nginx},
    wait::{GoesOn, beside},
};

/// The client address of the SSH session.
pub const SSH_PEER: Ipv4Addr = Ipv4Addr::new(198, 18, 200, 1);
/// Address and port of nginx, over IPv4.
pub const WEB: SocketAddr = SocketAddr::new(IpAddr::V4(SERVER_IPV4), 80);
/// The default `thresholds.hold` in scenes.
pub const HOLD: Duration = Duration::from_secs(2);
/// Tolerance on top of [`HOLD`] for the return to calm.
pub const HOLD_SLACK: Duration = Duration::from_secs(1);
/// The settings that cookies depend on, with their defaults. They stay changed until the last cookie expires.
const COOKIE_SETTINGS: [(&str, &str); 2] = [("net.ipv4.tcp_syncookies", "1"), ("net.ipv4.tcp_timestamps", "1")];
const SSH_PORT: u16 = 22;
const LOOK: Duration = Duration::from_millis(25);
/// Connections per second that the client opens during an attack.
const CLIENT_RATE: u32 = 100;

/// A lab with nginx on port 80, an SSH session and a daemon. Floods use a separate cable, so that a failed connection
/// is due to judgement and not to a full cable.
pub struct Scene {
    /// The lab.
    pub lab: Lab,
    /// The daemon.
    pub daemon: Daemon,
    /// nginx; `None` while it is stopped.
    pub nginx: Option<Nginx>,
    ssh: (TcpStream, TcpStream),
    syns_before: u64,
}

impl Scene {
    /// Creates a scene. `config` is added to the daemon's configuration after the interfaces.
    ///
    /// # Errors
    /// Returns an error if a part cannot be set up.
    pub fn new(config: &str) -> Result<Self> {
        match round_trip()? {
            0 => Self::of(Lab::new()?, config),
            milliseconds => Self::at_distance(Path::milliseconds(milliseconds), config),
        }
    }

    /// Creates a scene like [`Scene::new`] whose clients are at a distance.
    ///
    /// # Errors
    /// Returns an error if a part cannot be set up.
    pub fn at_distance(path: Path, config: &str) -> Result<Self> {
        Self::of(Lab::at_distance(path)?, config)
    }

    fn of(lab: Lab, config: &str) -> Result<Self> {
        lab.lay_second_cable()?;
        lab.add_client_address(SSH_PEER.into())?;
        let nginx = Nginx::start(&lab, &[80])?;
        let listener = server::listen(&lab.server, SERVER_IPV4.into(), SSH_PORT)?;
        let client = Client::new(&lab).from(SSH_PEER.into()).connect((SERVER_IPV4, SSH_PORT).into())?;
        let (server, _) = listener.accept().context("cannot accept the SSH session")?;
        let syns_before = oracle::syns_sent(&lab.clients)?;
        // Keys outside of sections have to come first.
        let interfaces = format!("interfaces = [\"{SERVER_INTERFACE}\", \"{SECOND_SERVER_INTERFACE}\"]\n");
        let hold =
            if config.contains("hold =") { String::new() } else { format!("[thresholds]\nhold = \"{HOLD:?}\"\n") };
        let daemon = Setup::new(&lab)?.config(&format!("{interfaces}{config}\n{hold}")).start()?;
        Ok(Self { lab, daemon, nginx: Some(nginx), ssh: (client, server), syns_before })
    }

    /// Returns the number of SYNs that clients have sent since the daemon started, by their kernel's counters.
    ///
    /// # Errors
    /// Returns an error if the counters cannot be read.
    pub fn syns_of_clients(&self) -> Result<u64> {
        Ok(oracle::syns_sent(&self.lab.clients)? - self.syns_before)
    }

    /// Checks that the SSH session still carries data in both directions.
    ///
    /// # Errors
    /// Returns an error if it does not.
    pub fn ssh_session_lives(&mut self) -> Result<()> {
        let (client, server) = &mut self.ssh;
        carry(client, server)?;
        carry(server, client)
    }

    /// Prepares a flood on the second cable.
    ///
    /// # Errors
    /// See [`Flood::from_interface`].
    pub fn flood(&self, spec: &FloodSpec) -> Result<Flood> {
        Flood::from_interface(&self.lab.client, SECOND_CLIENT_INTERFACE, spec)
    }

    /// Sends a flood at `rate` frames per second for `duration`, with a client in parallel.
    ///
    /// # Errors
    /// Returns an error if a part fails.
    pub fn attack(&self, spec: &FloodSpec, rate: u32, duration: Duration) -> Result<Attack> {
        let mut flood = self.flood(spec)?;
        self.attack_by(|| flood.send_at(rate, duration))
    }

    /// Runs an attack by calling `run`, which returns the number of frames sent, with a client in parallel.
    ///
    /// # Errors
    /// Returns an error if a part fails.
    pub fn attack_by(&self, run: impl FnOnce() -> Result<u64>) -> Result<Attack> {
        let client = |goes_on: GoesOn| Client::new(&self.lab).run(WEB, CLIENT_RATE, Duration::from_secs(120), goes_on);
        let run = || Ok((run()?, Instant::now()));
        let (((sent, ended), client), seen) = self.observe(|| beside(client, run))?;
        Ok(Attack { sent, client, seen, ended })
    }

    /// Runs `work` and records the daemon's `/stats` meanwhile.
    ///
    /// # Errors
    /// Returns an error if the work fails, or the daemon does not answer.
    pub fn observe<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(T, Seen)> {
        let observe = |goes_on: GoesOn| {
            let mut seen = Seen::default();
            while goes_on() {
                seen.note(self.daemon.stats()?);
                thread::sleep(LOOK);
            }
            Ok(seen)
        };
        beside(observe, work)
    }

    /// Returns the networks that are blocked.
    ///
    /// # Errors
    /// Returns an error if the daemon does not answer.
    pub fn blocked(&self) -> Result<BTreeSet<String>> {
        let lists = self.daemon.json("/lists")?;
        let blocks = lists["blocks"].as_array().into_iter().flatten();
        Ok(blocks.filter_map(|block| block["network"].as_str()).map(str::to_owned).collect())
    }

    /// Returns the events of one kind.
    ///
    /// # Errors
    /// Returns an error if the daemon does not answer.
    pub fn events(&self, kind: &str) -> Result<Vec<Value>> {
        let events = self.daemon.json("/events?limit=10000")?;
        Ok(events.as_array().into_iter().flatten().filter(|event| event["kind"] == kind).cloned().collect())
    }

    /// Returns a kernel setting of the server.
    ///
    /// # Errors
    /// Returns an error if it cannot be read.
    pub fn setting(&self, name: &str) -> Result<String> {
        self.lab.server.setting(name)
    }

    /// Waits until the daemon is calm, and checks that this was within [`HOLD`] plus [`HOLD_SLACK`] after `ended` and
    /// that everything is restored except what unexpired cookies depend on.
    ///
    /// # Errors
    /// Returns an error if it takes longer or a change remains.
    pub fn back_to_calm(&self, ended: Instant) -> Result<()> {
        let stats = self.daemon.stats_when("it is calm again", |stats| stats.state == "calm")?;
        let took = ended.elapsed();
        ensure!(took <= HOLD + HOLD_SLACK, "calm only {took:?} after the end, with a hold of {HOLD:?}");
        ensure!(stats.attack.is_none(), "{:?}", stats.attack);
        let measures = &stats.measures;
        ensure!(measures.challenge.ports.is_empty(), "{measures:?}");
        let mut changed = vec!["net.ipv4.tcp_synack_retries", "net.core.somaxconn"];
        if measures.challenge.cookies_good_for_seconds.is_none() {
            changed.extend(COOKIE_SETTINGS.map(|(name, _)| name));
        }
        for setting in &measures.kernel_settings {
            ensure!(changed.iter().all(|name| setting.name != *name), "{setting:?} is still changed");
        }
        let retries = self.setting("net.ipv4.tcp_synack_retries")?;
        ensure!(retries == "5", "tcp_synack_retries is {retries}");
        Ok(())
    }

    /// Returns whether the settings that cookies depend on have their defaults.
    ///
    /// # Errors
    /// Returns an error if it cannot be read.
    pub fn has_cookie_settings_back(&self) -> Result<bool> {
        for (name, usual) in COOKIE_SETTINGS {
            if self.setting(name)? != usual {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Returns the round-trip time between clients and server in milliseconds, from the variable `TCPGUARD_LAB_ROUND_TRIP`.
fn round_trip() -> Result<u64> {
    match std::env::var("TCPGUARD_LAB_ROUND_TRIP") {
        Ok(text) => text.parse().with_context(|| format!("TCPGUARD_LAB_ROUND_TRIP={text}: not a number")),
        Err(_) => Ok(0),
    }
}

fn carry(from: &mut TcpStream, to: &mut TcpStream) -> Result<()> {
    to.set_read_timeout(Some(Duration::from_secs(3))).context("cannot set a timeout")?;
    from.write_all(b"alive").context("cannot write to the SSH session")?;
    to.read_exact(&mut [0; 5]).context("nothing arrives over the SSH session")
}

/// The outcome of an attack.
pub struct Attack {
    /// Number of frames that arrived.
    pub sent: u64,
    /// Results of the client.
    pub client: Connections,
    /// What the daemon reported meanwhile.
    pub seen: Seen,
    /// Time when the attack ended.
    pub ended: Instant,
}

/// What the daemon reported over a period.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// States in chronological order, without consecutive duplicates.
    pub states: Vec<String>,
    /// Kinds of attack in chronological order, without consecutive duplicates.
    pub kinds: Vec<String>,
    /// Kernel settings that were changed, as `name=value`.
    pub settings: BTreeSet<String>,
    /// Ports of applications that were reported as slow to accept.
    pub slow: BTreeSet<u16>,
    /// The last response of `/stats`.
    last: Option<Arc<Stats>>,
}

impl Seen {
    fn note(&mut self, stats: Stats) {
        let add = |list: &mut Vec<String>, text: &str| {
            if !text.is_empty() && list.last().map(String::as_str) != Some(text) {
                list.push(text.to_owned());
            }
        };
        add(&mut self.states, &stats.state);
        add(&mut self.kinds, stats.attack.as_ref().map_or("", |attack| &attack.kind));
        for setting in &stats.measures.kernel_settings {
            self.settings.insert(format!("{}={}", setting.name, setting.value));
        }
        self.slow.extend(stats.ports.iter().filter(|port| port.slow_application).map(|port| port.port));
        self.last = Some(Arc::new(stats));
    }

    /// Returns the last `/stats`.
    ///
    /// # Errors
    /// Returns an error if nothing was observed.
    pub fn last(&self) -> Result<&Stats> {
        self.last.as_deref().context("nothing was observed")
    }

    /// Returns the number of frames dropped for one reason, according to the last `/stats`.
    pub fn dropped(&self, reason: &str) -> u64 {
        self.last.as_ref().and_then(|stats| stats.drops.get(reason).copied()).unwrap_or(0)
    }
}

/// Many clients that connect in parallel.
pub struct Crowd<'a> {
    /// The lab.
    pub lab: &'a Lab,
    /// Their addresses, each of which must be one of the client's.
    pub addresses: Vec<IpAddr>,
    /// Connections per second of all clients together.
    pub rate: u32,
    /// Number of threads that connect in parallel.
    pub threads: u32,
}

impl Crowd<'_> {
    /// Opens connections for `duration`; each thread uses its share of the addresses in turn.
    ///
    /// # Errors
    /// Returns an error if the namespace cannot be entered.
    pub fn run(&self, server: SocketAddr, duration: Duration) -> Result<Connections> {
        // At a distance of up to 100 ms, a thread opens and closes four connections per second.
        let threads = if self.lab.is_far() { self.rate.div_ceil(4) } else { self.threads };
        thread::scope(|scope| {
            let threads: Vec<_> = (0..threads)
                .map(|thread| scope.spawn(move || self.run_thread((thread, threads), server, duration)))
                .collect();
            let mut all = Connections::default();
            for thread in threads {
                let connections = thread.join().unwrap_or_else(|panic| resume_unwind(panic))?;
                all.tried += connections.tried;
                all.connect_times.extend(connections.connect_times);
                all.troubles.extend(connections.troubles);
            }
            all.connect_times.sort_unstable();
            Ok(all)
        })
    }

    fn run_thread(&self, (thread, threads): (u32, u32), server: SocketAddr, duration: Duration) -> Result<Connections> {
        let mine: Vec<IpAddr> =
            self.addresses.iter().copied().skip(thread as usize).step_by(threads as usize).collect();
        let mine = if mine.is_empty() { self.addresses.clone() } else { mine };
        // The threads begin one after the other: all at once would be a burst.
        thread::sleep(Duration::from_secs_f64(f64::from(thread) / f64::from(self.rate.max(1))));
        Client::new(self.lab).run_from(&mine, server, self.rate / threads, duration, || true)
    }
}
