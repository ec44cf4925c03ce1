//! The configuration file before validation: every key is optional, unknown keys are refused.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::sections::{ChallengeFile, KernelFile, LimitsFile, SourceFile, ThresholdsFile};
use crate::network::{self, NotANetwork};

/// The XDP mode in which the program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// Native, or generic with a warning where the driver does not support native XDP.
    Auto,
    /// Native only: in the driver.
    Native,
    /// Generic: in the kernel's generic code.
    Generic,
}

/// The hook the datapath is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    /// XDP, in the driver or in the kernel's generic code.
    Xdp,
    /// The ingress of traffic control.
    Tc,
}

/// Handling of an interface that already has an XDP program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Coexist {
    /// The interface is not guarded.
    Refuse,
    /// tcpguard runs before that program and passes packets on to it.
    Chain,
}

/// What happens to the datapath when the daemon ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnExit {
    /// The datapath is detached.
    Detach,
    /// The datapath stays attached, and passes every packet once the lease has expired.
    Keep,
}

/// When SYNs are challenged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChallengeMode {
    /// During attacks that blocks cannot stop.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The method by which SYNs are challenged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChallengeMethod {
    /// A SYN-ACK with a cookie; [`Self::Retransmit`] where the kernel cannot generate cookies.
    Cookie,
    /// The first SYN is dropped; a TCP client retransmits it.
    Retransmit,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ConfigFile {
    pub interfaces: Option<Spanned<Vec<String>>>,
    pub attach: Option<Hook>,
    pub xdp_mode: Option<XdpMode>,
    pub coexist: Option<Coexist>,
    pub syn_attack_protect: Option<Spanned<u8>>,
    pub on_exit: Option<OnExit>,
    pub thresholds: ThresholdsFile,
    pub source: SourceFile,
    pub challenge: ChallengeFile,
    pub lists: ListsFile,
    pub service: Vec<ServiceFile>,
    pub listen: ListenFile,
    pub limits: LimitsFile,
    pub kernel: KernelFile,
    pub store: StoreFile,
    pub pins: PinsFile,
    pub notify: NotifyFile,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ListsFile {
    pub allow: Vec<Network>,
    pub deny: Vec<Spanned<Network>>,
    pub deny_files: Vec<PathBuf>,
    pub keep_ssh: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServiceFile {
    pub ports: Spanned<Vec<u16>>,
    pub max_half_open: Option<Spanned<u32>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ListenFile {
    pub http: Option<Spanned<SocketAddr>>,
    pub hosts: Vec<Spanned<String>>,
    pub socket: Option<Spanned<PathBuf>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct StoreFile {
    pub path: Option<Spanned<PathBuf>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct PinsFile {
    pub path: Option<Spanned<PathBuf>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct NotifyFile {
    pub command: Option<Spanned<Vec<String>>>,
    pub webhook: Option<Spanned<String>>,
    pub timeout: Option<Spanned<Period>>,
    pub retries: Option<Spanned<u32>>,
    pub most_per_hour: Option<Spanned<u32>>,
}

/// A duration such as "10s" or "1h 30m".
#[derive(Clone, Copy, Deserialize)]
#[serde(transparent)]
pub(super) struct Period(#[serde(with = "humantime_serde")] pub Duration);

/// A network such as "198.51.100.0/24"; a plain address is a network with one address.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Network(pub network::Network);

impl TryFrom<String> for Network {
    type Error = NotANetwork;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map(Self)
    }
}
