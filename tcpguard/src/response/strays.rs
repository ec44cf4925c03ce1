//! Floods of segments that belong to no connection: ACKs, resets, FINs and SYN-ACKs.
//!
//! In calm nothing is looked up. When the rate of such segments, or of the resets by which the kernel answers them, exceeds
//! the threshold, the datapath looks up every segment for one tick. If those without a connection exceed the threshold, it
//! drops them until they have stayed below it for a while.
//!
//! Only what the kernel would find no socket for is dropped. Where a socket is missing for another reason, segments are
//! looked up only at ports whose handshakes complete on this host: with NAT, with forwarding, and where interfaces are
//! stacked on a guarded one, on which sockets may be bound to either.

use std::time::Duration;

use tcpguard_common::abi::{counters::Counter, lease::flag};
use tracing::info;

use super::Surroundings;
use crate::{
    config::{Config, Thresholds},
    kernel::Translation,
    monitor::Snapshot,
};

/// The least time between two looks that the rate of resets, sent or received, or of SYN-ACKs leads to: a proxy has many.
const NEXT_LOOK: Duration = Duration::from_secs(1);
/// The least time between two looks that the rate of ACKs leads to, which every busy server receives: a look at each costs
/// a fiftieth of one at every segment. It is for hosts whose firewall keeps the kernel from sending resets.
const NEXT_LOOK_AT_ACKS: Duration = Duration::from_secs(5);
/// The rate of ACKs that leads to a look, as a multiple of the threshold.
const MANY_ACKS: f64 = 4.0;
/// The share of strays that the kernel has to answer with resets before they are dropped at any port: otherwise something
/// takes them before the kernel looks for a connection, such as a load balancer, or a firewall.
const ANSWERED: f64 = 0.3;
/// How long what was read of NAT and forwarding is relied on.
const TRANSLATION_HOLDS: Duration = Duration::from_secs(1);

/// Decides whether stray segments are looked up, and dropped.
pub(super) struct Strays {
    thresholds: Thresholds,
    state: State,
    /// The time and the sums at the last tick.
    last: Option<(Duration, Sums)>,
    translation: Option<(Duration, Translation)>,
    flags: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing is looked up. The time is that of the last look.
    Calm(Option<Duration>),
    /// For one tick.
    Looking,
    /// Strays are dropped: if `everywhere`, at all ports for which that is possible, and otherwise only where handshakes
    /// complete on this host. `quiet` is when their rate fell below the threshold.
    Filtering { everywhere: bool, quiet: Option<Duration> },
}

/// Totals since the datapath was loaded, and in [`rates`], rates per second.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    strays: f64,
    /// Resets that the kernel sent.
    resets_sent: f64,
    /// SYNs to closed ports, which it answers with a reset if their checksum is right.
    syn_closed: f64,
    resets: f64,
    syn_acks: f64,
    acks: f64,
}

impl Sums {
    fn of(snapshot: &Snapshot) -> Self {
        let get = |counter: Counter| snapshot.totals.get(counter) as f64;
        Self {
            strays: get(Counter::Strays),
            resets_sent: snapshot.tcp_ext.resets_sent as f64,
            syn_closed: get(Counter::SynClosed),
            resets: get(Counter::Rst),
            syn_acks: get(Counter::SynAck),
            acks: get(Counter::Ack),
        }
    }

    fn per_second(self, before: Self, seconds: f64) -> Self {
        let rate = |now: f64, before: f64| (now - before).max(0.0) / seconds;
        let (sent, syn_closed) = (rate(self.resets_sent, before.resets_sent), rate(self.syn_closed, before.syn_closed));
        Self {
            strays: rate(self.strays, before.strays),
            // Not all of them: forged SYNs with wrong checksums would hide a flood.
            resets_sent: sent - syn_closed.min(sent / 2.0),
            syn_closed,
            resets: rate(self.resets, before.resets),
            syn_acks: rate(self.syn_acks, before.syn_acks),
            acks: rate(self.acks, before.acks),
        }
    }
}

impl Strays {
    pub fn new(config: &Config) -> Self {
        Self {
            thresholds: config.thresholds.clone(),
            state: State::Calm(None),
            last: None,
            translation: None,
            flags: 0,
        }
    }

    /// Applies a changed configuration.
    pub fn reconfigure(&mut self, config: &Config) {
        self.thresholds.clone_from(&config.thresholds);
    }

    /// Returns the flags of the lease.
    pub const fn flags(&self) -> u64 {
        self.flags
    }

    /// Returns how ports are handled at which handshakes complete on this host.
    pub const fn at_ports(&self) -> PortFilter {
        match self.state {
            State::Calm(_) => PortFilter::Off,
            State::Looking => PortFilter::Looks,
            State::Filtering { .. } => PortFilter::Drops,
        }
    }

    /// Decides for the time until the next tick.
    pub fn apply(&mut self, snapshot: &Snapshot, surroundings: Surroundings, at: Duration) {
        let sums = Sums::of(snapshot);
        let last = self.last.replace((at, sums));
        let Some((then, before)) = last.filter(|(then, _)| at > *then) else { return };
        let rates = sums.per_second(before, (at - then).as_secs_f64());
        let next = next(self.state, rates, &self.thresholds, at);
        match (self.state, next) {
            (State::Filtering { .. }, State::Calm(_)) => info!("the flood of segments without a connection ended"),
            (State::Looking, State::Filtering { .. }) => {
                info!("{:.0} segments per second belong to no connection, and are dropped", rates.strays);
            }
            _ => {}
        }
        self.state = next;
        self.flags = match self.state {
            State::Calm(_) => 0,
            State::Looking => self.families(surroundings, at),
            State::Filtering { everywhere: true, .. } => self.families(surroundings, at) | flag::DROP_STRAYS,
            // Counted everywhere, to find the end of the flood.
            State::Filtering { everywhere: false, .. } => self.families(surroundings, at),
        };
    }

