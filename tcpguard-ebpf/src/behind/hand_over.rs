//! Continuing with a SYN in the program that judges SYNs to destinations behind this host.

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
use tcpguard_common::abi::{lease::flag, names::answer::BEHIND, place::is_protected};

use super::places;
use crate::{challenge, hook::Context, local, syn::Syn};

/// The place of the SYN that the program continues with.
#[btf_map]
static CONTINUED: PerCpuArray<u32, 1> = PerCpuArray::new();

/// Continues with a SYN for another host in the program that judges it, if the host is protected. It returns if not.
#[inline(always)]
pub fn to_other_host(context: &Context, syn: &Syn) {
    if syn.lease.has(flag::PROTECTED) {
        let place = places::of(syn.segment.destination, syn.segment.destination_port);
        if is_protected(place) {
            continue_with(context, place);
        }
    }
}

/// Likewise with a SYN for this host to a port without a listener, if it is redirected.
#[inline(always)]
pub fn to_other_port(context: &Context, syn: &Syn) {
    let port = syn.segment.destination_port;
    if syn.lease.has(flag::REDIRECTED) && local::is_redirected(port) {
        continue_with(context, port.into());
    } else {
        to_other_host(context, syn);
    }
}

#[inline(always)]
fn continue_with(context: &Context, place: u32) {
    if let Some(continued) = CONTINUED.get_ptr_mut(0) {
        // SAFETY: the element belongs to this CPU, and the program that reads it runs next.
        unsafe { *continued = place };
        challenge::continue_in(context, BEHIND);
    }
}

/// Returns the place of the SYN that was handed over.
#[inline(always)]
pub fn place() -> Option<u32> {
    // SAFETY: as above.
    CONTINUED.get_ptr(0).map(|place| unsafe { *place })
}
