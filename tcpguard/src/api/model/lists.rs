//! `GET /lists`, and what changes them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::lists::ListName;

/// `GET /lists`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ListReport {
    /// Who is always let in.
    pub allow: Vec<ListEntry>,
    /// Who is never, unless allowed.
    pub deny: Vec<ListEntry>,
    /// Who is blocked by judgement; those that are soonest over first.
    pub blocks: Vec<BlockEntry>,
}

/// One entry of a list.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ListEntry {
    /// An address, or a network in CIDR form.
    pub network: String,
    /// allow or deny.
    pub list: ListName,
    /// configuration, file PATH, manual or ssh.
    pub origin: String,
    /// Why it is there.
    pub reason: Option<String>,
    /// Until when.
    pub expires: Option<Timestamp>,
}

/// A block by judgement.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct BlockEntry {
    /// An address, or a network in CIDR form.
    pub network: String,
    /// Until when.
    pub expires: Timestamp,
    /// For which time.
    pub times: u32,
}

/// The answer to a `DELETE`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Removed {
    /// What was taken off the list.
    pub network: String,
    /// Blocks by judgement that were lifted with it.
    pub blocks_lifted: usize,
}
