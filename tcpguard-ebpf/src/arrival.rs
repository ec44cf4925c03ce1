//! A SYN on its way through the stages.

use tcpguard_common::{address::Address, drops::DropReason, hash, packet::Segment};

use crate::{accounts, control::Leave, outcome::Outcome, settings, time::Now};

/// A source and its hash, which every structure is indexed by.
#[derive(Clone, Copy)]
pub struct Source {
    pub address: Address,
    pub hash: u64,
}

impl Source {
    #[inline(always)]
    pub fn new(address: Address) -> Self {
        Self { address, hash: hash::address(settings::hash_key(), address) }
    }
}

/// The hash of the connection that a segment belongs to.
#[inline(always)]
pub fn connection_of(source: Source, segment: &Segment) -> u64 {
    hash::connection(source.hash, segment.source_port, segment.destination_port)
}

/// A SYN, when it came, and what may be done with it.
pub struct Arrival<'a> {
    pub segment: &'a Segment,
    pub source: Source,
    pub now: Now,
    pub leave: Leave,
}

impl<'a> Arrival<'a> {
    #[inline(always)]
    pub fn new(segment: &'a Segment) -> Self {
        let now = Now::read();
        Self { segment, source: Source::new(segment.source), now, leave: Leave::read(now) }
    }

    /// The outcome where it is to be dropped for `reason`; see [`Leave::drop`].
    #[inline(always)]
    pub fn drop(&self, reason: DropReason) -> Option<Outcome> {
        let outcome = self.leave.drop(reason)?;
        accounts::not_begun(self.segment, reason.is_of_attack());
        Some(outcome)
    }
}
