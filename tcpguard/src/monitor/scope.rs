//! What is measured of one scope: the host, a service or protected networks.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{HalfOpenCounts, PortSnapshot, Ports, completions::CompletionWindow, half_open::HandshakeWindow};
use crate::{
    datapath::maps::Totals,
    kernel::{HalfOpen, HalfOpenTable, TcpExt},
    time::{HANDSHAKE_LIFETIME, Past},
};

/// The span over which incoming values are measured.
const RATE_SPAN: Duration = Duration::from_millis(450);
/// The span over which refused requests and malformed segments are counted.
const SECOND: Duration = Duration::from_secs(1);
/// The age of the kernel's rows that count as incoming: a legitimate client has answered by then, and the SYN-ACK has
/// not been retransmitted yet.
const FRESH: std::ops::Range<Duration> = Duration::from_millis(300)..Duration::from_millis(700);

/// The values compared with the thresholds, of the host or of one service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readings {
    /// Numbers of half-open handshakes.
    pub half_open: HalfOpenCounts,
    /// The number of half-open handshakes that the current rate would lead to.
    pub half_open_coming: u64,
    /// The number of half-open handshakes that the SYNs dropped by judgement would lead to at their current rate: an
    /// attack that is dropped completely is not over.
    #[serde(default)]
    pub half_open_prevented: u64,
    /// Connection requests refused in the last second.
    pub refused: u64,
    /// Connection requests refused per second, at the current rate.
    pub refused_coming: u64,
    /// Malformed segments (no TCP implementation sends them) in the last second.
    pub malformed: u64,
    /// Malformed segments per second, at the current rate.
    pub malformed_coming: u64,
    /// Segments in the last second that belong to no connection.
    #[serde(default)]
    pub strays: u64,
    /// Segments per second that belong to no connection, at the current rate.
    #[serde(default)]
    pub strays_coming: u64,
    /// Handshakes completed in the last second: about as many are in flight at a round-trip time of a second.
    #[serde(default)]
    pub completed_second: u64,
    /// Handshakes completed within the handshake lifetime: a few percent of as many are abandoned.
    #[serde(default)]
    pub completed_lifetime: u64,
}

/// The counts of one tick that pressure is measured from.
pub(super) struct Counts<'a> {
    pub totals: &'a Totals,
    pub tcp_ext: &'a TcpExt,
    pub kernel: &'a HalfOpenTable,
    /// The kernel's handshakes were read in this tick or shortly before it, or there is nothing else to go by.
    pub is_kernel_recent: bool,
    pub ports: &'a Ports,
    /// The ports of protected networks.
    pub protected: &'a [PortSnapshot],
    /// The datapath's current period of half-open windows.
    pub period: u32,
}

/// Totals, which only grow.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sums {
    /// Handshakes requested, including SYNs dropped because of a judgement; a SYN that was sent again because of a challenge
    /// counts once.
    pub attempts: u64,
    /// Handshakes begun.
    pub begun: u64,
    pub ended: u64,
    pub completed: u64,
    pub refused: u64,
    /// Cookies that the kernel sent because a queue was full.
    pub full_queue_cookies: u64,
    /// Those of them that were not returned.
    pub unreturned: u64,
    pub malformed: u64,
    pub strays: u64,
}

impl Sums {
    const NONE: Self = Self {
        attempts: 0,
        begun: 0,
        ended: 0,
        completed: 0,
        refused: 0,
        full_queue_cookies: 0,
        unreturned: 0,
        malformed: 0,
        strays: 0,
    };

    pub fn of_all<'a>(ports: impl IntoIterator<Item = &'a PortSnapshot>) -> Self {
        let mut sums = Self::default();
        for port in ports {
            sums.attempts = sums.attempts.wrapping_add(port.attempts());
            sums.begun += port.begun;
            sums.ended += port.ended;
            sums.completed += port.completed;
        }
        sums
    }

    /// Returns what a port has received from one account to the next.
    pub const fn growth(before: &PortSnapshot, port: &PortSnapshot) -> Self {
        Self {
            attempts: port.attempts().saturating_sub(before.attempts()),
            begun: port.begun.saturating_sub(before.begun),
            ended: port.ended.saturating_sub(before.ended),
            completed: port.completed.saturating_sub(before.completed),
            ..Self::NONE
        }
    }

    /// Returns the sum of what is counted by port.
    pub const fn plus(&self, other: &Self) -> Self {
        Self {
            attempts: self.attempts + other.attempts,
            begun: self.begun + other.begun,
            ended: self.ended + other.ended,
            completed: self.completed + other.completed,
            ..*self
        }
    }
}

