//! The lease: what the daemon permits the datapath to do, until it expires.

use tcpguard_common::{
    abi::{
        counters::DropReason,
        lease::{self, flag},
        signature::Signature,
        watch::WakeAt,
    },
    challenge::safe_reset::Secret,
    tracking::bucket::Rate,
};

use crate::{accounting::counters, time::Now, verdict::Verdict};

/// Written by the daemon with each of its ticks. It is a variable of the program rather than a map, which saves a
/// look-up; it is the only variable that changes, so that its section holds nothing else.
#[unsafe(no_mangle)]
static mut CONTROL: lease::Lease = lease::Lease::NONE;

/// Reads one field of it.
macro_rules! control {
    ($($field:ident $([$index:expr])?).+) => {
        // SAFETY: the variable lives as long as the program. The daemon may write it concurrently, one word at a time;
        // a mixture of two leases does no harm.
        unsafe { core::ptr::read_volatile(&raw const CONTROL.$($field $([$index])?).+) }
    };
}

/// Returns the flags, even of an expired lease, for a first check that needs no clock.
#[inline(always)]
pub fn flags() -> u64 {
    control!(flags)
}

/// See [`lease::Lease::timestamp_offset`].
#[inline(always)]
pub fn timestamp_offset() -> u64 {
    control!(timestamp_offset)
}

/// See [`lease::Lease::max_half_open`].
#[inline(always)]
pub fn max_half_open() -> u64 {
    control!(max_half_open)
}

/// See [`lease::Lease::proven_ticks`].
#[inline(always)]
pub fn proven_ticks() -> u64 {
    control!(proven_ticks)
}

/// Returns the tokens that the bucket of a new source holds ([`tcpguard_common::tracking::bucket`]).
#[inline(always)]
pub fn full_bucket() -> u32 {
    control!(rate.most)
}

/// See [`lease::Lease::max_port_load`].
#[inline(always)]
pub fn max_port_load() -> u64 {
    control!(max_port_load)
}

/// See [`lease::Lease::last_first_syn_slab`].
#[inline(always)]
pub fn last_first_syn_slab() -> u64 {
    control!(last_first_syn_slab)
}

/// See [`lease::Lease::secret`].
#[inline(always)]
pub fn secret() -> Secret {
    Secret { key: [control!(secret.key[0]), control!(secret.key[1])], epoch: control!(secret.epoch) }
}

/// See [`lease::Lease::secret_before`].
#[inline(always)]
pub fn secret_before() -> Secret {
    let key = [control!(secret_before.key[0]), control!(secret_before.key[1])];
    Secret { key, epoch: control!(secret_before.epoch) }
}

/// See [`lease::Lease::signatures`].
#[inline(always)]
pub fn signature(index: usize) -> Signature {
    Signature { mask: control!(signatures[index].mask), value: control!(signatures[index].value) }
}

/// See [`lease::Lease::wake`].
#[inline(always)]
pub fn wake() -> WakeAt {
    control!(wake)
}

/// The flags of a valid lease, and none of an expired one. They are read once per packet: what every SYN carries along
/// costs every SYN.
#[derive(Clone, Copy)]
pub struct Lease(u64);

impl Lease {
    #[inline(always)]
    pub fn read(now: Now) -> Self {
        Self(if now.jiffies <= control!(valid_until) { control!(flags) } else { 0 })
    }

    /// Returns whether a bit of [`flag`] is set in a valid lease.
    #[inline(always)]
    pub fn has(self, flag: u64) -> bool {
        self.0 & flag != 0
    }

    /// Returns the generation of the rules.
    #[inline(always)]
    pub fn generation(self) -> u64 {
        control!(generation)
    }

    /// Returns the rate limit of a source, if sources are limited.
    #[inline(always)]
    pub fn rate(self) -> Option<Rate> {
        self.has(flag::LIMIT).then(|| control!(rate))
    }

    /// Ends the pipeline with a drop for `reason`. Where a valid lease does not permit drops, the frame is counted as one
    /// that would have been dropped, and continues; with an expired lease it just continues.
    #[inline(always)]
    pub fn drop(self, reason: DropReason) -> Result<(), Verdict> {
        if self.has(flag::DROP) {
            return Err(Verdict::dropped(reason));
        }
        if self.0 != 0 {
            counters::add(reason.would_counter());
        }
        Ok(())
    }
}