    /// Returns the flags of the families of which every segment for the host may be looked up.
    fn families(&mut self, surroundings: Surroundings, at: Duration) -> u64 {
        if !surroundings.knows_local || surroundings.has_stacked {
            return 0;
        }
        let known = self.translation.filter(|(read, _)| at.saturating_sub(*read) < TRANSLATION_HOLDS);
        let (read, translation) = known.unwrap_or_else(|| (at, Translation::read()));
        self.translation = Some((read, translation));
        (if translation.ipv4 { 0 } else { flag::STRAYS_IPV4 }) | if translation.ipv6 { 0 } else { flag::STRAYS_IPV6 }
    }
}

/// How segments to ports at which handshakes complete on this host are handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortFilter {
    /// As their challenges require.
    Off,
    /// They are looked up, and counted.
    Looks,
    /// They are looked up, and dropped if they belong to no connection.
    Drops,
}

fn next(state: State, rates: Sums, thresholds: &Thresholds, at: Duration) -> State {
    let threshold = f64::from(thresholds.max_stray);
    match state {
        State::Looking if rates.strays > threshold => {
            // What the kernel finds no connection for either, it answers with a reset, unless it is one.
            let to_be_answered = (rates.strays - rates.resets).max(0.0);
            let everywhere = rates.resets_sent >= ANSWERED * to_be_answered;
            State::Filtering { everywhere, quiet: None }
        }
        State::Looking => State::Calm(Some(at)),
        State::Filtering { everywhere, quiet } => {
            if rates.strays >= thresholds.leave_ratio * threshold {
                State::Filtering { everywhere, quiet: None }
            } else if at.saturating_sub(quiet.unwrap_or(at)) >= thresholds.hold {
                State::Calm(Some(at))
            } else {
                State::Filtering { everywhere, quiet: quiet.or(Some(at)) }
            }
        }
        State::Calm(looked) => {
            let has_passed = |wait: Duration| looked.is_none_or(|looked| at.saturating_sub(looked) >= wait);
            let is_due = rates.resets_sent.max(rates.resets).max(rates.syn_acks) > threshold && has_passed(NEXT_LOOK)
                || rates.acks > MANY_ACKS * threshold && has_passed(NEXT_LOOK_AT_ACKS);
            if is_due { State::Looking } else { state }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(100);

    /// Returns the states that these rates lead to, one tick after the other.
    fn states(rates: impl IntoIterator<Item = Sums>) -> Vec<State> {
        let thresholds = Config::default().thresholds;
        let mut at = Duration::from_secs(100);
        let mut state = State::Calm(None);
        let states = rates.into_iter().map(|rates| {
            at += TICK;
            state = next(state, rates, &thresholds, at);
            state
        });
        states.collect()
    }

    fn looks(states: &[State]) -> usize {
        states.iter().filter(|state| matches!(state, State::Looking)).count()
    }

    #[test]
    fn each_kind_of_flood_is_found_by_the_second_tick_and_forgotten_after_hold() {
        let kinds = [
            Sums { resets_sent: 1e5, ..Sums::default() },
            Sums { resets: 1e5, ..Sums::default() },
            Sums { syn_acks: 1e5, ..Sums::default() },
            Sums { acks: 1e5, ..Sums::default() },
        ];
        for kind in kinds {
            let flood = [kind, Sums { strays: 1e5, ..kind }, Sums { strays: 1e5, ..Sums::default() }];
            let flood = flood.map(|rates| Sums { resets_sent: rates.strays - rates.resets, ..rates });
            let flood = [Sums { resets_sent: kind.resets_sent, ..flood[0] }, flood[1], flood[2]];
            let states = states(flood.into_iter().chain(std::iter::repeat_n(Sums::default(), 102)));
            let filtering = State::Filtering { everywhere: true, quiet: None };
            assert_eq!(states[..3], [State::Looking, filtering, filtering], "{kind:?}");
            let first_calm = states.iter().rposition(|state| matches!(state, State::Filtering { .. }));
            assert_eq!(first_calm, Some(102), "{kind:?}");
        }
    }

    #[test]
    fn busy_hosts_are_looked_at_rarely() {
        let minute = |rates: Sums| states(std::iter::repeat_n(rates, 600));
        let acks = minute(Sums { acks: 1e6, ..Sums::default() });
        assert!(looks(&acks) <= 12, "{}", looks(&acks));
        let proxy = minute(Sums { syn_acks: 2e4, resets: 1e4, strays: 100.0, ..Sums::default() });
        assert!((40..=60).contains(&looks(&proxy)), "{}", looks(&proxy));
        assert!(proxy.iter().all(|state| !matches!(state, State::Filtering { .. })));
        let load_balancer = minute(Sums { acks: 1e6, strays: 1e6, ..Sums::default() });
        let drops_everywhere = |state: &State| matches!(state, State::Filtering { everywhere: true, .. });
        assert!(!load_balancer.iter().any(drops_everywhere), "the kernel does not see what it takes");
        assert_eq!(looks(&minute(Sums { acks: 1e4, resets: 1e3, ..Sums::default() })), 0);
    }
}
