//! Starting to challenge a port without waiting for the daemon: as soon as its SYNs exceed a limit.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use tcpguard_common::{
    abi::{
        event::{Event, kind},
        place::PLACES,
    },
    address::Address,
    challenge::port_load::PortLoad,
};

use crate::{accounting, events, lease, settings, syn::Syn, time::Now};

#[btf_map]
static PORT_LOADS: Array<PortLoad, PLACES> = Array::new();

/// Counts a SYN of an unproven source; returns true if too many arrive at its place, and for a second from then on.
#[inline(always)]
pub fn is_exceeded(syn: &Syn) -> bool {
    let place = syn.place.number;
    let (now, max) = (syn.now, lease::max_port_load());
    let Some(load) = PORT_LOADS.get_ptr_mut(place) else { return false };
    // SAFETY: elements of an array live as long as the program; what several CPUs add to is changed atomically, and the
    // other word is written at once.
    let load = unsafe { &mut *load };
    if max != 0 && accounting::is_portion_full(place, now.slot()) && u64::from(load.add(now.slot())) > max {
        if now.jiffies >= load.challenged_until {
            report(place);
        }
        load.challenged_until = now.jiffies + settings::ticks_per_second();
    }
    now.jiffies < load.challenged_until
}

/// Returns whether too many SYNs arrived at a place within the last seconds: as long as an answer and its reset may take.
#[inline(always)]
pub fn was_exceeded(place: u32, now: Now) -> bool {
    const UNDER_WAY: u64 = 4;
    PORT_LOADS
        .get(place)
        .is_some_and(|load| now.jiffies < load.challenged_until + UNDER_WAY * settings::ticks_per_second())
}

/// Returns whether one more retransmit to a port passes, although its client has not answered with a reset.
#[inline(always)]
pub fn takes_repeat(syn: &Syn) -> bool {
    let Some(load) = PORT_LOADS.get_ptr_mut(syn.place.number) else { return true };
    // SAFETY: as above.
    unsafe { &mut *load }.takes_repeat(syn.now.slot())
}

#[inline(always)]
fn report(place: u32) {
    let kind = kind::CHALLENGE_TRIGGERED;
    events::report(Event { kind, reason: place, source: Address::default(), half_open: 0 });
}
