//! The ring buffer of events, which the daemon receives at once.

use aya_ebpf::{btf_maps::RingBuf, macros::btf_map};
use tcpguard_common::abi::{counters::Counter, event::Event};

use crate::accounting::counters;

#[btf_map]
static EVENTS: RingBuf<Event, 65_536> = RingBuf::new();

/// Reports `event`, or counts it as lost if the buffer is full.
#[inline(always)]
pub fn report(event: Event) {
    match EVENTS.reserve(0) {
        Some(mut slot) => {
            slot.write(event);
            slot.submit(0);
        }
        None => counters::add(Counter::EventsLost),
    }
}
