//! What is done, as `GET /stats` shows it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What is done at this moment.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Measures {
    /// Kernel settings that are changed for as long as the attack lasts.
    pub kernel_settings: Vec<Setting>,
    /// Sources and networks that are blocked by judgement; `/lists` names them.
    pub blocks: u64,
    /// What would make backlogs large enough.
    pub advice: Vec<String>,
    /// How SYNs of unproven sources are challenged.
    #[serde(default)]
    pub challenge: Challenge,
}

/// How SYNs of unproven sources are challenged.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Challenge {
    /// Ports that are challenged now.
    pub ports: Vec<ChallengedPort>,
    /// Ports that should be, and are not.
    pub left_alone: Vec<PortLeftAlone>,
    /// Why no cookies can be sent; null where they can.
    pub no_cookies: Option<String>,
    /// Seconds for which cookies that were sent are still good: kernel settings stay until then. Null for none.
    pub cookies_good_for_seconds: Option<u64>,
    /// Cookies that came back and were valid.
    pub cookies_returned: u64,
    /// SYNs that were to be answered, and could not be: they passed.
    pub failed: u64,
}

/// A port that is challenged.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ChallengedPort {
    /// Which.
    pub port: u16,
    /// cookie or retransmit.
    pub method: String,
    /// For how long it has been.
    pub seconds: u64,
    /// Segments that belong to no connection are dropped there.
    pub guarded: bool,
}

/// A port that should be challenged, and is not.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct PortLeftAlone {
    /// Which.
    pub port: u16,
    /// Why.
    pub reason: String,
}

/// A kernel setting.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Setting {
    /// Its name.
    pub name: String,
    /// What it is now.
    pub value: String,
    /// What it was, and will be.
    pub original: String,
}
