//! The responses of `GET /sources`, `GET /sources/{address}` and `POST /explain`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{BlockEntry, ListEntry};
use crate::events::Event;

/// A source and its counters, from its entry in the source table.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Source {
    /// The address.
    pub source: String,
    /// SYNs received, including retransmits.
    pub syn: u64,
    /// Handshakes completed.
    pub completed: u64,
    /// Half-open handshakes, as counted by the datapath.
    pub half_open: u64,
    /// SYN-ACKs retransmitted to this source.
    pub retried: u64,
    /// Resets received.
    pub resets: u64,
    /// SYNs dropped, or answered so that the client resets them.
    pub dropped: u64,
    /// SYNs challenged.
    pub challenged: u64,
    /// Whether the source has completed a handshake within `challenge.proven_for`.
    pub proven: bool,
    /// When its block ends; null if it is not blocked.
    pub blocked_until: Option<Timestamp>,
    /// When its entry was created.
    pub first_seen: Timestamp,
    /// When it last sent a SYN or completed a handshake.
    pub last_seen: Timestamp,
}

/// Response of `GET /sources/{address}`: everything known about one source.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Why {
    /// The address.
    pub address: String,
    /// Sentences that explain what happens to its SYNs, and why.
    pub summary: Vec<String>,
    /// Commands that let the source in; empty if none is needed.
    pub how_to_let_in: Vec<String>,
    /// Its entry in the source table; null if it has none.
    pub source: Option<Source>,
    /// The grade of the evidence that its treatment rests on: `forgeable` (SYNs and half-open handshakes with its
    /// address, which anybody can send), `completed` (it completed a handshake) or `operator` (a list entry); null if
    /// nothing is known.
    pub grade: Option<String>,
    /// The list entries that cover it.
    pub lists: Vec<ListEntry>,
    /// The blocks that cover it.
    pub blocks: Vec<BlockEntry>,
    /// Its half-open handshakes in the kernel (SYN_RECV).
    pub half_open_in_kernel: u64,
    /// The latest events about it or a network that contains it; the oldest first.
    pub events: Vec<Event>,
}

/// What would happen to one packet, from the response of `POST /explain`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// A short description of the packet.
    pub packet: String,
    /// `pass`, `drop`, `answer` (reply with a SYN-ACK) or `abort` (the program failed; the kernel drops the packet).
    pub verdict: String,
    /// The stage that decided: `parse`, `flags`, `guard`, `not_a_syn`, `port_zero`, `rules`, `payload`, `block`,
    /// `limit`, `challenge`, `destination` or `account`.
    pub stage: String,
    /// The counters that the packet would increment.
    pub counted_as: Vec<String>,
    /// The drop reason that would apply if dropping were enabled; null if none would.
    pub would_drop: Option<String>,
    /// The entry that decided, and why, in one sentence.
    pub reason: String,
}

/// A prefix and its counters.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Prefix {
    /// The network, in CIDR notation.
    pub prefix: String,
    /// SYNs that began a handshake, since the prefix became one of the busy ones.
    pub syn: u64,
    /// Handshakes completed or reset, and SYNs retransmitted, since then.
    pub ended: u64,
    /// When it last sent a SYN.
    pub last_seen: Timestamp,
}
