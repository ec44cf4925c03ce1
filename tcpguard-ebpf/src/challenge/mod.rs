//! Challenging SYNs whose sources are not proven: by a cookie in a SYN-ACK that is sent from here, or by
//! waiting for the SYN to be sent again. Which, and whether, the daemon says for each port.

mod answer;
mod cookie;
mod destinations;
mod first_syn;
mod load;
pub mod prime;
mod spent;

use aya_ebpf::programs::XdpContext;
use tcpguard_common::{
    challenge::{PortChallenge, port_flag},
    control::flag,
    counters::Counter,
    drops::DropReason,
    packet::Segment,
};

use crate::{
    accounts::counts,
    arrival::Arrival,
    outcome::{Judged, Outcome},
};
pub use cookie::returned as returned_cookie;
pub use destinations::{has_listener, note_listener, terms_of};
pub use spent::{note as note_returned, spend};

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
        } else if flags & port_flag::RETRANSMIT != 0 && has_listener(terms, arrival.segment) {
            Self::Retransmit
        } else {
            Self::None
        }
    }

    /// The outcome of a SYN that is not let in for now: it came for the first time.
    #[inline(always)]
    pub fn refusal(self, arrival: &Arrival) -> Option<Outcome> {
        match self {
            Self::Retransmit if !first_syn::is_repeat(arrival) => arrival.drop(DropReason::FirstSyn),
            _ => None,
        }
    }

    /// What becomes of a SYN that has been accounted as `outcome`.
    #[inline(always)]
    pub fn after(self, outcome: Outcome) -> Judged {
        Judged { outcome, is_challenged: matches!(self, Self::Cookie) && outcome.answered().is_some() }
    }
}

/// The outcome of a SYN that has been accounted as `accounted`, and is to be answered: where that cannot be, it
/// goes on.
#[inline(always)]
pub fn answer(context: &XdpContext, segment: &Segment, accounted: Outcome) -> Outcome {
    match accounted.answered() {
        Some(answered) if answer::send(context, segment) => answered,
        _ => {
            counts::add(Counter::ChallengeFailed);
            accounted
        }
    }
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
