//! Judgement on trial: a server, its clients, an SSH session, maybe an attacker, and the daemon between
//! them; and what was seen of it all.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    panic::resume_unwind,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    client::{Client, Connections},
    daemon::{Daemon, Setup},
    flood::{Flood, FloodSpec},
    network::{Lab, SECOND_CLIENT_INTERFACE, SECOND_SERVER_INTERFACE, SERVER_INTERFACE, SERVER_IPV4},
    oracle,
    server::{self, Nginx},
};

/// Who has an SSH session.
pub const SSH_PEER: Ipv4Addr = Ipv4Addr::new(198, 18, 200, 1);
/// nginx, over IPv4.
pub const WEB: SocketAddr = SocketAddr::new(IpAddr::V4(SERVER_IPV4), 80);
/// How long an attack must be over in these scenes.
pub const HOLD: Duration = Duration::from_secs(2);
/// What may come on top of that.
pub const HOLD_SLACK: Duration = Duration::from_secs(1);
/// What cookies depend on stays changed until the last one is good for nothing.
const COOKIE_SETTINGS: [(&str, &str); 2] = [("net.ipv4.tcp_syncookies", "1"), ("net.ipv4.tcp_timestamps", "1")];
const SSH_PORT: u16 = 22;
const LOOK: Duration = Duration::from_millis(25);
/// Connections that the real client opens a second while there is an attack.
const CLIENT_RATE: u32 = 100;

/// A lab with nginx on port 80, an SSH session, and a daemon. Floods have a cable of their own, so that what a
/// client loses it loses to judgement, and not to a full cable.
pub struct Scene {
    /// The lab.
    pub lab: Lab,
    /// The daemon.
    pub daemon: Daemon,
    /// nginx.
    pub nginx: Option<Nginx>,
    ssh: (TcpStream, TcpStream),
    syns_before: u64,
}

impl Scene {
    /// Sets it up, with this in the configuration beside the interfaces.
    ///
    /// # Errors
    /// Returns an error if a part of it cannot be.
    pub fn new(config: &str) -> Result<Self> {
        let lab = Lab::new()?;
        lab.lay_second_cable()?;
        lab.add_client_address(SSH_PEER.into())?;
        let nginx = Nginx::start(&lab, &[80])?;
        let listener = server::listen(&lab.server, SERVER_IPV4.into(), SSH_PORT)?;
        let client = Client::new(&lab).from(SSH_PEER.into()).connect((SERVER_IPV4, SSH_PORT).into())?;
        let (server, _) = listener.accept().context("no SSH session")?;
        let syns_before = oracle::syns_sent(&lab.client)?;
        // The configuration of a daemon begins with what stands in no section.
        let interfaces = format!("interfaces = [\"{SERVER_INTERFACE}\", \"{SECOND_SERVER_INTERFACE}\"]\n");
        let hold =
            if config.contains("hold =") { String::new() } else { format!("[thresholds]\nhold = \"{HOLD:?}\"\n") };
        let daemon = Setup::new(&lab)?.config(&format!("{interfaces}{config}\n{hold}")).start()?;
        Ok(Self { lab, daemon, nginx: Some(nginx), ssh: (client, server), syns_before })
    }

    /// How many SYNs clients have sent since the daemon started, by their kernel's count.
    ///
    /// # Errors
    /// Returns an error if it does not say.
    pub fn syns_of_clients(&self) -> Result<u64> {
        Ok(oracle::syns_sent(&self.lab.client)? - self.syns_before)
    }

    /// Whether the SSH session still carries something, both ways.
    ///
    /// # Errors
    /// Returns an error if it does not.
    pub fn ssh_session_lives(&mut self) -> Result<()> {
        let (client, server) = &mut self.ssh;
        carry(client, server)?;
        carry(server, client)
    }

    /// A flood by the second cable.
    ///
    /// # Errors
    /// See [`Flood::from_interface`].
    pub fn flood(&self, spec: &FloodSpec) -> Result<Flood> {
        Flood::from_interface(&self.lab.client, SECOND_CLIENT_INTERFACE, spec)
    }

