//! `GET /half-open`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /half-open`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct HalfOpenReport {
    /// How many there are.
    pub total: u64,
    /// Of these, the ones whose SYN-ACK was sent again.
    pub retried: u64,
    /// How many by port.
    pub ports: Vec<HalfOpenPort>,
    /// Whether the sources look random, in words.
    pub sources: String,
    /// The rows; at most 65,536 of them.
    pub rows: Vec<HalfOpenRow>,
}

/// Half-open handshakes of one port.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct HalfOpenPort {
    /// The local port.
    pub port: u16,
    /// How many there are.
    pub half_open: u64,
    /// Of these, the ones whose SYN-ACK was sent again.
    pub retried: u64,
}

/// A half-open handshake in the kernel.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct HalfOpenRow {
    /// Local address and port.
    pub local: String,
    /// Remote address and port.
    pub remote: String,
    /// Local port.
    pub port: u16,
    /// Since about when.
    pub age_seconds: f64,
    /// How often the SYN-ACK was sent again.
    pub retransmits: u8,
}
