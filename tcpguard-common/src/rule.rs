//! What the lists say of a network: looked up by the longest prefix that matches. The daemon has already
//! resolved what several entries say of the same address, so that one look-up decides.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What holds for a network. Times are jiffies: from then on it does not hold any more.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Rule {
    /// Not 0: it is always let in, whatever else is said of it.
    pub is_allowed: u64,
    /// Until when its SYNs are dropped, by an operator's word. [`FOREVER`] for no end.
    pub denied_until: u64,
    /// Until when the SYNs of its unproven sources are dropped, by judgement.
    pub blocked_until: u64,
}

/// No end.
pub const FOREVER: u64 = u64::MAX;

/// What a rule says of a source at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing.
    Ordinary,
    /// It is always let in.
    Allowed,
    /// It is not let in.
    Denied,
    /// It is not let in, unless it has completed a handshake.
    Suspended,
}

impl Rule {
    /// What holds where both are said.
    #[must_use]
    pub const fn joined(&self, other: &Self) -> Self {
        const fn later(left: u64, right: u64) -> u64 {
            if left > right { left } else { right }
        }
        Self {
            is_allowed: self.is_allowed | other.is_allowed,
            denied_until: later(self.denied_until, other.denied_until),
            blocked_until: later(self.blocked_until, other.blocked_until),
        }
    }

    /// What it says at this moment.
    #[inline(always)]
    pub const fn standing(&self, jiffies: u64) -> Standing {
        if self.is_allowed != 0 {
            Standing::Allowed
        } else if jiffies < self.denied_until {
            Standing::Denied
        } else if jiffies < self.blocked_until {
            Standing::Suspended
        } else {
            Standing::Ordinary
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allowed_wins_and_denied_goes_before_suspended() {
        let all = Rule { is_allowed: 1, denied_until: FOREVER, blocked_until: FOREVER };
        assert_eq!(all.standing(5), Standing::Allowed);
        assert_eq!(Rule { is_allowed: 0, ..all }.standing(5), Standing::Denied);
        assert_eq!(Rule { is_allowed: 0, denied_until: 5, ..all }.standing(5), Standing::Suspended);
        assert_eq!(Rule { blocked_until: 5, ..Rule::default() }.standing(5), Standing::Ordinary);
        assert_eq!(Rule { blocked_until: 5, ..Rule::default() }.standing(4), Standing::Suspended);
    }
}
