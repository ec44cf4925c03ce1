//! Signatures: what the SYNs of a flood have in common, by which they are dropped before anything else of them is judged.
//!
//! SYNs are sampled during an attack. If nearly all of them look alike, and hardly any handshake that completed here began
//! with such a SYN, the datapath drops them. One source in 256 is let through in turn: if a client among them completes its
//! handshake, the signature ends at once, and its shape is left alone for a day. Otherwise it ends with the flood. Sources that
//! complete handshakes here are not affected. A flood that imitates a usual system has no signature, because clients have its shape.

mod learn;

use std::{collections::BTreeMap, time::Duration};

use tcpguard_common::{
    abi::{
        counters::{Counter, DropReason},
        signature::{MAX_SIGNATURES, Signature},
    },
    packet::{Shape, TCP_HEADER_LENGTH, TIME_TO_LIVE, WINDOW},
};

use crate::{
    detect::Phase,
    events::{EventKind, EventLog, Note},
    monitor::{HeaderReading, Snapshot},
    time::Past,
};

/// How many samples are needed.
const MIN_SAMPLES: usize = 200;
/// How many completed handshakes have to be known before they tell which shapes clients have.
const MIN_COMPLETED: u64 = 1000;
/// The same for SYNs without TCP options, which no usual system sends (RFC 9293, section 3.7.1).
const MIN_COMPLETED_BARE: u64 = 100;
/// One completed handshake in so many may have a shape of the same class, and one proven source.
const COMPLETED_ONE_IN: u64 = 1000;
/// From so many handshakes or sources on, clients have a class even if it is fewer than one in [`COMPLETED_ONE_IN`]: an
/// attacker can complete handshakes of another class until it is.
const HANDSHAKES_OF_CLIENTS: u64 = 64;
const SOURCES_OF_CLIENTS: u64 = 16;
/// Where very many handshakes completed, up to one in so many are taken for strange ones.
const FEW_ONE_IN: u64 = 10_000;
/// A signature ends if fewer than one in so many of the flood's SYNs have it.
const COVERS_ONE_IN: usize = 2;
/// So many samples tell that.
const TELLING_SAMPLES: usize = 20;
/// How long a class is known to be that of a client that was let through: an attack that pauses must not start anew with it.
const KNOWN_FOR: Duration = Duration::from_secs(24 * 3600);
/// A flood goes on while this many SYNs per second have a signature.
const GOES_ON: f64 = 50.0;
/// The time over which that is measured.
const MEASURED_OVER: Duration = Duration::from_secs(1);
/// A signature ends if the flood has paused for so long.
const QUIET: Duration = Duration::from_secs(5);

/// What a tick has seen, as far as signatures depend on it.
pub(super) struct Seen<'a> {
    phase: Phase,
    /// SYNs with a signature since the datapath was loaded, whether dropped or not, except for those let through.
    matched: u64,
    /// Handshakes completed whose SYN has a signature.
    refuted: u64,
    headers: &'a HeaderReading,
    /// Whether the configuration allows drops.
    drops: bool,
}

impl<'a> Seen<'a> {
    pub fn of(phase: Phase, snapshot: &'a Snapshot, drops: bool) -> Self {
        let get = |counter| snapshot.totals.get(counter);
        let reason = DropReason::Signature;
        Self {
            phase,
            matched: get(reason.counter()) + get(reason.would_counter()),
            refuted: get(Counter::SignaturesRefuted),
            headers: &snapshot.headers,
            drops,
        }
    }
}

/// Learns signatures and ends them.
pub(super) struct Signatures {
    events: EventLog,
    in_force: Vec<Signature>,
    /// The classes of shapes that clients who were let through had, and when the last one completed its handshake.
    of_clients: BTreeMap<u8, Duration>,
    /// The last reading that was learned from.
    learned_from: u64,
    /// The SYNs with a signature at the last ticks.
    matched: Past<Duration, u64>,
    /// The refutations at the last tick.
    refuted: Option<u64>,
    /// Since when hardly any SYN has had a signature.
    quiet_since: Option<Duration>,
}

impl Signatures {
    pub fn new(events: EventLog) -> Self {
        Self {
            events,
            in_force: Vec::new(),
            of_clients: BTreeMap::new(),
            learned_from: 0,
            matched: Past::new(MEASURED_OVER),
            refuted: None,
            quiet_since: None,
        }
    }

    /// Returns the signatures in force, for the lease.
    pub fn in_force(&self) -> [Signature; MAX_SIGNATURES] {
        let mut all = [Signature::NONE; MAX_SIGNATURES];
        all.iter_mut().zip(&self.in_force).for_each(|(place, signature)| *place = *signature);
        all
    }

    /// Returns the signatures in force in words.
    pub fn descriptions(&self) -> Vec<String> {
        self.in_force.iter().map(describe).collect()
    }

    /// Decides for the time until the next tick.
    pub fn apply(&mut self, seen: &Seen, at: Duration) {
        let refuted = self.refuted.replace(seen.refuted).is_some_and(|before| seen.refuted > before);
        let rate = self.matched.before(at, MEASURED_OVER);
        let rate = rate.map(|(before, seconds)| seen.matched.saturating_sub(*before) as f64 / seconds);
        self.matched.add(at, seen.matched);
        self.of_clients.retain(|_, noticed| at.saturating_sub(*noticed) < KNOWN_FOR);
        if seen.phase == Phase::Calm {
            self.end("the attack is over", seen.drops);
            return;
        }
        if refuted {
            self.of_clients.extend(self.in_force.iter().map(|signature| (class(*signature), at)));
            self.end("a client whose SYN has it completed a handshake", seen.drops);
        }
        self.note_rate(rate.unwrap_or(0.0), seen.drops, at);
        if self.in_force.iter().any(|signature| is_of_clients(*signature, seen.headers)) {
            self.end("clients have it", seen.drops);
        }
        if seen.headers.number != self.learned_from {
            self.learned_from = seen.headers.number;
            if seen.phase == Phase::Attack {
                self.learn(seen.headers, seen.drops);
            }
            if self.covers_little(&seen.headers.samples) {
                self.end("most SYNs look different", seen.drops);
            }
        }
    }