    /// A flood of `rate` for `duration`, with a real client beside it.
    ///
    /// # Errors
    /// Returns an error if a part of it fails.
    pub fn attack(&self, spec: &FloodSpec, rate: u32, duration: Duration) -> Result<Attack> {
        let mut flood = self.flood(spec)?;
        self.attack_by(|| flood.send_at(rate, duration))
    }

    /// An attack that `run` makes, which says how much of it was sent; with a real client beside it.
    ///
    /// # Errors
    /// Returns an error if a part of it fails.
    pub fn attack_by(&self, run: impl FnOnce() -> Result<u64>) -> Result<Attack> {
        let is_over = AtomicBool::new(false);
        let ((sent, client, ended), seen) = self.observe(|| {
            thread::scope(|scope| {
                let client = scope.spawn(|| {
                    let goes_on = || !is_over.load(Ordering::Relaxed);
                    Client::new(&self.lab).run(WEB, CLIENT_RATE, Duration::from_secs(120), goes_on)
                });
                let sent = run();
                let ended = Instant::now();
                is_over.store(true, Ordering::Relaxed);
                let client = client.join().unwrap_or_else(|panic| resume_unwind(panic))?;
                Ok((sent?, client, ended))
            })
        })?;
        Ok(Attack { sent, client, seen, ended })
    }

    /// What the daemon said while `work` went on.
    ///
    /// # Errors
    /// Returns an error if the work fails, or the daemon does not answer.
    pub fn observe<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(T, Seen)> {
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let observer = scope.spawn(|| -> Result<Seen> {
                let mut seen = Seen::default();
                while !is_over.load(Ordering::Relaxed) {
                    seen.note(&self.daemon.json("/stats")?);
                    thread::sleep(LOOK);
                }
                Ok(seen)
            });
            let result = work();
            is_over.store(true, Ordering::Relaxed);
            let seen = observer.join().unwrap_or_else(|panic| resume_unwind(panic))?;
            Ok((result?, seen))
        })
    }

    /// Networks that are blocked by judgement.
    ///
    /// # Errors
    /// Returns an error if the daemon does not answer.
    pub fn blocked(&self) -> Result<BTreeSet<String>> {
        let lists = self.daemon.json("/lists")?;
        let blocks = lists["blocks"].as_array().into_iter().flatten();
        Ok(blocks.filter_map(|block| block["network"].as_str()).map(str::to_owned).collect())
    }

    /// Events of one kind.
    ///
    /// # Errors
    /// Returns an error if the daemon does not answer.
    pub fn events(&self, kind: &str) -> Result<Vec<Value>> {
        let events = self.daemon.json("/events?limit=10000")?;
        Ok(events.as_array().into_iter().flatten().filter(|event| event["kind"] == kind).cloned().collect())
    }

    /// A kernel setting of the server's.
    ///
    /// # Errors
    /// Returns an error if it cannot be read.
    pub fn setting(&self, name: &str) -> Result<String> {
        self.lab.server.setting(name)
    }

    /// Waits for the daemon to be calm, within the time that it has for it after `ended`, with everything undone
    /// but what cookies that were sent depend on.
    ///
    /// # Errors
    /// Returns an error if it takes longer, or something is left.
    pub fn back_to_calm(&self, ended: Instant) -> Result<()> {
        let stats = self.daemon.stats_when("it is calm again", |stats| stats["state"] == "calm")?;
        let took = ended.elapsed();
        ensure!(took <= HOLD + HOLD_SLACK, "it was calm {took:?} after the end, with a hold of {HOLD:?}");
        ensure!(stats["attack"].is_null(), "{}", stats["attack"]);
        let measures = &stats["measures"];
        ensure!(measures["challenge"]["ports"].as_array().is_some_and(Vec::is_empty), "{measures}");
        let mut changed = vec!["net.ipv4.tcp_synack_retries", "net.core.somaxconn"];
        if measures["challenge"]["cookies_good_for_seconds"].is_null() {
            changed.extend(COOKIE_SETTINGS.map(|(name, _)| name));
        }
        for setting in measures["kernel_settings"].as_array().into_iter().flatten() {
            ensure!(changed.iter().all(|name| setting["name"] != *name), "{setting} is still changed");
        }
        let retries = self.setting("net.ipv4.tcp_synack_retries")?;
        ensure!(retries == "5", "retries {retries}");
        Ok(())
    }

    /// Whether what cookies depend on is as it was.
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

