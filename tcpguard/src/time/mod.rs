//! Time: the datapath's jiffies, the wall clock, and points in time that survive a restart.
//!
//! | type | what it is | used for |
//! | --- | --- | --- |
//! | [`WallClock`] | a point in time in jiffies and as wall-clock time | converting what the datapath reports |
//! | [`DatapathTime`] | the jiffies of the last tick | expiry of list entries and blocks |
//! | [`PersistentTime`] | a point in time that survives a restart | the store |
//! | [`ClockWatch`] | differences between the clocks | noticing clocks that are set, and suspends |
//! | [`Every`] | an interval | what is not done with each tick |
//! | [`Pace`] | the cost of the last reading | what costs more on larger hosts |
//! | [`Past`] | the values of the last ticks | increases and rates over a span |

mod clock_watch;
mod datapath_time;
mod every;
mod pace;
mod past;
mod persistent;
mod processor;
mod wall_clock;

use std::time::Duration;

pub(crate) use clock_watch::{ClockWatch, Reading};
pub use datapath_time::DatapathTime;
pub use every::Every;
pub use pace::{Limits, Pace};
pub use past::Past;
pub use persistent::PersistentTime;
pub(crate) use processor::processor_time;
pub use wall_clock::{WallClock, in_ticks};

/// How long the kernel keeps a half-open handshake that the client does not complete: it answers six times
/// (`tcp_synack_retries` = 5: 1 + 2 + 4 + 8 + 16 + 32 s).
pub const HANDSHAKE_LIFETIME: Duration = Duration::from_secs(63);

/// How long the datapath counts such a handshake: whole periods of its window, the current one included.
pub const COUNTED_LIFETIME: Duration = Duration::from_secs(66);
