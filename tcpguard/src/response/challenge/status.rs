//! The status of challenges as it is reported.

use std::{collections::BTreeMap, time::Duration};

/// The status of challenges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChallengeStatus {
    /// Ports that are challenged.
    pub ports: Vec<ChallengedPort>,
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
