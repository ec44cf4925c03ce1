//! The sections whose keys are numbers, durations and choices. A row defines all there is to know of a key: its
//! documentation, type, default and range. A new key is a row here, and the code that uses it
//! (docs/howto/add-a-configuration-key.md).

use std::{
    fmt::Display,
    ops::{Range, RangeInclusive},
    time::Duration,
};

use documented::{Documented, DocumentedFields};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use toml::Spanned;

use super::{
    choices::{ChallengeMethod, ChallengeMode, KeyFile, MemoryLimit, Period},
    error::Problem,
};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3600);
const YEAR: Duration = Duration::from_secs(366 * 24 * 3600);

macro_rules! section {
    (
        $(#[doc = $doc:literal])+
        $section:ident, $file:ident;
        $($(#[doc = $key_doc:literal])+ $(#[serde($($serde:tt)+)])? $key:ident: $type:ty = $default:expr $(, $range:expr)?;)+
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq, Serialize, Documented, DocumentedFields)]
        pub struct $section {
            $($(#[doc = $key_doc])+ $(#[serde($($serde)+)])? pub $key: $type,)+
        }

        /// The same before validation.
        #[derive(Default, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub(super) struct $file {
            $(pub $key: Option<Spanned<<$type as Key>::Typed>>,)+
        }

        impl Default for $section {
            fn default() -> Self {
                Self { $($key: $default,)+ }
            }
        }

        impl $section {
            /// Returns the range of a key as text, if it has one.
            pub fn range(key: &str) -> Option<String> {
                let ranges = [$((stringify!($key), section!(@text $type $(, $range)?)),)+];
                ranges.into_iter().find(|(name, _)| *name == key)?.1
            }

            pub(super) fn validate(file: $file) -> Result<Self, Problem> {
                let defaults = Self::default();
                Ok(Self { $($key: section!(@value file.$key, defaults.$key $(, $range)?),)+ })
            }
        }
    };
    (@text $type:ty) => { None };
    (@text $type:ty, $range:expr) => { Some(describe::<$type>(&$range)) };
    (@value $typed:expr, $default:expr) => { $typed.map_or($default, |typed| Key::from_typed(typed.into_inner())) };
    (@value $typed:expr, $default:expr, $range:expr) => { within($typed, $default, &$range)? };
}

section! {
    /// Host-wide thresholds, named after Windows' `TcpMaxHalfOpen` family. The host is under attack when a value is above
    /// its threshold; at the threshold nothing happens. Handshakes that complete raise the thresholds of half-open ones:
    /// by those of one second, which may be in flight, and by 5 % of those of a minute, which may be abandoned.
    Thresholds, ThresholdsFile;
    /// Half-open handshakes; the host is under attack above this value.
    max_half_open: u32 = 500, 1..=10_000_000;
    /// Half-open handshakes whose SYN-ACK was retransmitted. At most `max_half_open`; the default is
    /// lowered to `max_half_open` where that is smaller.
    max_half_open_retried: u32 = 400, 1..=10_000_000;
    /// Connection requests per second that the kernel drops because a queue is full; the host is under attack above
    /// this value.
    max_ports_exhausted: u32 = 5;
    /// Segments per second (ACK, RST, FIN, SYN-ACK) that belong to no connection; the host is under attack above this
    /// value, and drops them.
    max_stray: u32 = 5000, 1..=4_294_967_295;
    /// Fraction of each threshold that every value must stay below for `hold` before the attack is over.
    leave_ratio: f64 = 0.8, 0.1..=1.0;
    /// Time that every value must stay below `leave_ratio` of its threshold.
    #[serde(with = "humantime_serde")]
    hold: Duration = Duration::from_secs(10), SECOND..=DAY;
}

section! {
    /// Limits for one source, or for the sources of one prefix.
    SourceLimits, SourceFile;
    /// Half-open handshakes of one source; during an attack the source is blocked above this value. Of a blocked source,
    /// the first SYN of each connection is dropped; its retransmit passes, because the address may be forged.
    max_half_open: u32 = 64, 1..=10_000_000;
    /// SYNs per second of one source; above this rate the first SYN of each connection is dropped, even without an attack,
    /// and its retransmit passes. SYNs whose handshake completes do not count.
    syn_per_second: u32 = 2000, 1..=100_000_000;
    /// Duration of a source's first block; each repeated block lasts twice as long.
    #[serde(with = "humantime_serde")]
    block_for: Duration = Duration::from_secs(60), SECOND..=YEAR;
    /// Maximum duration of a block. At least `block_for`.
    #[serde(with = "humantime_serde")]
    block_max: Duration = Duration::from_secs(3600), SECOND..=YEAR;
    /// Length of the prefixes that IPv4 sources are accounted under.
    prefix_v4: u8 = 24, 8..=32;
    /// Length of the prefixes that IPv6 sources are accounted under.
    prefix_v6: u8 = 64, 16..=128;
    /// Half-open handshakes of one prefix; during an attack the prefix is blocked above this value. That is, the first SYN
    /// of each connection of its sources without completed handshakes is dropped.
    prefix_max_half_open: u32 = 512, 1..=10_000_000;
}

section! {
    /// How SYNs of unproven sources are challenged.
    Challenge, ChallengeFile;
    /// When SYNs are challenged: `auto` (during attacks that blocks cannot stop), `always` or `never`. Requires
    /// `syn_attack_protect = 2`.
    mode: ChallengeMode = ChallengeMode::Auto;
    /// Challenge method: `cookie` (the datapath answers with a SYN cookie; `retransmit` where none can be sent), `reset` (the
    /// datapath answers so that the client resets, which proves that it exists, and sends its SYN again), `retransmit` (the
    /// first SYN is dropped, because a TCP client retransmits it) or `auto` (`cookie` where cookies can be sent, else `reset`).
    method: ChallengeMethod = ChallengeMethod::Auto;
    /// Absolute path of a file with the key that challenges by reset are made with: 32 hexadecimal digits, readable by root
    /// alone. Gateways that share it accept each other's (docs/gateway.md). It is read again when it changes. Empty: a key of
    /// its own, drawn at each start.
    key_file: KeyFile = KeyFile::default();
    /// Time a source stays proven after it completed a handshake.
    #[serde(with = "humantime_serde")]
    proven_for: Duration = Duration::from_secs(600), SECOND..=DAY;
    /// SYNs per second from unproven sources to one port; above this rate the datapath challenges the port on its own,
    /// before the daemon's next tick. 0 disables this.
    syn_per_second: u32 = 50_000, 0..=100_000_000;
}

section! {
    /// Resource limits and timeouts of the daemon.
    Limits, LimitsFile;
    /// Maximum number of entries in the source table, about 220 bytes each.
    max_sources: u32 = 262_144, 1024..=16_777_216;
    /// Time after the daemon's last heartbeat when the lease expires and the datapath passes every packet.
    #[serde(with = "humantime_serde")]
    heartbeat_timeout: Duration = Duration::from_secs(5), SECOND..=DAY;
    /// Memory that the datapath's maps may take, such as `"256 MiB"`; the daemon does not start if they take more. `auto` is
    /// a quarter of the host's memory, and at least 128 MiB. What lists take is not included.
    memory: MemoryLimit = MemoryLimit::Auto;
    /// Share of one core that the daemon may use in calm; above it, the daemon observes less often (`looking_less_often`).
    cpu_share: f64 = 0.02, 0.001..=1.0;
}

section! {
    /// Changes to kernel settings during an attack.
    Kernel, KernelFile;
    /// Whether to raise `somaxconn` and `tcp_max_syn_backlog` to the advised values during an attack.
    tune_backlog: bool = false;
}

/// A value as it is typed, and as it is used.
pub(super) trait Key: Sized {
    type Typed: DeserializeOwned;

    fn from_typed(typed: Self::Typed) -> Self;
}

/// A value with a range.
pub(super) trait Bounded: PartialOrd {
    /// Returns a bound of the range, as in the documentation.
    fn bound(&self) -> String;

    /// Returns what is wrong with a value that is not in `range`.
    fn out_of_range(&self, range: &RangeInclusive<Self>) -> String
    where
        Self: Sized;
}

macro_rules! plain {
    ($($type:ty),*) => {
        $(impl Key for $type {
            type Typed = Self;

            fn from_typed(typed: Self) -> Self {
                typed
            }
        })*
    };
}

plain!(u8, u32, f64, bool, ChallengeMode, ChallengeMethod, KeyFile, MemoryLimit);

impl Key for Duration {
    type Typed = Period;

    fn from_typed(typed: Period) -> Self {
        typed.0
    }
}

macro_rules! bounded_numbers {
    ($($type:ty),*) => {
        $(impl Bounded for $type {
            fn bound(&self) -> String {
                with_separators(&self.to_string())
            }

            fn out_of_range(&self, range: &RangeInclusive<Self>) -> String {
                number_out_of_range(self, range)
            }
        })*
    };
}

bounded_numbers!(u8, u32, f64);

impl Bounded for Duration {
    fn bound(&self) -> String {
        const HOUR: u64 = 60 * 60;
        const DAY: u64 = 24 * HOUR;
        match self.as_secs() {
            seconds if seconds > DAY && seconds % DAY == 0 => format!("{} days", seconds / DAY),
            seconds if seconds >= HOUR && seconds % HOUR == 0 => format!("{} h", seconds / HOUR),
            seconds if seconds >= 60 && seconds % 60 == 0 => format!("{} min", seconds / 60),
            seconds => format!("{seconds} s"),
        }
    }

    fn out_of_range(&self, range: &RangeInclusive<Self>) -> String {
        format!("{self:?} is out of range: from {} to {} seconds", range.start().as_secs(), range.end().as_secs())
    }
}

fn number_out_of_range<T: Display>(value: &T, range: &RangeInclusive<T>) -> String {
    format!("{value} is out of range: from {} to {}", range.start(), range.end())
}

/// Returns digits in groups of three.
fn with_separators(number: &str) -> String {
    let (whole, rest) = number.split_at(number.find('.').unwrap_or(number.len()));
    let groups: Vec<String> =
        whole.as_bytes().rchunks(3).rev().map(|group| String::from_utf8_lossy(group).into()).collect();
    format!("{}{rest}", groups.join(","))
}

fn describe<T: Bounded>(range: &RangeInclusive<T>) -> String {
    format!("{} to {}", range.start().bound(), range.end().bound())
}

/// Returns the typed value, which must be in `range`, or the default, which is not checked.
pub(super) fn within<T: Key + Bounded>(
    typed: Option<Spanned<T::Typed>>,
    default: T,
    range: &RangeInclusive<T>,
) -> Result<T, Problem> {
    let Some(typed) = typed else { return Ok(default) };
    let span: Range<usize> = typed.span();
    let value = T::from_typed(typed.into_inner());
    if range.contains(&value) { Ok(value) } else { Err(Problem { message: value.out_of_range(range), span }) }
}
