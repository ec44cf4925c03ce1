//! Simulates a whole day of attacks, some recorded in the lab and some synthetic, tick by tick at full speed. Every
//! reported attack ends, every block expires, and memory usage does not grow.
//!
//! The recordings are made by a binary with debug assertions (`TCPGUARD_RECORD=file tcpguard run`).

use std::net::Ipv4Addr;

use tcpguard_common::address::Address;

use super::{
    blocks::{BlockBook, BlockDecision},
    *,
};
use crate::{
    detect::{Observation, Phase, Policy, State, detect},
    monitor::{HalfOpenCounts, Pressure, Rates, Readings, SourceReading, TICK},
    record::Recorded,
    time::{HANDSHAKE_LIFETIME, WallClock},
};

const HOUR: Duration = Duration::from_secs(3600);

/// A reproducible generator of pseudo-random numbers.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// The traffic of the simulated host.
enum Traffic {
    /// No traffic, until this time.
    Quiet(Duration),
    /// The recording with this index, from this time on.
    Recorded(usize, Duration),
    /// `rate` SYNs per second from `sources` sources, until this time.
    Flood { rate: u64, sources: u32, until: Duration },
}

struct World {
    numbers: Numbers,
    recordings: Vec<Vec<Recorded>>,
    traffic: Traffic,
    attacks_until: Duration,
    half_open: f64,
    let_in: u64,
}

impl World {
    /// Returns what is observed at `at`.
    fn look(&mut self, at: Duration) -> Recorded {
        let seconds = TICK.as_secs_f64();
        self.half_open -= self.half_open * seconds / HANDSHAKE_LIFETIME.as_secs_f64() * 2.0;
        match self.traffic {
            Traffic::Quiet(until) if at < until => self.reading(0, 0),
            Traffic::Recorded(which, since) => {
                let place = ((at - since).as_millis() / TICK.as_millis()) as usize;
                match self.recordings[which].get(place) {
                    Some(seen) => seen.clone(),
                    None => self.next(at),
                }
            }
            Traffic::Flood { rate, sources, until } if at < until => {
                self.half_open += rate as f64 * seconds;
                self.let_in += rate / 10;
                self.reading(rate, sources)
            }
            Traffic::Quiet(_) | Traffic::Flood { .. } => self.next(at),
        }
    }

    fn next(&mut self, at: Duration) -> Recorded {
        let lasts = Duration::from_secs(20 + self.numbers.below(600));
        let is_over = at >= self.attacks_until;
        self.traffic = match (&self.traffic, self.numbers.below(3)) {
            _ if is_over => Traffic::Quiet(Duration::MAX),
            (Traffic::Recorded(..) | Traffic::Flood { .. }, _) => Traffic::Quiet(at + lasts),
            (Traffic::Quiet(_), 0) => Traffic::Recorded(self.numbers.below(self.recordings.len() as u64) as usize, at),
            (Traffic::Quiet(_), _) => Traffic::Flood {
                rate: 20 + self.numbers.below(50_000),
                sources: 1 + self.numbers.below(40) as u32,
                until: at + lasts,
            },
        };
        self.reading(0, 0)
    }

    fn reading(&mut self, rate: u64, sources: u32) -> Recorded {
        let half_open = self.half_open as u64;
        let readings = Readings {
            half_open: HalfOpenCounts { kernel: half_open.min(512), kernel_retried: 0, datapath: half_open },
            half_open_coming: rate * HANDSHAKE_LIFETIME.as_secs(),
            ..Readings::default()
        };
        let share = half_open / u64::from(sources.max(1));
        let suspect = |n: u32| SourceReading {
            // Different sources each time, so that a leak would show.
            source: Address::from(Ipv4Addr::from(self.let_in as u32 / 5000 * 64 + n)),
            half_open: share,
            recent_half_open: share,
            recent_completed: 0,
            ports: 1,
            passed: self.let_in,
            blocked_until: 0,
        };
        Recorded { host: readings, suspects: (0..sources).map(suspect).collect(), distinct_sources: f64::from(sources) }
    }
}

