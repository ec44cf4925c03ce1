//! What may be done with a packet at this moment.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use tcpguard_common::{
    bucket::Rate,
    control::{Control, flag},
    drops::DropReason,
};

use crate::{accounts::counts, outcome::Outcome, time::Now};

/// Written by the daemon with each of its ticks.
#[btf_map]
static CONTROL: Array<Control, 1> = Array::new();

/// Leave to act, while the daemon's word is good.
#[derive(Clone, Copy)]
pub struct Leave<'a> {
    control: Option<&'a Control>,
}

impl Leave<'_> {
    #[inline(always)]
    pub fn read(now: Now) -> Self {
        Self { control: CONTROL.get(0).filter(|control| control.is_good(now.jiffies)) }
    }

    /// Whether a bit of [`flag`] is set, and the daemon's word is good.
    #[inline(always)]
    pub fn has(self, flag: u64) -> bool {
        self.control.is_some_and(|control| control.has(flag))
    }

    /// What a source may send, where sources are limited.
    #[inline(always)]
    pub fn rate(self) -> Option<Rate> {
        self.control.filter(|control| control.has(flag::LIMIT)).map(|control| control.rate)
    }

    /// The outcome of a frame that is to be dropped for `reason`; `None`, and a count, where nothing is
    /// dropped at this moment.
    #[inline(always)]
    pub fn drop(self, reason: DropReason) -> Option<Outcome> {
        let control = self.control?;
        if control.has(flag::DROP) {
            return Some(Outcome::Dropped(reason));
        }
        counts::add(reason.would_counter());
        None
    }
}