/// What is kept of one scope.
pub(super) struct ScopeWindow {
    window: HandshakeWindow,
    completions: CompletionWindow,
    past: Past<Instant, Sums>,
}

impl Default for ScopeWindow {
    fn default() -> Self {
        Self { window: HandshakeWindow::default(), completions: CompletionWindow::default(), past: Past::new(SECOND) }
    }
}

impl ScopeWindow {
    /// A window that begins with what is counted next.
    pub fn from_now() -> Self {
        Self { window: HandshakeWindow::from_now(), ..Self::default() }
    }

    /// Discards what was counted so far.
    pub fn forget(&mut self) {
        self.window.forget();
    }

    pub fn measure(&mut self, sums: Sums, counts: &Counts, is_ours: impl Fn(u16) -> bool, now: Instant) -> Readings {
        let (recent, recent_seconds) = self.since(now, RATE_SPAN, sums);
        let second = |of: fn(&Sums) -> u64| self.past.growth(now, of(&sums), of);
        let (completed_second, refused, unreturned) =
            (second(|sums| sums.completed), second(|sums| sums.refused), second(|sums| sums.unreturned));
        let (malformed, strays) = (second(|sums| sums.malformed), second(|sums| sums.strays));
        self.past.add(now, sums);
        let per_second = |count: u64| if recent_seconds > 0.0 { count as f64 / recent_seconds } else { 0.0 };
        let unanswered = per_second(recent.attempts.saturating_sub(recent.ended)) * HANDSHAKE_LIFETIME.as_secs_f64();
        let prevented = per_second(recent.attempts.saturating_sub(recent.begun)) * HANDSHAKE_LIFETIME.as_secs_f64();
        let fresh = if counts.is_kernel_recent { fresh(&counts.kernel.rows, &is_ours) } else { 0 };
        let mut half_open =
            HalfOpenCounts { datapath: self.window.count(sums.begun, sums.ended, counts.period), ..Default::default() };
        for (_, port) in counts.kernel.by_port.iter().filter(|(port, _)| is_ours(**port)) {
            half_open.kernel += port.total as u64;
            half_open.kernel_retried += port.retried as u64;
        }
        if !counts.is_kernel_recent {
            // Those that were half open then may have ended: no more are believed than the datapath counts now.
            half_open.kernel = half_open.kernel.min(half_open.datapath);
            half_open.kernel_retried = half_open.kernel_retried.min(half_open.kernel);
        }
        Readings {
            completed_second,
            completed_lifetime: self.completions.count(sums.completed, completed_second, now),
            half_open,
            half_open_coming: (unanswered as u64).max(fresh),
            half_open_prevented: prevented as u64,
            // Cookies of clients that are about to complete are under way.
            refused: refused + unreturned.saturating_sub(completed_second),
            // None come any more once the kernel has stopped sending them, whatever is still under way.
            refused_coming: per_second(
                recent.refused + recent.unreturned.saturating_sub(recent.completed).min(recent.full_queue_cookies),
            ) as u64,
            malformed,
            malformed_coming: per_second(recent.malformed) as u64,
            strays,
            strays_coming: per_second(recent.strays) as u64,
        }
    }

    /// Returns the increase within `span` up to now, and the seconds it actually covers.
    fn since(&self, now: Instant, span: Duration, sums: Sums) -> (Sums, f64) {
        let Some((before, seconds)) = self.past.before(now, span) else { return (Sums::default(), 0.0) };
        let difference = Sums {
            attempts: sums.attempts.saturating_sub(before.attempts),
            begun: sums.begun.saturating_sub(before.begun),
            ended: sums.ended.saturating_sub(before.ended),
            completed: sums.completed.saturating_sub(before.completed),
            refused: sums.refused.saturating_sub(before.refused),
            full_queue_cookies: sums.full_queue_cookies.saturating_sub(before.full_queue_cookies),
            unreturned: sums.unreturned.saturating_sub(before.unreturned),
            malformed: sums.malformed.saturating_sub(before.malformed),
            strays: sums.strays.saturating_sub(before.strays),
        };
        (difference, seconds)
    }
}

/// Returns the number of rows that the current rate of new rows would lead to.
fn fresh(rows: &[HalfOpen], is_ours: impl Fn(u16) -> bool) -> u64 {
    let fresh = rows.iter().filter(|row| row.retransmits == 0 && FRESH.contains(&row.age) && is_ours(row.local.port()));
    (fresh.count() as f64 / (FRESH.end - FRESH.start).as_secs_f64() * HANDSHAKE_LIFETIME.as_secs_f64()) as u64
}
