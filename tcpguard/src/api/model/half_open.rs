//! The response of `GET /half-open`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Response of `GET /half-open`: half-open handshakes in the kernel.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct HalfOpenReport {
    /// Half-open handshakes.
    pub total: u64,
    /// Half-open handshakes whose SYN-ACK was retransmitted.
    pub retried: u64,
    /// Half-open handshakes by the datapath's count, over all ports; absent if no daemon runs, or for one port. While
    /// cookies are sent, the kernel has no rows for handshakes that wait for one to be returned, and this count does.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub datapath: Option<u64>,
    /// Why the kernel's rows do not show every half-open handshake; absent if they do.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub note: Option<String>,
    /// Counts by local port.
    pub ports: Vec<HalfOpenPort>,
    /// How the sources are distributed, in words: for example, whether they look random.
    pub sources: String,
    /// The handshakes; at most 65,536.
    pub rows: Vec<HalfOpenRow>,
}

/// Half-open handshakes of one port.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct HalfOpenPort {
    /// The local port.
    pub port: u16,
    /// Half-open handshakes.
    pub half_open: u64,
    /// Half-open handshakes whose SYN-ACK was retransmitted.
    pub retried: u64,
}

/// A half-open handshake in the kernel.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct HalfOpenRow {
    /// Local address and port.
    pub local: String,
    /// Remote address and port.
    pub remote: String,
    /// The local port.
    pub port: u16,
    /// Approximate age, in seconds.
    pub age_seconds: f64,
    /// Retransmits of the SYN-ACK.
    pub retransmits: u8,
}
