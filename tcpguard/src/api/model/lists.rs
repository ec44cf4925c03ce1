//! The response of `GET /lists`, and of the requests that change the lists.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::lists::ListName;

/// Response of `GET /lists`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ListReport {
    /// Networks whose SYNs are never dropped or challenged.
    pub allow: Vec<ListEntry>,
    /// Networks whose SYNs are dropped, unless the source is also on the allow list.
    pub deny: Vec<ListEntry>,
    /// Sources and prefixes blocked by tcpguard; those that expire first come first.
    pub blocks: Vec<BlockEntry>,
}

/// An entry of a list.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ListEntry {
    /// An address, or a network in CIDR notation.
    pub network: String,
    /// `allow` or `deny`.
    pub list: ListName,
    /// Where the entry comes from: `configuration`, `file PATH`, `manual` or `ssh`.
    pub origin: String,
    /// The reason given for the entry.
    pub reason: Option<String>,
    /// When the entry expires; null if it does not.
    pub expires: Option<Timestamp>,
}

/// A block of a source or prefix.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct BlockEntry {
    /// An address, or a network in CIDR notation.
    pub network: String,
    /// When the block ends.
    pub expires: Timestamp,
    /// How many times it has been blocked: 1 for the first block.
    pub times: u32,
}

/// Response to a `DELETE`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Removed {
    /// The network removed from the list.
    pub network: String,
    /// Number of blocks lifted with it.
    pub blocks_lifted: usize,
}
