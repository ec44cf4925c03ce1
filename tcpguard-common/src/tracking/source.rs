//! The state kept for one source.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, transmute_mut};

use crate::{atomic, tracking::half_open::HalfOpenWindow};

/// The entry of one source in the source table. Times are in jiffies.
///
/// The fields that every SYN changes come first; where they lie in memory is told at
/// [`Place`](super::source_table::Place).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SourceEntry {
    /// SYNs received, including retransmits.
    pub syn: u64,
    /// The time of the last SYN or completed handshake.
    pub last_seen: u64,
    /// SYNs are dropped until this time; 0 if the source is not blocked.
    pub blocked_until: u64,
    /// Half-open handshakes.
    pub half_open: HalfOpenWindow,
    /// Token parts left in the source's bucket ([`crate::tracking::bucket`]).
    pub tokens: u32,
    /// Handshakes that the kernel completed.
    pub completed: u64,
    /// Handshakes completed recently, and the path they came over.
    pub recent: RecentCompletions,
    /// Destination ports of its SYNs in the current period of half-open windows.
    pub ports: PortSet,
    /// SYN-ACKs that the kernel retransmitted to the source.
    pub retried: u32,
    /// Resets received.
    pub resets: u32,
    /// The source counts as proven until this time.
    pub proven_until: u64,
    /// SYNs dropped, or answered so that the client resets them.
    pub dropped: u64,
    /// SYNs answered with a cookie.
    pub challenged: u64,
    /// The time at which the entry was created.
    pub first_seen: u64,
}

const _: () = assert!(size_of::<SourceEntry>() == 128);

impl SourceEntry {
    /// Returns whether the source passes unchallenged: it completed a handshake recently and has at most
    /// `max_half_open` half-open handshakes. The limit exists because the address of a proven source may be
    /// forged.
    #[inline(always)]
    pub fn is_proven(&self, jiffies: u64, period: u32, max_half_open: u64) -> bool {
        jiffies < self.proven_until && self.half_open.count(period) <= max_half_open
    }

    /// Returns whether a SYN of this TTL came over the path of handshakes that the source completed recently, and takes
    /// a credit of that path.
    #[inline(always)]
    pub const fn is_on_proven_path(&mut self, jiffies: u64, time_to_live: u8) -> bool {
        jiffies < self.proven_until && self.recent.take_credit(time_to_live)
    }

    /// Returns until when the entry is needed more than that of a source that sends a SYN then, at most [`LATEST`]: while its
    /// handshakes prove it, and while it is blocked, which counts no less than a proof of now.
    #[inline(always)]
    pub const fn kept_until(&self, jiffies: u64, proven_ticks: u64) -> u64 {
        let block = greater(self.blocked_until, jiffies + proven_ticks) & all_if_less(jiffies, self.blocked_until);
        lesser(greater(greater(block, self.proven_until), self.last_seen), LATEST)
    }

    /// Starts the entry of a source that is first seen now, with `tokens` in its bucket, in place of another's.
    #[inline(always)]
    pub fn begin(&mut self, jiffies: u64, tokens: u32) {
        const WORDS: usize = size_of::<SourceEntry>() / size_of::<u64>();
        let words: &mut [u64; WORDS] = transmute_mut!(self);
        words.iter_mut().for_each(atomic::clear);
        (self.last_seen, self.first_seen, self.tokens) = (jiffies, jiffies, tokens);
    }
}

/// Returns the lesser of two numbers.
///
/// Without a branch, like the two below: the verifier follows both sides of each branch, for each place of a set.
#[inline(always)]
pub const fn lesser(left: u64, right: u64) -> u64 {
    right ^ ((left ^ right) & all_if_less(left, right))
}

#[inline(always)]
const fn greater(left: u64, right: u64) -> u64 {
    left ^ right ^ lesser(left, right)
}

/// Returns all bits if `left` is less than `right`, else none: the borrow of the subtraction (Warren, Hacker's Delight, 2-13).
#[inline(always)]
const fn all_if_less(left: u64, right: u64) -> u64 {
    let borrow = ((!left & right) | (!(left ^ right) & left.wrapping_sub(right))) >> 63;
    borrow.wrapping_neg()
}

/// The latest time that is told apart from later ones, in jiffies: no host reaches it, and digits can be put behind it.
pub const LATEST: u64 = u64::MAX >> 8;

/// What the completed handshakes of a source tell: how many there were in the current and the previous period of
/// half-open windows, and over which path they came.
///
/// The path is the TTL (or hop limit) of their SYNs. A forger who is not on that path sends SYNs of another TTL unless
/// he guesses it; SYNs of the known TTL pass as long as their handshakes complete, because each takes a credit that
/// only a completed handshake returns.
///
/// From the upper bits: number of the period (16 bits), counts of this and of the previous period (16 each,
/// saturating), TTL (8), credits (8).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct RecentCompletions(u64);

