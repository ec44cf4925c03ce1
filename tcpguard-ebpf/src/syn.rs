//! A SYN on its way through the stages.

use tcpguard_common::{
    abi::counters::{Cause, DropReason},
    packet::Segment,
};

use crate::{
    accounting,
    behind::places::Place,
    lease::Lease,
    source::{Source, client_of, connection_of},
    time::Now,
    verdict::Verdict,
};

/// A SYN, the time at which it arrived, and what the lease permits at that time.
pub struct Syn<'a> {
    pub segment: &'a Segment,
    pub source: Source,
    pub now: Now,
    pub lease: Lease,
    /// What it is counted under.
    pub place: Place,
}

impl<'a> Syn<'a> {
    #[inline(always)]
    pub fn new(segment: &'a Segment) -> Self {
        let now = Now::read();
        let place = Place::here(segment.destination_port);
        Self { segment, source: Source::new(segment.source), now, lease: Lease::read(now), place }
    }

    /// A SYN to a destination behind this host.
    #[inline(always)]
    pub fn behind(segment: &'a Segment, number: u32) -> Self {
        Self { place: Place { number, is_behind: true }, ..Self::new(segment) }
    }

    /// Returns the hash of the connection that the SYN asks for.
    #[inline(always)]
    pub fn connection(&self) -> u64 {
        connection_of(client_of(self.source, self.segment), self.segment)
    }

    /// Ends the pipeline with a drop, if the lease permits drops; see [`Lease::drop`].
    #[inline(always)]
    pub fn drop(&self, reason: DropReason) -> Result<(), Verdict> {
        self.lease.drop(reason).inspect_err(|_| {
            let is_judgement = matches!(reason.cause(), Cause::Judgement);
            accounting::not_begun(self.place.number, is_judgement);
        })
    }
}
