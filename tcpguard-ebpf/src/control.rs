//! What may be done with a packet at this moment.

use tcpguard_common::{
    bucket::Rate,
    control::{Control, flag},
    drops::DropReason,
};

use crate::{accounts::counts, outcome::Outcome, time::Now};

/// Written by the daemon with each of its ticks. It is a variable of the program's rather than a map of its
/// own, since that takes no look-up; it is the only one that changes, so that its section is all of it.
#[unsafe(no_mangle)]
static mut CONTROL: Control = Control::NONE;

/// Reads one field of it.
macro_rules! control {
    ($($field:ident).+) => {
        // SAFETY: it is valid for as long as the program is. The daemon may write it meanwhile, a word at a
        // time, and a mixture of two of its words does no harm.
        unsafe { core::ptr::read_volatile(&raw const CONTROL.$($field).+) }
    };
}

/// The daemon's flags, whether its word is still good or not: for a first look.
#[inline(always)]
pub fn flags() -> u64 {
    control!(flags)
}

/// See [`Control::timestamp_offset`].
#[inline(always)]
pub fn timestamp_offset() -> u64 {
    control!(timestamp_offset)
}

/// See [`Control::most_half_open`].
#[inline(always)]
pub fn most_half_open() -> u64 {
    control!(most_half_open)
}

/// See [`Control::proven_ticks`].
#[inline(always)]
pub fn proven_ticks() -> u64 {
    control!(proven_ticks)
}

/// What a new source's bucket holds ([`tcpguard_common::bucket`]).
#[inline(always)]
pub fn full_bucket() -> u32 {
    control!(rate.most)
}

/// See [`Control::most_load`].
#[inline(always)]
pub fn most_load() -> u64 {
    control!(most_load)
}

/// Leave to act: the daemon's flags while its word is good, and none otherwise. They are read once, since
/// what every SYN carries along costs every SYN.
#[derive(Clone, Copy)]
pub struct Leave(u64);

impl Leave {
    #[inline(always)]
    pub fn read(now: Now) -> Self {
        Self(if now.jiffies <= control!(good_until) { control!(flags) } else { 0 })
    }

    /// Whether a bit of [`flag`] is set, and the daemon's word is good.
    #[inline(always)]
    pub fn has(self, flag: u64) -> bool {
        self.0 & flag != 0
    }

    /// The generation of the rules.
    #[inline(always)]
    pub fn generation(self) -> u64 {
        control!(generation)
    }

    /// What a source may send, where sources are limited.
    #[inline(always)]
    pub fn rate(self) -> Option<Rate> {
        self.has(flag::LIMIT).then(|| control!(rate))
    }

    /// The outcome of a frame that is to be dropped for `reason`; `None`, and a count, where nothing is
    /// dropped at this moment.
    #[inline(always)]
    pub fn drop(self, reason: DropReason) -> Option<Outcome> {
        if self.has(flag::DROP) {
            return Some(Outcome::dropped(reason));
        }
        if self.0 != 0 {
            counts::add(reason.would_counter());
        }
        None
    }
}
