//! Configuration: [`file`] is what an operator types, [`Config`] what came through validation.

mod change;
mod error;
mod file;
mod validate;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use documented::{Documented, DocumentedFields};
use ipnet::IpNet;
use serde::Serialize;

pub use change::{Change, TakesEffect};
pub use error::ConfigError;
pub use file::{ChallengeMethod, ChallengeMode, Coexist, Hook, OnExit, XdpMode};

/// A validated configuration. It serialises to the TOML that would produce it.
#[derive(Clone, Debug, PartialEq, Serialize, Documented, DocumentedFields)]
pub struct Config {
    /// Interfaces to guard, by name, or by patterns such as `eth*`, which also take in what appears later. Without any: the
    /// interface of the default route.
    pub interfaces: Vec<String>,
    /// Where the datapath is attached: `xdp`, or `tc`, the ingress of traffic control (TCX, else a clsact qdisc), which costs more,
    /// for interfaces whose XDP is taken or not usable.
    pub attach: Hook,
    /// How the XDP program is attached: `auto` (by the driver, else by the kernel's generic code, with a warning), `native` or
    /// `generic`.
    pub xdp_mode: XdpMode,
    /// What is done where an interface has an XDP program already: `refuse` (it is not guarded), or `chain` (tcpguard takes its
    /// place, hands it what passes, and puts it back in the end).
    pub coexist: Coexist,
    /// What may be done: 0 watches and reports, 1 also changes kernel settings in an attack, 2 also drops and challenges in XDP.
    pub syn_attack_protect: u8,
    /// What becomes of the datapath when the daemon ends: `detach` takes it off; `keep` leaves it attached, where it counts and lets
    /// everything in, until the next daemon takes over from it, or `tcpguard detach` takes it off.
    pub on_exit: OnExit,
    /// Host-wide thresholds.
    pub thresholds: Thresholds,
    /// What one source may do.
    pub source: SourceLimits,
    /// SYN cookies from XDP.
    pub challenge: Challenge,
    /// Who is always, or never, let in.
    pub lists: Lists,
    /// Where the daemon listens.
    pub listen: Listen,
    /// Bounds of the daemon itself.
    pub limits: Limits,
    /// What may be done to the kernel's settings in an attack.
    pub kernel: Kernel,
    /// What survives restarts.
    pub store: Store,
    /// What outlives the daemon in the kernel.
    pub pins: Pins,
    /// Who is told when an attack begins and ends.
    pub notify: Notify,
    /// Other thresholds for some ports.
    #[serde(rename = "service", skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<Service>,
}

/// Host-wide thresholds, named after Windows' `TcpMaxHalfOpen` family. Each is exceeded by one more.
#[derive(Clone, Debug, PartialEq, Serialize, Documented, DocumentedFields)]
pub struct Thresholds {
    /// Half-open handshakes of the host; an attack is when there are more. 1 to 10,000,000.
    pub max_half_open: u32,
    /// The same of those whose SYN-ACK was sent again. 1 to 10,000,000, and not above `max_half_open`, which it follows down.
    pub max_half_open_retried: u32,
    /// Connection requests a second that the kernel refuses for want of resources; an attack is when there are more.
    pub max_ports_exhausted: u32,
    /// An attack is over when every value is below this share of its threshold for `hold`. 0.1 to 1.0.
    pub leave_ratio: f64,
    /// For how long every value must be below. 1 s to 24 h.
    #[serde(with = "humantime_serde")]
    pub hold: Duration,
}

/// What one source, or one network, may do.
#[derive(Clone, Debug, PartialEq, Serialize, Documented, DocumentedFields)]
pub struct SourceLimits {
    /// Half-open handshakes of one source, above which it is blocked in an attack. 1 to 10,000,000.
    pub max_half_open: u32,
    /// SYNs a second of one source, above which they are dropped, in calm too; completed handshakes do not count. 1 to
    /// 100,000,000.
    pub syn_per_second: u32,
    /// How long a first block lasts; each repeat doubles it. 1 s to 366 days.
    #[serde(with = "humantime_serde")]
    pub block_for: Duration,
    /// The longest that a block lasts. 1 s to 366 days, and not below `block_for`.
    #[serde(with = "humantime_serde")]
    pub block_max: Duration,
    /// Prefix length that IPv4 networks are accounted by. 8 to 32.
    pub prefix_v4: u8,
    /// Prefix length that IPv6 networks are accounted by. 16 to 128.
    pub prefix_v6: u8,
    /// Half-open handshakes of one network, above which it is blocked in an attack. 1 to 10,000,000.
    pub prefix_max_half_open: u32,
}

