//! Measures, as `GET /stats` shows them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The measures in force.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Measures {
    /// Kernel settings that are changed for the duration of the attack.
    pub kernel_settings: Vec<Setting>,
    /// Number of blocked sources and prefixes; `/lists` has the blocks.
    pub blocks: u64,
    /// Advice on listeners whose backlog is too small, one sentence each.
    pub advice: Vec<String>,
    /// Signatures in force: what the SYNs have in common that are dropped, whoever sends them.
    #[serde(default)]
    pub signatures: Vec<String>,
    /// How SYNs of unproven sources are challenged.
    #[serde(default)]
    pub challenge: Challenge,
}

/// How SYNs of unproven sources are challenged.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Challenge {
    /// Challenged ports.
    pub ports: Vec<ChallengedPort>,
    /// Ports that should be challenged but are not.
    pub left_alone: Vec<PortLeftAlone>,
    /// Why no cookies can be sent; null if they can.
    pub no_cookies: Option<String>,
    /// Seconds until the last cookie expires; the kernel settings that cookies depend on are kept until then. Null if
    /// no cookie is valid.
    pub cookies_good_for_seconds: Option<u64>,
    /// Valid cookies returned by clients.
    pub cookies_returned: u64,
    /// SYNs that could not be answered and were passed.
    pub failed: u64,
}

/// A challenged port.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ChallengedPort {
    /// Port number.
    pub port: u16,
    /// `cookie`, `reset` or `retransmit`.
    pub method: String,
    /// How long the port has been challenged, in seconds.
    pub seconds: u64,
    /// Whether the stray filter is active for this port: segments that belong to no connection are dropped.
    pub guarded: bool,
}

/// A port that should be challenged but is not.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct PortLeftAlone {
    /// Port number.
    pub port: u16,
    /// Why the port is not challenged.
    pub reason: String,
}

/// A changed kernel setting.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Setting {
    /// Name, such as `net.ipv4.tcp_synack_retries`.
    pub name: String,
    /// Current value.
    pub value: String,
    /// Original value, which is restored later.
    pub original: String,
}
