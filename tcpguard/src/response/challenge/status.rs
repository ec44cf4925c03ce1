//! The status of challenges as it is reported.

use std::{collections::BTreeMap, time::Duration};

/// The status of challenges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChallengeStatus {
    /// Ports that are challenged.
    pub ports: Vec<ChallengedPort>,
    /// The networks of each `[[protect]]` section.
    pub protected: Vec<ProtectedStatus>,
    /// Ports that should be challenged but are not, with the reason.
    pub left_alone: BTreeMap<u16, String>,
    /// Why cookies cannot be sent.
    pub no_cookies: Option<String>,
    /// The time until the last cookie sent expires; kernel settings stay changed until then.
    pub cookies_good_for: Option<Duration>,
}

/// How SYNs to a port are challenged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// They are answered with a cookie.
    Cookie,
    /// They are answered so that their client resets them, and pass when they come again.
    Reset,
    /// The first SYN of a connection is dropped.
    Retransmit,
}

impl Method {
    /// Returns the name used in the API, messages and the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cookie => "cookie",
            Self::Reset => "reset",
            Self::Retransmit => "retransmit",
        }
    }
}

/// A port that is challenged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChallengedPort {
    /// The port, in host byte order.
    pub port: u16,
    /// How SYNs are challenged.
    pub method: Method,
    /// How long it has been challenged.
    pub lasts: Duration,
    /// Stray segments to this port are dropped.
    pub is_guarded: bool,
}

/// The way that the SYN-ACKs of protected servers take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReturnPath {
    /// Too few handshakes began to tell.
    #[default]
    Unknown,
    /// Through this host.
    Here,
    /// Another one: this host sees only what clients send (asymmetric routing).
    Elsewhere,
}

impl ReturnPath {
    /// Returns the name used in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Here => "here",
            Self::Elsewhere => "elsewhere",
        }
    }
}

/// What is done about SYNs to the networks of one `[[protect]]` section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProtectedStatus {
    /// The ports that are challenged.
    pub challenged: Vec<u16>,
    /// How they are challenged.
    pub method: Option<Method>,
    /// See [`ReturnPath`].
    pub return_path: ReturnPath,
}
