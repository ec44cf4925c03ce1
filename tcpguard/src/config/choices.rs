//! The types of values in the configuration file: choices, durations and networks.

use std::time::Duration;

use serde::{Deserialize, Serialize};

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
