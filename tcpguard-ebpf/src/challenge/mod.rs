//! Challenging SYNs whose sources are not proven: by a cookie in a SYN-ACK that is sent from here, or by
//! waiting for the SYN to be sent again. Which, and whether, the daemon says for each port.

mod answer;
mod cookie;
mod destinations;
mod first_syn;
mod load;
pub mod prime;
mod spent;

use aya_ebpf::{btf_maps::ProgramArray, macros::btf_map};
use tcpguard_common::{
    challenge::{PortChallenge, port_flag},
    control::flag,
    counters::Counter,
    drops::DropReason,
};

use crate::{accounts::counts, arrival::Arrival, hook::Context, outcome::Outcome, settings};
pub use answer::send as answer;
pub use cookie::is_returned as is_returned_cookie;
pub use destinations::{has_listener, note_listener, terms_of};
pub use spent::{acknowledges as acknowledges_cookie, follows as follows_cookie, note as note_returned, spend};

/// How the SYN of an unproven source is challenged.
#[derive(Clone, Copy)]
pub enum Challenge {
    /// It is not.
    None,
    /// By a cookie.
    Cookie,
    /// By waiting for it to come again.
    Retransmit,
}

impl Challenge {
    /// What its port's terms say of a SYN whose source is not proven.
    #[inline(always)]
    pub fn of(arrival: &Arrival) -> Self {
        if !arrival.leave.has(flag::CHALLENGE) {
            return Self::None;
        }
        let Some(terms) = terms_of(arrival.segment.destination_port) else { return Self::None };
        if terms.flags == 0 {
            return Self::None;
        }
        let flags = wanted(terms, arrival);
        if flags & port_flag::COOKIE != 0 && destinations::takes_cookies(terms, arrival.segment) {
            Self::Cookie
        } else if flags & port_flag::RETRANSMIT != 0
            && (!arrival.leave.has(flag::LOCAL_KNOWN) || has_listener(terms, arrival.segment))
        {
            // Where the host's addresses are not known, others' SYNs wait as well: they come again all the same.
            Self::Retransmit
        } else {
            Self::None
        }
    }

    /// Whether it is by a cookie.
    #[inline(always)]
    pub const fn is_cookie(self) -> bool {
        matches!(self, Self::Cookie)
    }

    /// The outcome of a SYN that is not let in for now: it came for the first time.
    #[inline(always)]
    pub fn refusal(self, arrival: &Arrival) -> Option<Outcome> {
        match self {
            Self::Retransmit if !first_syn::is_repeat(arrival) => arrival.drop(DropReason::FirstSyn),
            _ => None,
        }
    }

    /// What becomes of a SYN that has been accounted as `accounted`.
    #[inline(always)]
    pub fn after(self, accounted: Outcome) -> Outcome {
        if self.is_cookie() { accounted.challenged() } else { accounted }
    }
}

/// The program that answers SYNs, where the daemon has put it here.
#[btf_map]
static ANSWER: ProgramArray<1> = ProgramArray::new();

/// Has the frame answered. It returns only where that cannot be.
#[inline(always)]
pub fn answer_next(context: &Context) {
    if settings::can_make_cookies() != 0 {
        // SAFETY: on success it does not return.
        unsafe { ANSWER.tail_call(context, 0) };
    }
    counts::add(Counter::ChallengeFailed);
}

/// What the terms want at this moment: more once too many SYNs come.
#[inline(always)]
fn wanted(terms: &PortChallenge, arrival: &Arrival) -> u32 {
    const ON: u32 = port_flag::COOKIE | port_flag::RETRANSMIT;
    const TRIGGERS: u32 = port_flag::TRIGGERS_COOKIE | port_flag::TRIGGERS_RETRANSMIT;
    if terms.has(ON) || !terms.has(TRIGGERS) || !load::is_too_much(arrival) {
        return terms.flags;
    }
    if terms.has(port_flag::TRIGGERS_COOKIE) { port_flag::COOKIE } else { port_flag::RETRANSMIT }
}
