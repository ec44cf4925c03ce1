//! What is being done, as it is reported.

use std::{collections::BTreeMap, time::Duration};

/// What is being done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChallengeStatus {
    /// Ports that are challenged.
    pub ports: Vec<ChallengedPort>,
    /// Ports that should be, and are not, and why.
    pub left_alone: BTreeMap<u16, String>,
    /// Why no cookies can be sent.
    pub no_cookies: Option<String>,
    /// Seconds until the last cookie that was sent is good for nothing; kernel settings stay until then.
    pub cookies_good_for: Option<Duration>,
}

/// A port that is challenged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChallengedPort {
    /// Which.
    pub port: u16,
    /// By a cookie, or else by dropping the first SYN.
    pub by_cookie: bool,
    /// For how long.
    pub lasts: Duration,
    /// Segments that belong to no connection are dropped there.
    pub is_guarded: bool,
}