/// How SYNs of sources that have not proved themselves are challenged.
#[derive(Clone, Debug, PartialEq, Serialize, Documented, DocumentedFields)]
pub struct Challenge {
    /// When SYNs are challenged: `auto` (in attacks that blocks cannot stop), `always` or `never`. Only with
    /// `syn_attack_protect = 2`.
    pub mode: ChallengeMode,
    /// By what: `cookie` (a SYN cookie from XDP, where the kernel can make one) or `retransmit` (the first SYN is dropped, since
    /// a TCP sends it again).
    pub method: ChallengeMethod,
    /// For how long a completed handshake proves its source. 1 s to 24 h.
    #[serde(with = "humantime_serde")]
    pub proven_for: Duration,
    /// SYNs a second of unproven sources to one port, above which the datapath challenges by itself, before the daemon has looked. 0
    /// for never, up to 100,000,000.
    pub syn_per_second: u32,
}

/// Who is always, or never, let in.
#[derive(Clone, Debug, PartialEq, Serialize, Documented, DocumentedFields)]
pub struct Lists {
    /// Networks (CIDR) or addresses that are always let in, whatever else is said.
    pub allow: Vec<IpNet>,
    /// Networks (CIDR) or addresses that are never let in, unless allowed.
    pub deny: Vec<IpNet>,
    /// Files with more of these, one a line, with # comments; read again when they change.
    pub deny_files: Vec<PathBuf>,
    /// Whether the peers of SSH sessions that are open when the daemon starts, or reads its configuration again, are allowed.
    pub keep_ssh: bool,
}

/// Other thresholds for some ports.
#[derive(Clone, Debug, PartialEq, Serialize, Documented, DocumentedFields)]
pub struct Service {
    /// The ports, 1 to 65535; a port is in one service.
    pub ports: Vec<u16>,
    /// Half-open handshakes of these ports; the service is under attack when there are more. 1 to 10,000,000.
    pub max_half_open: u32,
}

impl Service {
    /// As it is shown.
    pub fn name(&self) -> String {
        format!("service {}", self.ports.iter().map(u16::to_string).collect::<Vec<_>>().join(","))
    }
}

/// Where the daemon listens.
#[derive(Clone, Debug, PartialEq, Serialize, Documented, DocumentedFields)]
pub struct Listen {
    /// Address and port of the HTTP server, which only reads. Any other than loopback is warned of.
    pub http: SocketAddr,
    /// Names, beside addresses and localhost, that requests may be for: those of a proxy before it, most likely. Others are
    /// refused, since a web page may have made them point here.
    pub hosts: Vec<String>,
    /// Path of the Unix socket, at most 107 bytes. It gets the mode 0660: who may open it may change lists.
    pub socket: PathBuf,
}

/// Bounds of the daemon itself.
#[derive(Clone, Debug, PartialEq, Serialize, Documented, DocumentedFields)]
pub struct Limits {
    /// Entries of the source table, some 200 bytes each. 1,024 to 16,777,216.
    pub max_sources: u32,
    /// How old the daemon's heartbeat may be before the datapath lets everything in. 1 s to 24 h.
    #[serde(with = "humantime_serde")]
    pub heartbeat_timeout: Duration,
}

/// What may be done to the kernel's settings in an attack.
#[derive(Clone, Debug, PartialEq, Serialize, Documented, DocumentedFields)]
pub struct Kernel {
    /// Whether `somaxconn` and `tcp_max_syn_backlog` are raised in an attack to what is advised.
    pub tune_backlog: bool,
}

/// What survives restarts.
#[derive(Clone, Debug, PartialEq, Serialize, Documented, DocumentedFields)]
pub struct Store {
    /// The file (SQLite) that events, blocks and the lists' entries by commands are kept in. Where it cannot be written, they are
    /// kept in memory.
    pub path: PathBuf,
}

/// What outlives the daemon in the kernel: attachments, and the maps that the datapath has gathered its knowledge in.
#[derive(Clone, Debug, PartialEq, Serialize, Documented, DocumentedFields)]
pub struct Pins {
    /// The folder they are pinned in, on a BPF file system. Where that cannot be had, a restart begins anew.
    pub path: PathBuf,
}

