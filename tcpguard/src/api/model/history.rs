//! The response of `GET /history`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Response of `GET /history`: one sample per second for the last fifteen minutes. Every list has one value per
/// sample, the oldest first.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct HistoryReport {
    /// When each sample's second ended.
    pub time: Vec<Timestamp>,
    /// `calm`, `attack` or `recovering`.
    pub state: Vec<String>,
    /// SYNs per second.
    pub syn_per_second: Vec<f64>,
    /// Handshakes completed per second.
    pub completed_per_second: Vec<f64>,
    /// Frames dropped per second.
    pub dropped_per_second: Vec<f64>,
    /// SYNs answered by the datapath per second.
    pub challenged_per_second: Vec<f64>,
    /// Distinct sources of SYNs per second, estimated.
    pub distinct_sources_per_second: Vec<f64>,
    /// Half-open handshakes in the kernel (SYN_RECV).
    pub half_open_kernel: Vec<u64>,
    /// Half-open handshakes in the kernel whose SYN-ACK was retransmitted.
    pub half_open_kernel_retried: Vec<u64>,
    /// Half-open handshakes as counted by the datapath.
    pub half_open_datapath: Vec<u64>,
}
