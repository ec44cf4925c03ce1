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

/// A port that is challenged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChallengedPort {
    /// The port, in host byte order.
    pub port: u16,
    /// `true` if SYNs are answered with a cookie, `false` if the first SYN is dropped.
    pub by_cookie: bool,
    /// How long it has been challenged.
    pub lasts: Duration,
    /// Stray segments to this port are dropped.
    pub is_guarded: bool,
}
