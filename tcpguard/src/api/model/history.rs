//! `GET /history`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /history`: a sample a second, of the last fifteen minutes; each list has one value for each.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct HistoryReport {
    /// When each second ended; the oldest first.
    pub time: Vec<Timestamp>,
    /// calm, attack or recovering.
    pub state: Vec<String>,
    /// SYNs.
    pub syn_per_second: Vec<f64>,
    /// Handshakes completed.
    pub completed_per_second: Vec<f64>,
    /// Frames dropped.
    pub dropped_per_second: Vec<f64>,
    /// SYNs answered with a cookie.
    pub challenged_per_second: Vec<f64>,
    /// Different sources of SYNs, estimated.
    pub distinct_sources_per_second: Vec<f64>,
    /// In state SYN_RECV in the kernel.
    pub half_open_kernel: Vec<u64>,
    /// Of these, the ones whose SYN-ACK was sent again.
    pub half_open_kernel_retried: Vec<u64>,
    /// By the datapath's count.
    pub half_open_datapath: Vec<u64>,
}
