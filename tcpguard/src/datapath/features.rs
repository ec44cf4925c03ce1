//! The kernel's optional features.

use aya::{
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported},
};

/// The availability of a kernel feature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Feature {
    /// The feature is available and in use.
    Available,
    /// The feature is unavailable, for this reason; tcpguard works without it.
    Unavailable(String),
}

impl Feature {
    /// Returns the reason why the feature is unavailable.
    pub fn problem(&self) -> Option<&str> {
        match self {
            Self::Available => None,
            Self::Unavailable(reason) => Some(reason),
        }
    }
}

/// The optional features of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    /// Completed handshakes are seen (tracepoint `sock:inet_sock_set_state`).
    pub completions: Feature,
    /// The datapath can generate SYN cookies (since Linux 6.0).
    pub cookies: Feature,
    /// Retransmitted SYN-ACKs are seen (tracepoint `tcp:tcp_retransmit_synack`).
    pub retries: Feature,
}

impl Features {
    /// Returns whether completed handshakes are seen. Without them, sources cannot be judged by completion.
    pub fn sees_completions(&self) -> bool {
        self.completions == Feature::Available
    }
}

/// Checks whether the kernel has the helpers that generate and check SYN cookies.
pub(super) fn probe_cookies() -> Feature {
    let needed = [
        BpfHelper::BPF_FUNC_tcp_raw_gen_syncookie_ipv4,
        BpfHelper::BPF_FUNC_tcp_raw_gen_syncookie_ipv6,
        BpfHelper::BPF_FUNC_tcp_raw_check_syncookie_ipv4,
        BpfHelper::BPF_FUNC_tcp_raw_check_syncookie_ipv6,
    ];
    for helper in needed {
        match is_helper_supported(ProgramType::Xdp, helper) {
            Ok(true) => {}
            Ok(false) => {
                return Feature::Unavailable(format!("this kernel has no {helper:?} (available since Linux 6.0)"));
            }
            Err(error) => return Feature::Unavailable(format!("cannot probe the kernel for {helper:?}: {error}")),
        }
    }
    Feature::Available
}
