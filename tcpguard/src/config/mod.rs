//! Configuration: [`validate`] parses and checks the file; [`Config`] is the result.

mod change;
mod choices;
mod error;
mod protect;
mod sections;
mod validate;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use documented::{Documented, DocumentedFields};
use ipnet::IpNet;
use serde::Serialize;

pub use change::{Change, TakesEffect};
pub use choices::{
    ChallengeMethod, ChallengeMode, Coexist, Hook, KeyFile, MemoryLimit, OnExit, ReturnPathChoice, XdpMode,
};
pub use error::ConfigError;
pub use sections::{Challenge, Kernel, Limits, SourceLimits, Thresholds};

/// A validated configuration. It serialises to TOML that parses back to the same configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Documented, DocumentedFields)]
pub struct Config {
    /// Interfaces to guard: names, or patterns such as `eth*`, which also match interfaces that appear later. If empty,
    /// the interface of the default route.
    pub interfaces: Vec<String>,
    /// Hook the datapath is attached to: `xdp`, or `tc`, the ingress of traffic control (TCX, or a clsact qdisc where
    /// TCX is not available). `tc` costs more per packet; it is for interfaces whose XDP hook is in use or not usable.
    pub attach: Hook,
    /// XDP mode: `native` (in the driver), `generic` (in the kernel's generic code), or `auto` (native, with a warning
    /// and generic mode where the driver does not support it).
    pub xdp_mode: XdpMode,
    /// Handling of an interface that already has an XDP program: `refuse` (the interface is not guarded) or `chain`
    /// (tcpguard runs before that program, passes packets on to it, and restores it when it detaches).
    pub coexist: Coexist,
    /// Protection level: 0 only observes and reports, 1 also changes kernel settings during an attack, 2 also drops and
    /// challenges packets in the datapath.
    pub syn_attack_protect: u8,
    /// What happens to the datapath when the daemon ends: `detach` detaches it; `keep` leaves it attached, counting but
    /// passing every packet, until the next daemon takes it over or `tcpguard detach` removes it.
    pub on_exit: OnExit,
    /// Host-wide thresholds.
    pub thresholds: Thresholds,
    /// Limits for one source or prefix.
    pub source: SourceLimits,
    /// Challenges for unproven sources.
    pub challenge: Challenge,
    /// Networks on the allow and deny lists.
    pub lists: Lists,
    /// Addresses the daemon listens on.
    pub listen: Listen,
    /// Resource limits and timeouts of the daemon.
    pub limits: Limits,
    /// Changes to kernel settings during an attack.
    pub kernel: Kernel,
    /// State that survives restarts.
    pub store: Store,
    /// Attachments and maps that outlive the daemon.
    pub pins: Pins,
    /// Notifications when an attack begins and ends.
    pub notify: Notify,
    /// Services: ports with a threshold of their own.
    #[serde(rename = "service", skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<Service>,
    /// Networks behind this host, which it protects as a gateway.
    #[serde(rename = "protect", skip_serializing_if = "Vec::is_empty")]
    pub protected: Vec<Protect>,
}

/// The allow and deny lists.
#[derive(Clone, Debug, PartialEq, Serialize, Documented, DocumentedFields)]
pub struct Lists {
    /// Networks (CIDR) or addresses whose SYNs are never dropped; takes precedence over `deny` and blocks. On
    /// challenged ports they may be answered with a cookie, which costs a client nothing.
    pub allow: Vec<IpNet>,
    /// Networks (CIDR) or addresses whose SYNs are dropped, unless they are on the allow list.
    pub deny: Vec<IpNet>,
    /// Files with further denied networks, one per line, with `#` comments. Read again when they change.
    pub deny_files: Vec<PathBuf>,
    /// Whether to allow the peers of SSH sessions while somebody is logged in from there.
    pub keep_ssh: bool,
}

/// A service: ports with a threshold of their own.
#[derive(Clone, Debug, PartialEq, Serialize, Documented, DocumentedFields)]
pub struct Service {
    /// Ports of the service, 1 to 65535. A port can belong to only one service.
    pub ports: Vec<u16>,
    /// Half-open handshakes of these ports; the service is under attack above this value. 1 to 10,000,000.
    pub max_half_open: u32,
}

impl Service {
    /// Returns the name in messages and reports: `service` and the ports, separated by commas.
    pub fn name(&self) -> String {
        format!("service {}", self.ports.iter().map(u16::to_string).collect::<Vec<_>>().join(","))
    }
}