/// The most credits a path has: the connections that a client may have under way over it during a flood with its
/// address.
const MAX_CREDITS: u64 = 64;
/// The credits of a path with its first completed handshake, and those that each further one returns. A handshake may
/// take three: at a signature, at a block and at a challenge.
const CREDITS_PER_COMPLETION: u64 = 4;
/// The credits that a path loses with a handshake completed over another one, until it is replaced by that.
const CREDITS_OF_A_DOUBT: u64 = 16;

impl RecentCompletions {
    /// Counts a handshake completed in `period` whose SYN had this TTL, if that is known. CPUs that do so concurrently
    /// may lose a count.
    #[inline(always)]
    pub const fn add(&mut self, period: u32, time_to_live: Option<u8>) {
        let (this, last) = self.counts(period);
        let this = if this < 0xffff { this + 1 } else { this };
        let path = match time_to_live {
            None => self.0 & 0xffff,
            Some(time_to_live) if time_to_live as u64 == self.0 >> 8 & 0xff => {
                let credits = (self.0 & 0xff) + CREDITS_PER_COMPLETION;
                (time_to_live as u64) << 8 | if credits < MAX_CREDITS { credits } else { MAX_CREDITS }
            }
            // A route that changes brings another TTL, and so may a forged SYN of the same client port.
            Some(_) if self.0 & 0xff > CREDITS_OF_A_DOUBT => (self.0 & 0xffff) - CREDITS_OF_A_DOUBT,
            Some(time_to_live) => (time_to_live as u64) << 8 | CREDITS_PER_COMPLETION,
        };
        self.0 = (period as u64) << 48 | this << 32 | last << 16 | path;
    }

    /// Returns the number of handshakes completed in `period` and the period before it.
    pub const fn count(self, period: u32) -> u64 {
        let (this, last) = self.counts(period);
        this + last
    }

    /// Takes a credit for a SYN of this TTL. Returns false if it came over another path, or none is left.
    #[inline(always)]
    pub const fn take_credit(&mut self, time_to_live: u8) -> bool {
        // Another CPU may change the word meanwhile: it is read once.
        let word = self.0;
        let has_credit = word >> 8 & 0xff == time_to_live as u64 && word & 0xff != 0;
        if has_credit {
            self.0 = word - 1;
        }
        has_credit
    }

    #[inline(always)]
    const fn counts(self, period: u32) -> (u64, u64) {
        let (this, last) = (self.0 >> 32 & 0xffff, self.0 >> 16 & 0xffff);
        match (period as u64).wrapping_sub(self.0 >> 48) & 0xffff {
            0 => (this, last),
            1 => (0, this),
            _ => (0, 0),
        }
    }
}

/// The destination ports of one period, as a set of 64 bits that several ports share: enough to tell one port
/// from many.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PortSet(u64);

impl PortSet {
    /// Adds a port. If a new period begins, the set is cleared first.
    #[inline(always)]
    pub const fn add(&mut self, port: u16, is_new_period: bool) {
        let kept = if is_new_period { 0 } else { self.0 };
        let bit = (port as u32).wrapping_mul(0x9e37_79b9) >> 26;
        self.0 = kept | 1 << bit;
    }

