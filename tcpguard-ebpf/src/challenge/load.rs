//! Starting to challenge before the daemon says so: when more SYNs come to a port than it lets.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use tcpguard_common::{
    address::Address,
    challenge::load::PortLoad,
    event::{Event, kind},
};

use crate::{accounts, arrival::Arrival, control, events, settings};

#[btf_map]
static PORT_LOADS: Array<PortLoad, 65_536> = Array::new();

/// Counts a SYN of an unproven source; true where too many come to its port, and for a second from then on.
#[inline(always)]
pub fn is_too_much(arrival: &Arrival) -> bool {
    let port = arrival.segment.destination_port;
    let (now, most) = (arrival.now, control::most_load());
    let Some(load) = PORT_LOADS.get_ptr_mut(port.into()) else { return false };
    // SAFETY: elements of an array live as long as the program; what CPUs add to is changed atomically, and
    // the other word is written at once.
    let load = unsafe { &mut *load };
    if most != 0 && accounts::is_portion_full(port, now.moment()) && u64::from(load.add(now.moment())) > most {
        if now.jiffies >= load.challenged_until {
            report(port);
        }
        load.challenged_until = now.jiffies + settings::ticks_per_second();
    }
    now.jiffies < load.challenged_until
}

#[inline(always)]
fn report(port: u16) {
    let kind = kind::CHALLENGE_TRIGGERED;
    events::report(Event { kind, reason: port.into(), source: Address::default(), half_open: 0 });
}