fn carry(from: &mut TcpStream, to: &mut TcpStream) -> Result<()> {
    to.set_read_timeout(Some(Duration::from_secs(3))).context("no timeout")?;
    from.write_all(b"alive").context("the SSH session is cut")?;
    to.read_exact(&mut [0; 5]).context("the SSH session is deaf")
}

/// What became of an attack.
pub struct Attack {
    /// Frames that arrived.
    pub sent: u64,
    /// What the real client had of it.
    pub client: Connections,
    /// What the daemon said.
    pub seen: Seen,
    /// When it ended.
    pub ended: Instant,
}

/// What was seen of the daemon.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// States, in the order in which they came.
    pub states: Vec<String>,
    /// Kinds of attack.
    pub kinds: Vec<String>,
    /// Kernel settings that were changed, with their values.
    pub settings: BTreeSet<String>,
    /// Ports of applications that were said to accept too slowly.
    pub slow: BTreeSet<u64>,
    /// The last `/stats`.
    pub last: Value,
}

impl Seen {
    fn note(&mut self, stats: &Value) {
        let add = |list: &mut Vec<String>, value: &Value| {
            let text = value.as_str().unwrap_or_default();
            if !text.is_empty() && list.last().map(String::as_str) != Some(text) {
                list.push(text.to_owned());
            }
        };
        add(&mut self.states, &stats["state"]);
        add(&mut self.kinds, &stats["attack"]["kind"]);
        for setting in stats["measures"]["kernel_settings"].as_array().into_iter().flatten() {
            let text = |key: &str| setting[key].as_str().unwrap_or_default().to_owned();
            self.settings.insert(format!("{}={}", text("name"), text("value")));
        }
        let slow = stats["ports"].as_array().into_iter().flatten().filter(|port| port["slow_application"] == true);
        self.slow.extend(slow.filter_map(|port| port["port"].as_u64()));
        self.last = stats.clone();
    }

    /// Frames dropped for one reason, by the last `/stats`.
    pub fn dropped(&self, reason: &str) -> u64 {
        self.last["drops"][reason].as_u64().unwrap_or(0)
    }
}

/// Many clients at once.
pub struct Crowd<'a> {
    /// The lab.
    pub lab: &'a Lab,
    /// Their addresses, which must be the client's.
    pub addresses: Vec<IpAddr>,
    /// Connections a second of all together.
    pub rate: u32,
    /// So many connect at the same time.
    pub threads: u32,
}

impl Crowd<'_> {
    /// Opens connections, one address after the other.
    ///
    /// # Errors
    /// Returns an error if the namespace cannot be entered.
    pub fn run(&self, server: SocketAddr, duration: Duration) -> Result<Connections> {
        thread::scope(|scope| {
            let threads: Vec<_> = (0..self.threads)
                .map(|thread| scope.spawn(move || self.run_thread(thread, server, duration)))
                .collect();
            let mut all = Connections::default();
            for thread in threads {
                let connections = thread.join().unwrap_or_else(|panic| resume_unwind(panic))?;
                all.tried += connections.tried;
                all.connect_times.extend(connections.connect_times);
            }
            all.connect_times.sort_unstable();
            Ok(all)
        })
    }

    fn run_thread(&self, thread: u32, server: SocketAddr, duration: Duration) -> Result<Connections> {
        let mine: Vec<IpAddr> =
            self.addresses.iter().copied().skip(thread as usize).step_by(self.threads as usize).collect();
        let mine = if mine.is_empty() { self.addresses.clone() } else { mine };
        Client::new(self.lab).run_from(&mine, server, self.rate / self.threads, duration, || true)
    }
}