    /// Returns the approximate number of ports, up to about 310: 64 · ln(64 / clear) (linear counting).
    pub fn estimate(self) -> u32 {
        /// 64 · ln(64 / clear) with no clear bit, counted as half a clear bit.
        const MAX: f64 = 64.0 * 4.85;
        let clear = self.0.count_zeros();
        if clear == 0 {
            return MAX as u32;
        }
        (64.0 * crate::tracking::distinct::natural_logarithm(64.0 / f64::from(clear)) + 0.5) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_entry_begins_with_its_tokens() {
        let mut entry = SourceEntry { syn: 9, challenged: 3, first_seen: 1, ..SourceEntry::default() };
        entry.half_open.open(3);
        entry.begin(77, 5);
        assert_eq!(entry, SourceEntry { last_seen: 77, first_seen: 77, tokens: 5, ..SourceEntry::default() });
    }

    #[test]
    fn a_source_is_proven_for_a_while_and_with_few_half_open_handshakes() {
        let mut entry = SourceEntry { proven_until: 100, ..SourceEntry::default() };
        assert!(entry.is_proven(99, 3, 2) && !entry.is_proven(100, 3, 2) && !entry.is_proven(101, 3, 2));
        assert_eq!([entry.half_open.open(3), entry.half_open.open(3)], [1, 2]);
        assert!(entry.is_proven(99, 3, 2) && !entry.is_proven(99, 3, 1));
        assert!(!SourceEntry::default().is_proven(0, 3, 2));
    }

    #[test]
    fn the_lesser_of_two_numbers_is_found_without_a_branch() {
        let numbers = [0, 1, 2, u64::MAX / 2, u64::MAX / 2 + 1, u64::MAX - 1, u64::MAX];
        for (left, right) in numbers.into_iter().flat_map(|left| numbers.map(|right| (left, right))) {
            assert_eq!((lesser(left, right), greater(left, right)), (left.min(right), left.max(right)));
        }
    }

    #[test]
    fn an_entry_is_needed_as_long_as_it_says_something() {
        let seen = SourceEntry { last_seen: 50, ..SourceEntry::default() };
        let kept_until = |entry: SourceEntry| entry.kept_until(55, 600);
        assert_eq!(kept_until(seen), 50);
        assert_eq!(kept_until(SourceEntry { proven_until: 70, ..seen }), 70);
        assert_eq!(kept_until(SourceEntry { proven_until: 40, ..seen }), 50);
        assert_eq!(kept_until(SourceEntry { proven_until: 70, blocked_until: 56, ..seen }), 655);
        assert_eq!(kept_until(SourceEntry { proven_until: 70, blocked_until: 55, ..seen }), 70, "the block is over");
        assert_eq!(kept_until(SourceEntry { blocked_until: 1000, ..seen }), 1000);
        assert_eq!(kept_until(SourceEntry { blocked_until: u64::MAX, ..seen }), LATEST);
    }

    #[test]
    fn a_path_is_proven_as_long_as_its_source() {
        let mut entry = SourceEntry { proven_until: 100, ..SourceEntry::default() };
        entry.recent.add(3, Some(57));
        assert!(!entry.is_on_proven_path(99, 58) && entry.is_on_proven_path(99, 57));
        assert!(!entry.is_on_proven_path(100, 57) && !entry.is_on_proven_path(101, 57));
    }

    #[test]
    fn a_doubt_takes_credits_and_the_last_ones_replace_the_path() {
        let mut recent = RecentCompletions::default();
        let credits = |recent: RecentCompletions| (recent.0 >> 8 & 0xff, recent.0 & 0xff);
        (0..5).for_each(|_| recent.add(7, Some(57)));
        assert_eq!(credits(recent), (57, 20));
        recent.add(7, Some(60));
        assert_eq!(credits(recent), (57, 4));
        recent.add(7, Some(60));
        assert_eq!(credits(recent), (60, 4), "it had no more to lose");
        (0..3).for_each(|_| recent.add(7, Some(60)));
        assert_eq!(credits(recent), (60, 16));
        recent.add(7, Some(61));
        assert_eq!(credits(recent), (61, 4), "as many as a doubt takes are not enough");
        recent.add(7, None);
        assert_eq!(credits(recent), (61, 4), "nothing is known of the path");
        assert_eq!(recent.count(7), 12);
    }

    #[test]
    fn recent_completions_are_those_of_two_periods() {
        let mut recent = RecentCompletions::default();
        (0..3).for_each(|_| recent.add(70_007, None));
        assert_eq!(recent.count(70_007), 3);
        recent.add(70_008, None);
        assert_eq!(recent.count(70_008), 4);
        assert_eq!(recent.count(70_009), 1);
        assert_eq!(recent.count(70_010), 0);
        (0..100_000).for_each(|_| recent.add(20, Some(64)));
        assert_eq!(recent.count(20), 0xffff);
    }

    #[test]
    fn a_path_has_credit_as_long_as_its_handshakes_complete() {
        let mut recent = RecentCompletions::default();
        assert!(!recent.take_credit(0) && !recent.take_credit(57), "no handshake completed");
        recent.add(7, Some(57));
        assert!(!recent.take_credit(58), "another path");
        for _ in 0..CREDITS_PER_COMPLETION {
            assert!(recent.take_credit(57));
        }
        assert!(!recent.take_credit(57), "a forger has guessed the path");
        for _ in 0..1000 {
            recent.add(7, Some(57));
        }
        recent.add(7, Some(200));
        assert!(!recent.take_credit(200), "a single handshake over another path does not replace it");
        for _ in 0..1000 {
            recent.add(7, Some(57));
        }
        for _ in 0..MAX_CREDITS {
            assert!(recent.take_credit(57));
        }
        assert!(!recent.take_credit(57));
        recent.add(8, Some(60));
        assert!(!recent.take_credit(57) && recent.take_credit(60), "the route has changed");
        recent.add(8, None);
        assert!(recent.take_credit(60));
        assert_eq!(recent.count(8), 2004);
    }

    #[test]
    fn few_ports_are_told_from_many() {
        let estimate = |ports: core::ops::Range<u16>| {
            let mut set = PortSet::default();
            ports.for_each(|port| set.add(port, false));
            set.estimate()
        };
        assert_eq!(estimate(80..81), 1);
        assert!((2..=3).contains(&estimate(80..83)));
        assert!((35..=110).contains(&estimate(1..51)), "{}", estimate(1..51));
        assert!(estimate(1..1001) > 200);
    }

    #[test]
    fn a_new_period_forgets_ports() {
        let mut set = PortSet::default();
        (1..100).for_each(|port| set.add(port, false));
        set.add(80, true);
        assert_eq!(set.estimate(), 1);
    }
}
