//! Challenges: a cookie in a SYN-ACK that the datapath sends, or waiting for the SYN to be retransmitted. The daemon
//! decides for each port which of them, if any ([`listeners`]).
//!
//! | module | subject |
//! | --- | --- |
//! | [`listeners`] | which SYNs may be challenged |
//! | [`answer`] | turning a SYN into its SYN-ACK |
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
pub mod returned_cookie;

use crate::verdict::Verdict;

/// How the SYN of an unproven source is challenged.
#[derive(Clone, Copy)]
pub enum Challenge {
    /// Not at all.
    None,
    /// It is answered with a cookie.
    Cookie,
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