fn recordings() -> Vec<Vec<Recorded>> {
    let texts = [include_str!("recorded/concentrated.jsonl"), include_str!("recorded/spoofed.jsonl")];
    texts.map(|text| text.lines().map(|line| serde_json::from_str(line).expect("a recording")).collect()).into()
}

fn snapshot(seen: &Recorded, at: Duration) -> Snapshot {
    Snapshot {
        clock: WallClock::new(at.as_millis() as u64, 1000),
        rates: Rates { distinct_sources: seen.distinct_sources, ..Rates::default() },
        half_open: seen.host.half_open,
        pressure: Pressure { host: seen.host, ..Pressure::default() },
        ..Snapshot::of_nothing()
    }
}

/// The parts of the daemon under test, and their results.
struct Day {
    world: World,
    policy: Policy,
    report: Reporter,
    book: BlockBook,
    state: State,
    at: Duration,
    /// Attacks begun, attacks ended, and blocks.
    counts: [u32; 3],
}

impl Day {
    fn new(attacks_until: Duration) -> Self {
        let world = World {
            numbers: Numbers(20_261_120),
            recordings: recordings(),
            traffic: Traffic::Quiet(Duration::from_secs(60)),
            attacks_until,
            half_open: 0.0,
            let_in: 0,
        };
        Self {
            world,
            policy: Policy::of(&Config::default()),
            report: Reporter::new(EventLog::in_memory(), 2),
            book: BlockBook::new(Duration::from_secs(60), Duration::from_secs(3600)),
            state: State::default(),
            at: Duration::ZERO,
            counts: [0; 3],
        }
    }

    fn go_on_until(&mut self, end: Duration) {
        while self.at < end {
            self.tick();
            self.at += TICK;
        }
    }

    fn tick(&mut self) {
        let at = self.at;
        let seen = self.world.look(at);
        let snapshot = snapshot(&seen, at);
        let observation = Observation { sources: &seen.suspects, ..Observation::of(&snapshot, at) };
        let judgement = detect(&self.policy, &observation, &self.state);
        let is_calm = [self.state.phase(), judgement.state.phase()].map(|phase| phase == Phase::Calm);
        self.counts[0] += u32::from(is_calm == [true, false]);
        self.counts[1] += u32::from(is_calm == [false, true]);
        self.report.tell(&judgement, &snapshot, &ScopeNames::of(&Config::default()), at);
        for offence in &judgement.offenders.sources {
            let decision = self.book.decide(Network::of(offence.address), offence.let_in, offence.limit, at);
            self.counts[2] += u32::from(matches!(decision, BlockDecision::Block { .. }));
        }
        self.state = judgement.state;
    }
}

/// Simulates attacks for `length`, then two hours without traffic, longer than the longest block.
fn leave_nothing_behind(length: Duration) {
    let mut day = Day::new(length);
    day.go_on_until(length / 2);
    // By then everything bounded in number has reached its bound.
    let grown = allocation_counter::measure(|| day.go_on_until(length)).bytes_current;
    let end = length + 2 * HOUR;
    day.go_on_until(end);
    let [began, ended, blocked] = day.counts;
    let hours = u32::try_from(length.as_secs() / HOUR.as_secs()).unwrap();
    assert!(began > 2 * hours && blocked > 40 * hours, "{began} attacks, {blocked} blocks");
    assert_eq!((began, day.state.phase()), (ended, Phase::Calm));
    assert!(day.report.so_far().is_none(), "an attack that is over is still reported");
    let in_force = day.book.in_force(end);
    assert!(in_force.is_empty(), "{} blocks are still in force", in_force.len());
    assert!(grown < 1024 * 1024, "{grown} bytes more than after half of it");
}

#[test]
fn two_hours_of_attacks_leave_nothing_behind() {
    leave_nothing_behind(2 * HOUR);
}

#[test]
#[ignore = "takes half a minute without optimization; `cargo xtask test unit` runs it"]
fn a_day_of_attacks_leaves_nothing_behind() {
    leave_nothing_behind(24 * HOUR);
}
