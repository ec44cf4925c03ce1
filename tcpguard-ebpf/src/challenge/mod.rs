//! Challenges: a SYN-ACK that the datapath sends, either with a cookie or for the client to reset, or waiting for the SYN to
//! be retransmitted. The daemon decides for each port which of them, if any ([`listeners`]).
//!
//! | module | subject |
//! | --- | --- |
//! | [`listeners`] | which SYNs may be challenged |
//! | [`answer`] | turning a SYN into its SYN-ACK with a cookie |
//! | [`prompt`] | turning a SYN into a SYN-ACK that its client resets |
//! | [`reply`] | what both have in common |
//! | [`safe_reset`] | the resets by which clients answer |
//! | [`cookie`] | the kernel's SYN cookies |
//! | [`returned_cookie`] | cookies that were returned |
//! | [`first_syn`] | SYNs that are to be retransmitted |
//! | [`port_load`] | starting to challenge without the daemon |
//! | [`prime`] | preparing a listener for cookies |

pub mod answer;
pub mod cookie;
pub mod first_syn;
pub mod listeners;
pub mod port_load;
pub mod prime;
pub mod prompt;
mod reply;
pub mod returned_cookie;
pub mod safe_reset;

use aya_ebpf::{btf_maps::ProgramArray, macros::btf_map};
use tcpguard_common::abi::{
    counters::Counter,
    names::answer::{PLACES, WITH_COOKIE},
};

use crate::{accounting::counters, hook::Context, settings, verdict::Verdict};

/// The programs that continue with a SYN, installed by the daemon.
#[btf_map]
static ANSWER: ProgramArray<PLACES> = ProgramArray::new();

/// Continues in one of the programs above. It returns only if that fails.
#[inline(always)]
pub fn continue_in(context: &Context, place: u32) {
    // SAFETY: on success it does not return.
    unsafe { ANSWER.tail_call(context, place) };
}

/// Passes the frame on to a program that answers SYNs. It returns only if that fails.
#[inline(always)]
pub fn answer_next(context: &Context, place: u32) {
    if place != WITH_COOKIE || settings::can_make_cookies() != 0 {
        continue_in(context, place);
    }
    counters::add(Counter::ChallengeFailed);
}

/// How the SYN of an unproven source is challenged.
#[derive(Clone, Copy)]
pub enum Challenge {
    /// Not at all.
    None,
    /// It is answered with a cookie.
    Cookie,
    /// It is answered so that its client resets it, unless it is released.
    Reset,
    /// It is dropped unless it is a retransmit.
    Retransmit,
}

impl Challenge {
    /// Returns whether the SYN is answered with a cookie.
    #[inline(always)]
    pub const fn is_cookie(self) -> bool {
        matches!(self, Self::Cookie)
    }

    /// Returns the verdict on a SYN that would pass as `verdict` if it were not challenged.
    #[inline(always)]
    pub fn applied_to(self, verdict: Verdict) -> Verdict {
        if self.is_cookie() { verdict.challenged() } else { verdict }
    }
}
