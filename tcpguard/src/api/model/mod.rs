//! The JSON of every answer. Field names are a contract.

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

/// Why a request has no answer.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// One sentence.
    pub error: String,
}

/// `GET /healthz` and `/readyz`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// ok.
    pub status: String,
}

/// `/stats` of a host under attack, for tests of what is made from it.
#[cfg(test)]
pub(crate) fn sample() -> Stats {
    let text = include_str!("../sample.json");
    serde_json::from_str(text).unwrap_or_else(|error| panic!("the sample is not /stats: {error}"))
}
