//! The types of values in the configuration file: choices, durations and networks.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use bytesize::ByteSize;
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
    /// [`Self::Cookie`], and [`Self::Reset`] where that is impossible.
    Auto,
    /// A SYN-ACK with a cookie; [`Self::Retransmit`] where the kernel cannot generate cookies.
    Cookie,
    /// A SYN-ACK that the client resets, before it sends its SYN again.
    Reset,
    /// The first SYN is dropped; a TCP client retransmits it.
    Retransmit,
}

/// The way that SYN-ACKs of protected servers take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReturnPathChoice {
    /// Through this host, unless none is seen.
    #[default]
    Auto,
    /// Another one, all or some of them.
    Elsewhere,
}

/// The path of a file with a key; empty for none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "PathBuf")]
pub struct KeyFile(PathBuf);

impl KeyFile {
    /// Returns the path, if there is one.
    pub fn path(&self) -> Option<&Path> {
        (!self.0.as_os_str().is_empty()).then_some(&self.0)
    }
}

impl TryFrom<PathBuf> for KeyFile {
    type Error = String;

    fn try_from(path: PathBuf) -> Result<Self, Self::Error> {
        if path.is_absolute() || path.as_os_str().is_empty() {
            return Ok(Self(path));
        }
        Err(format!("\"{}\" is not a valid path for the key: it must start with /", path.display()))
    }
}

/// A limit on memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "TypedSize", into = "String")]
pub enum MemoryLimit {
    /// A quarter of the host's memory, and at least 128 MiB.
    Auto,
    /// This much.
    AtMost(ByteSize),
}

/// A size as it is typed: bytes, or text.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a size such as \"256 MiB\", or \"auto\"")]
enum TypedSize {
    Bytes(u64),
    Text(String),
}

impl TryFrom<TypedSize> for MemoryLimit {
    type Error = String;

    fn try_from(typed: TypedSize) -> Result<Self, Self::Error> {
        match typed {
            TypedSize::Bytes(bytes) => Ok(Self::AtMost(ByteSize(bytes))),
            TypedSize::Text(text) if text == "auto" => Ok(Self::Auto),
            TypedSize::Text(text) => text.parse().map(Self::AtMost).map_err(|_| {
                format!("{text:?} is no size: write \"auto\", or a number with a unit such as \"256 MiB\"")
            }),
        }
    }
}

impl fmt::Display for MemoryLimit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => formatter.write_str("auto"),
            // In the largest unit that is exact, so that every difference is visible.
            Self::AtMost(ByteSize(bytes)) => {
                let unit =
                    [("GiB", 30), ("MiB", 20), ("KiB", 10)].into_iter().find(|(_, shift)| bytes % (1 << shift) == 0);
                let (unit, shift) = unit.unwrap_or(("B", 0));
                write!(formatter, "{} {unit}", bytes >> shift)
            }
        }
    }
}

impl From<MemoryLimit> for String {
    fn from(limit: MemoryLimit) -> Self {
        limit.to_string()
    }
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