/// Who is told when an attack begins and ends: by a command, by a webhook, or both.
#[derive(Clone, Debug, PartialEq, Serialize, Documented, DocumentedFields)]
pub struct Notify {
    /// The program to run, and its arguments. It is given JSON on its standard input; empty for none.
    pub command: Vec<String>,
    /// Where to POST the same JSON; none without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook: Option<String>,
    /// How long either may take: from "1s" to "1m".
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// How often a webhook that does not answer is tried again: 0 to 10.
    pub retries: u32,
    /// Notifications an hour, at most: 1 to 3600. More are left out, and counted.
    pub most_per_hour: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            interfaces: Vec::new(),
            attach: Hook::Xdp,
            xdp_mode: XdpMode::Auto,
            coexist: Coexist::Refuse,
            syn_attack_protect: 2,
            on_exit: OnExit::Detach,
            thresholds: Thresholds {
                max_half_open: 500,
                max_half_open_retried: 400,
                max_ports_exhausted: 5,
                leave_ratio: 0.8,
                hold: Duration::from_secs(10),
            },
            source: SourceLimits {
                max_half_open: 64,
                syn_per_second: 2000,
                block_for: Duration::from_secs(60),
                block_max: Duration::from_secs(3600),
                prefix_v4: 24,
                prefix_v6: 64,
                prefix_max_half_open: 512,
            },
            challenge: Challenge {
                mode: ChallengeMode::Auto,
                method: ChallengeMethod::Cookie,
                proven_for: Duration::from_secs(600),
                syn_per_second: 50_000,
            },
            lists: Lists { allow: Vec::new(), deny: Vec::new(), deny_files: Vec::new(), keep_ssh: true },
            services: Vec::new(),
            listen: Listen {
                http: SocketAddr::from(([127, 0, 0, 1], 9477)),
                hosts: Vec::new(),
                socket: PathBuf::from("/run/tcpguard/tcpguard.sock"),
            },
            limits: Limits { max_sources: 262_144, heartbeat_timeout: Duration::from_secs(5) },
            kernel: Kernel { tune_backlog: false },
            pins: Pins { path: PathBuf::from("/sys/fs/bpf/tcpguard") },
            store: Store { path: PathBuf::from("/var/lib/tcpguard/tcpguard.sqlite") },
            notify: Notify {
                command: Vec::new(),
                webhook: None,
                timeout: Duration::from_secs(5),
                retries: 3,
                most_per_hour: 20,
            },
        }
    }
}

impl Config {
    /// Reads and validates the file at `path`.
    ///
    /// # Errors
    /// Where it cannot be read, is not TOML, has an unknown or ill-typed key, or a value out of range.
    pub fn load(path: &std::path::Path) -> Result<Self, ConfigError> {
        let name = path.display().to_string();
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { file: name.clone(), source })?;
        Self::parse(&text, &name)
    }

    /// The same with other interfaces, another socket and other pins, as the command line may name them.
    ///
    /// # Errors
    /// Where one of them cannot be used.
    pub fn with_arguments(
        mut self,
        interfaces: Vec<String>,
        socket: Option<PathBuf>,
        pins: Option<PathBuf>,
    ) -> Result<Self, ConfigError> {
        let problem = validate::interfaces_problem(&interfaces)
            .or_else(|| socket.as_deref().and_then(validate::socket_problem))
            .or_else(|| pins.as_deref().and_then(|path| validate::path_problem("the pins", path)));
        if let Some(message) = problem {
            return Err(ConfigError::Argument(message));
        }
        if !interfaces.is_empty() {
            self.interfaces = interfaces;
        }
        self.listen.socket = socket.unwrap_or(self.listen.socket);
        self.pins.path = pins.unwrap_or(self.pins.path);
        Ok(self)
    }

    /// Parses and validates `text`, which came from a file called `name`.
    ///
    /// # Errors
    /// As [`Config::load`], but for reading.
    pub fn parse(text: &str, name: &str) -> Result<Self, ConfigError> {
        let file: file::ConfigFile = toml::from_str(text).map_err(|error| ConfigError::syntax(name, text, &error))?;
        validate::validate(file).map_err(|problem| problem.at(name, text))
    }
}

#[cfg(test)]
mod tests;
