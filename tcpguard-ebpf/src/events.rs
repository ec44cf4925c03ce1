//! Telling the daemon at once.

use aya_ebpf::{btf_maps::RingBuf, macros::btf_map};
use tcpguard_common::{counters::Counter, event::Event};

use crate::accounts::counts;

#[btf_map]
static EVENTS: RingBuf<Event, 65_536> = RingBuf::new();

/// Reports `event`, or counts that it could not be.
#[inline(always)]
pub fn report(event: Event) {
    match EVENTS.reserve(0) {
        Some(mut slot) => {
            slot.write(event);
            slot.submit(0);
        }
        None => counts::add(Counter::EventsLost),
    }
}
