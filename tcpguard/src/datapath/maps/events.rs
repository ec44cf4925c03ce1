//! Events that the datapath reports immediately, through a ring buffer.

use aya::maps::{MapData, RingBuf};
use tcpguard_common::abi::{event::Event, names::map};
use tokio::io::unix::AsyncFd;
use zerocopy::FromBytes;

use super::super::{DatapathError, readiness::readable};

/// Receives events.
pub struct EventRing(AsyncFd<RingBuf<MapData>>);

impl EventRing {
    pub(super) fn new(ring: RingBuf<MapData>) -> Result<Self, DatapathError> {
        readable(ring).map(Self).map_err(|source| DatapathError::Batch { map: map::EVENTS, source })
    }

    /// Waits until events are pending, and returns up to `most` of them.
    ///
    /// # Errors
    /// Returns an error if waiting for the ring buffer fails.
    pub async fn receive(&mut self, most: usize) -> std::io::Result<Vec<Event>> {
        let mut guard = self.0.readable_mut().await?;
        let ring = guard.get_inner_mut();
        let mut events = Vec::new();
        while events.len() < most {
            let Some(item) = ring.next() else {
                guard.clear_ready();
                break;
            };
            events.extend(Event::read_from_bytes(&item));
        }
        Ok(events)
    }
}
