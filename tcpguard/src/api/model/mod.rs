//! The JSON of every response. Field names are a contract with clients.

mod half_open;
mod history;
mod lists;
mod measures;
mod sources;
mod stats;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use half_open::*;
pub use history::*;
pub use lists::*;
pub use measures::*;
pub use sources::*;
pub use stats::*;

/// Why a request failed.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// The reason, in one sentence.
    pub error: String,
}

/// Response of `GET /healthz` and `GET /readyz`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// Always `ok`.
    pub status: String,
}

/// Returns `/stats` of a host under attack, for tests.
#[cfg(test)]
pub(crate) fn sample() -> Stats {
    let text = include_str!("../sample.json");
    serde_json::from_str(text).unwrap_or_else(|error| panic!("the sample is not /stats: {error}"))
}
