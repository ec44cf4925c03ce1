//! A token bucket per source that limits how many SYNs it may send. A completed handshake returns its token, so
//! that a client whose handshakes complete never runs out, however many connections it opens.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The rate at which a bucket fills. Tokens are divided into parts, as many per SYN as there are jiffies in a
/// second, so that each jiffy adds a whole number of parts.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Rate {
    /// Parts added per jiffy; equal to the SYNs permitted per second.
    pub per_jiffy: u32,
    /// Parts that a SYN takes; equal to the jiffies per second.
    pub per_syn: u32,
    /// Parts in a full bucket: one second's worth.
    pub most: u32,
    /// Padding that keeps the following fields aligned.
    reserved: u32,
}

/// A retransmitted SYN of a blocked source takes as much from the bucket as this many others: a forger may send every SYN
/// twice, at a client's interval.
const REPEAT_COST: u64 = 16;

impl Rate {
    /// All fields zero: no rate is set.
    pub const NONE: Self = Self { per_jiffy: 0, per_syn: 0, most: 0, reserved: 0 };

    /// Creates a rate of `syn_per_second` SYNs per second, with bursts of up to one second's worth.
    pub const fn new(syn_per_second: u32, ticks_per_second: u32) -> Self {
        Self {
            per_jiffy: syn_per_second,
            per_syn: ticks_per_second,
            most: syn_per_second.saturating_mul(ticks_per_second),
            reserved: 0,
        }
    }

    /// Adds the parts of `elapsed` jiffies to `tokens`.
    #[inline(always)]
    pub const fn fill(&self, tokens: &mut u32, elapsed: u64) {
        if elapsed == 0 {
            return;
        }
        // A greater number fills any bucket as well; the limit keeps the product within 64 bits.
        let elapsed = if elapsed < 1 << 32 { elapsed } else { 1 << 32 };
        let filled = (self.per_jiffy as u64 * elapsed).saturating_add(*tokens as u64);
        *tokens = if filled < self.most as u64 { filled as u32 } else { self.most };
    }

    /// Takes the parts of one SYN from `tokens`; returns false if there are too few.
    #[inline(always)]
    pub const fn take(&self, tokens: &mut u32) -> bool {
        if *tokens < self.per_syn {
            return false;
        }
        *tokens -= self.per_syn;
        true
    }

    /// Takes the parts of [`REPEAT_COST`] SYNs from `tokens`, or all of a full bucket that holds fewer; returns false if
    /// there are too few.
    #[inline(always)]
    pub const fn take_for_repeat(&self, tokens: &mut u32) -> bool {
        let cost = self.per_syn as u64 * REPEAT_COST;
        let cost = if cost < self.most as u64 { cost as u32 } else { self.most };
        if *tokens < cost {
            return false;
        }
        *tokens -= cost;
        true
    }

    /// Returns the parts of one SYN to `tokens`.
    #[inline(always)]
    pub const fn give_back(&self, tokens: &mut u32) {
        let filled = tokens.saturating_add(self.per_syn);
        *tokens = if filled < self.most { filled } else { self.most };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HZ: u32 = 250;

    #[test]
    fn a_retransmit_costs_more_but_never_more_than_a_full_bucket() {
        let rate = Rate::new(100, HZ);
        let mut tokens = rate.most;
        assert_eq!((0..10).filter(|_| rate.take_for_repeat(&mut tokens)).count(), 6);
        let slow = Rate::new(2, HZ);
        let mut tokens = slow.most;
        assert!(slow.take_for_repeat(&mut tokens) && !slow.take_for_repeat(&mut tokens));
    }

    #[test]
    fn a_second_brings_as_many_as_the_rate_says() {
        let rate = Rate::new(100, HZ);
        let mut tokens = 0;
        let mut passed = 0;
        for _ in 0..10 * HZ {
            rate.fill(&mut tokens, 1);
            passed += u32::from(rate.take(&mut tokens));
        }
        assert_eq!(passed, 1000);
    }

    #[test]
    fn a_burst_is_a_second_s_worth() {
        let rate = Rate::new(100, HZ);
        let mut tokens = 0;
        rate.fill(&mut tokens, u64::MAX);
        assert_eq!((0..1000).filter(|_| rate.take(&mut tokens)).count(), 100);
    }

    #[test]
    fn who_completes_handshakes_never_runs_out() {
        let rate = Rate::new(10, HZ);
        let mut tokens = rate.most;
        for _ in 0..100_000 {
            assert!(rate.take(&mut tokens));
            rate.give_back(&mut tokens);
        }
    }

    #[test]
    fn the_highest_rate_does_not_overflow() {
        let rate = Rate::new(100_000_000, 1000);
        let mut tokens = 0;
        rate.fill(&mut tokens, u64::MAX);
        assert!(rate.take(&mut tokens));
    }

    #[test]
    fn what_is_given_back_is_one_syn_and_fills_at_most_the_bucket() {
        let rate = Rate::new(100, HZ);
        let mut tokens = 0;
        rate.give_back(&mut tokens);
        assert_eq!(tokens, rate.per_syn);
        tokens = rate.most - 1;
        rate.give_back(&mut tokens);
        assert_eq!(tokens, rate.most);
    }
}