/// Networks behind this host, which it protects as a gateway (a router, or a bridge).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Documented, DocumentedFields)]
pub struct Protect {
    /// Name in messages and reports: letters, digits, `-`, `_` and `.`, at most 32.
    pub name: String,
    /// Networks (CIDR) or addresses of the servers. Of networks that contain each other, the smaller one counts.
    pub networks: Vec<IpNet>,
    /// Ports of the servers, 1 to 65535. All sections together may have 512.
    pub ports: Vec<u16>,
    /// Way of the servers' SYN-ACKs: `auto` (through this host, unless none is seen), or `elsewhere` (asymmetric routing, also of
    /// a part of them, as with several gateways): handshakes then end with any acknowledgement of their client.
    pub return_path: ReturnPathChoice,
    /// Half-open handshakes of these networks and ports; they are under attack above this value. 1 to 10,000,000.
    pub max_half_open: u32,
}

/// Addresses the daemon listens on.
#[derive(Clone, Debug, PartialEq, Serialize, Documented, DocumentedFields)]
pub struct Listen {
    /// Address and port of the read-only HTTP server. An address other than loopback causes a warning.
    pub http: SocketAddr,
    /// Host names accepted in requests in addition to addresses and `localhost`, such as the name of a reverse proxy.
    /// Requests for other names are refused, which prevents DNS rebinding by web pages.
    pub hosts: Vec<String>,
    /// Absolute path of the Unix socket, at most 107 bytes. Its mode is 0660: every user who can open it can change the
    /// lists.
    pub socket: PathBuf,
}

/// State that survives restarts.
#[derive(Clone, Debug, PartialEq, Serialize, Documented, DocumentedFields)]
pub struct Store {
    /// Absolute path of the SQLite file with events, blocks and list entries added by commands. If it cannot be
    /// written, they are kept in memory only.
    pub path: PathBuf,
}

/// Attachments and maps that outlive the daemon, pinned for the next one.
#[derive(Clone, Debug, PartialEq, Serialize, Documented, DocumentedFields)]
pub struct Pins {
    /// Absolute path of the pin directory on a BPF file system. If it is not usable, the datapath's state is lost at a
    /// restart.
    pub path: PathBuf,
}

/// Notifications when an attack begins and ends: a command, a webhook, or both.
#[derive(Clone, Debug, PartialEq, Serialize, Documented, DocumentedFields)]
pub struct Notify {
    /// Absolute path of a program and its arguments. It receives the notification as JSON on standard input. Empty for
    /// none.
    pub command: Vec<String>,
    /// HTTP or HTTPS URL that the same JSON is posted to. Unset for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook: Option<String>,
    /// Timeout of the command and of each webhook request. 1 s to 1 min.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Number of retries when a webhook request fails. 0 to 10.
    pub retries: u32,
    /// Maximum number of notifications per hour; further ones are discarded and counted. 1 to 3600.
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
            thresholds: Thresholds::default(),
            source: SourceLimits::default(),
            challenge: Challenge::default(),
            lists: Lists { allow: Vec::new(), deny: Vec::new(), deny_files: Vec::new(), keep_ssh: true },
            services: Vec::new(),
            protected: Vec::new(),
            listen: Listen {
                http: SocketAddr::from(([127, 0, 0, 1], 9477)),
                hosts: Vec::new(),
                socket: PathBuf::from("/run/tcpguard/tcpguard.sock"),
            },
            limits: Limits::default(),
            kernel: Kernel::default(),
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
    /// Returns an error if the file cannot be read, is not TOML, or has an unknown key or an invalid value.
    pub fn load(path: &std::path::Path) -> Result<Self, ConfigError> {
        let name = path.display().to_string();
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { file: name.clone(), source })?;
        Self::parse(&text, &name)
    }

    /// Overrides interfaces, socket and pins with the values given on the command line. An empty list or `None` keeps
    /// the configured value.
    ///
    /// # Errors
    /// Returns an error if one of the values is invalid.
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

    /// Parses and validates `text`. Errors refer to it as the file `name`.
    ///
    /// # Errors
    /// Returns an error if `text` is not TOML, or has an unknown key or an invalid value.
    pub fn parse(text: &str, name: &str) -> Result<Self, ConfigError> {
        let file: validate::ConfigFile =
            toml::from_str(text).map_err(|error| ConfigError::syntax(name, text, &error))?;
        validate::validate(file).map_err(|problem| problem.at(name, text))
    }

    /// Returns the section of the protected network that an address belongs to: of networks that contain each other, the
    /// smaller one counts.
    pub fn protected_section(&self, address: IpAddr) -> Option<&Protect> {
        let length = |section: &Protect| {
            let containing = section.networks.iter().filter(|network| network.contains(&address));
            containing.map(IpNet::prefix_len).max()
        };
        self.protected.iter().filter(|section| length(section).is_some()).max_by_key(|section| length(section))
    }
}

#[cfg(test)]
mod tests;
