//! The ring buffer of events, which the daemon receives at once.

use aya_ebpf::{btf_maps::RingBuf, macros::btf_map};
use tcpguard_common::{
    abi::{
        counters::Counter,
        event::{Event, kind},
    },
    address::Address,
};

use crate::accounting::counters;

#[btf_map]
static EVENTS: RingBuf<Event, 65_536> = RingBuf::new();

/// Wakes the daemon. It is a global function, which the verifier checks on its own, because every path through the program
/// leads to it.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn wake_daemon() -> u32 {
    report(Event { kind: kind::HANDSHAKES_BEGUN, reason: 0, source: Address::from_words([0, 0]), half_open: 0 });
    0
}

/// Reports `event`, or counts it as lost if the buffer is full.
#[inline(always)]
pub fn report(event: Event) {
    match EVENTS.reserve(0) {
        Some(mut slot) => {
            let Event { kind, reason, source, half_open } = event;
            let to = slot.as_mut_ptr();
            // SAFETY: the slot is a whole event, which nothing else refers to before it is submitted. The stores are
            // volatile because the compiler replaces zeros next to each other by a call of `memset`, which stores byte
            // by byte.
            unsafe {
                (&raw mut (*to).kind).write_volatile(kind);
                (&raw mut (*to).reason).write_volatile(reason);
                (&raw mut (*to).source).write_volatile(source);
                (&raw mut (*to).half_open).write_volatile(half_open);
            }
            slot.submit(0);
        }
        None => counters::add(Counter::EventsLost),
    }
}