    /// Returns whether few of these SYNs have a signature: what is left of a flood must not keep it in force, because it also
    /// meets clients.
    fn covers_little(&self, samples: &[Shape]) -> bool {
        let covered = samples.iter().filter(|shape| self.covers(**shape)).count();
        samples.len() >= TELLING_SAMPLES && covered * COVERS_ONE_IN < samples.len()
    }

    fn covers(&self, shape: Shape) -> bool {
        self.in_force.iter().any(|signature| signature.is_of(shape))
    }

    fn note_rate(&mut self, rate: f64, drops: bool, at: Duration) {
        if rate >= GOES_ON || self.in_force.is_empty() {
            self.quiet_since = None;
        } else if at.saturating_sub(*self.quiet_since.get_or_insert(at)) >= QUIET {
            self.end("the flood with it is over", drops);
            self.quiet_since = None;
        }
    }

    fn learn(&mut self, headers: &HeaderReading, drops: bool) {
        let others: Vec<Shape> = headers.samples.iter().filter(|shape| !self.covers(**shape)).copied().collect();
        let room = MAX_SIGNATURES - self.in_force.len();
        // What is left beside a signature is clients, unless it is most of it.
        if others.len() < MIN_SAMPLES || others.len() * 2 < headers.samples.len() {
            return;
        }
        let found = learn::learn(&others, room);
        let is_usual = |signature: &Signature| {
            self.of_clients.contains_key(&class(*signature)) || is_of_clients(*signature, headers)
        };
        if found.is_empty() || found.iter().any(is_usual) {
            return;
        }
        let share = others.iter().filter(|shape| found.iter().any(|signature| signature.is_of(**shape))).count();
        let completed = completed(headers);
        let message = format!(
            "{:.0} % of the flood's SYNs look alike ({}), and {} of {completed} completed handshakes began with one of that \
             kind: they are dropped, and one source in 256 is let through in turn",
            share as f64 / others.len() as f64 * 100.0,
            found.iter().map(describe).collect::<Vec<_>>().join("; "),
            found.first().map_or(0, |signature| completed_of(*signature, headers)),
        );
        self.events.record(Note::new(EventKind::SignatureLearned, message).watch_only(!drops));
        self.in_force.extend(found);
        self.quiet_since = None;
    }

    fn end(&mut self, why: &str, drops: bool) {
        if self.in_force.is_empty() {
            return;
        }
        let message = format!("SYNs that look alike ({}) are no longer dropped: {why}", self.descriptions().join("; "));
        self.events.record(Note::new(EventKind::SignatureEnded, message).watch_only(!drops));
        self.in_force.clear();
    }
}

fn class(signature: Signature) -> u8 {
    Shape(signature.value).class()
}

/// Returns how many handshakes completed whose SYN is of a known class.
fn completed(headers: &HeaderReading) -> u64 {
    headers.completed.as_ref().map_or(0, |shapes| shapes.handshakes.iter().sum())
}

/// Returns how many handshakes completed whose SYN is of the signature's class.
fn completed_of(signature: Signature, headers: &HeaderReading) -> u64 {
    headers.completed.as_ref().map_or(0, |shapes| shapes.handshakes[usize::from(class(signature))])
}

/// Returns whether clients have shapes of the signature's class, or too few are known to tell. Both handshakes and sources
/// count: a probe that connects all day must not outweigh hundreds of clients.
fn is_of_clients(signature: Signature, headers: &HeaderReading) -> bool {
    let Some(shapes) = &headers.completed else { return true };
    let needed = if Shape(signature.value).has_options() { MIN_COMPLETED } else { MIN_COMPLETED_BARE };
    let is_usual = |counts: &[u64; 256], enough: u64| {
        let (of_class, all) = (counts[usize::from(class(signature))], counts.iter().sum::<u64>());
        of_class * COMPLETED_ONE_IN > all || of_class >= enough.max(all / FEW_ONE_IN)
    };
    completed(headers) < needed
        || is_usual(&shapes.handshakes, HANDSHAKES_OF_CLIENTS)
        || is_usual(&shapes.sources, SOURCES_OF_CLIENTS)
}

/// Returns a signature in words.
fn describe(signature: &Signature) -> String {
    let shape = Shape(signature.value);
    let options = if shape.has_options() {
        let length = usize::from(shape.header_length()) - TCP_HEADER_LENGTH;
        format!("{length} bytes of TCP options from {:08x}", shape.first_option())
    } else {
        "no TCP options".to_owned()
    };
    let mut words = vec![if shape.is_ipv6() { "IPv6" } else { "IPv4" }.to_owned(), options];
    if signature.mask & WINDOW != 0 {
        words.push(format!("window {}", shape.window()));
    }
    if signature.mask & TIME_TO_LIVE != 0 {
        words.push(format!("TTL {}", shape.time_to_live()));
    }
    words.join(", ")
}

#[cfg(test)]
mod tests;
