//! Telling the daemon at once.

use aya_ebpf::{btf_maps::RingBuf, macros::btf_map};
use tcpguard_common::{counters::Counter, event::SourceBusy};

use crate::accounts::counts;

#[btf_map]
static EVENTS: RingBuf<SourceBusy, 65_536> = RingBuf::new();

/// Reports `event`, or counts that it could not be.
#[inline(always)]
pub fn report(event: SourceBusy) {
    match EVENTS.reserve(0) {
        Some(mut slot) => {
            slot.write(event);
            slot.submit(0);
        }
        None => counts::add(Counter::EventsLost),
    }
}
