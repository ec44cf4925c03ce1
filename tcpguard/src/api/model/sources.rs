//! `GET /sources`, and what is known of one, or would become of its packets.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{BlockEntry, ListEntry};
use crate::events::Event;

/// A source.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Source {
    /// Its address.
    pub source: String,
    /// SYNs, those sent again among them.
    pub syn: u64,
    /// Handshakes completed.
    pub completed: u64,
    /// Handshakes half open.
    pub half_open: u64,
    /// SYN-ACKs sent to it again.
    pub retried: u64,
    /// Resets.
    pub resets: u64,
    /// SYNs dropped.
    pub dropped: u64,
    /// SYNs challenged.
    pub challenged: u64,
    /// Whether it has completed a handshake within `challenge.proven_for`.
    pub proven: bool,
    /// Until when it is blocked.
    pub blocked_until: Option<Timestamp>,
    /// Since when it has an entry.
    pub first_seen: Timestamp,
    /// When it last sent a SYN or completed a handshake.
    pub last_seen: Timestamp,
}

/// `GET /sources/{address}`: everything that is known of one source.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Why {
    /// Its address.
    pub address: String,
    /// What becomes of its SYNs, and all that follows, in sentences.
    pub summary: Vec<String>,
    /// Commands that let it in; none where it is.
    pub how_to_let_in: Vec<String>,
    /// Its entry in the source table.
    pub source: Option<Source>,
    /// The entries of lists that it falls under.
    pub lists: Vec<ListEntry>,
    /// The blocks by judgement that it falls under.
    pub blocks: Vec<BlockEntry>,
    /// Its handshakes in state SYN_RECV.
    pub half_open_in_kernel: u64,
    /// The latest events about it, or a network that it is in; the oldest first.
    pub events: Vec<Event>,
}

/// `POST /explain`: what would become of one packet.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// The packet, in short.
    pub packet: String,
    /// pass, drop, answer (with a SYN-ACK) or abort.
    pub verdict: String,
    /// Where that was decided: parse, flags, guard, not_a_syn, port_zero, rules, payload, block, limit, challenge, destination
    /// or account.
    pub stage: String,
    /// What it would be counted as.
    pub counted_as: Vec<String>,
    /// Why it would be dropped, if anything were.
    pub would_drop: Option<String>,
    /// On what entry it was decided, and why.
    pub reason: String,
}

/// A network.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Prefix {
    /// In CIDR form.
    pub prefix: String,
    /// SYNs, since the network has been among the busy ones.
    pub syn: u64,
    /// Handshakes completed or reset, and SYNs sent again, since then.
    pub ended: u64,
    /// When it last sent a SYN.
    pub last_seen: Timestamp,
}
