mod kinds;
mod phases;

use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::{
    config::Config,
    monitor::{HalfOpenCounts, Readings},
};

fn policy() -> Policy {
    Policy::of(&Config::default())
}

fn counts(kernel: u64, kernel_retried: u64, datapath: u64) -> Readings {
    Readings {
        half_open: HalfOpenCounts { kernel, kernel_retried, datapath },
        half_open_coming: u64::MAX,
        ..Readings::default()
    }
}

fn over(readings: Readings) -> Pressure {
    Pressure { host: readings, ..Pressure::default() }
}

static NO_RATES: LazyLock<Rates> = LazyLock::new(Rates::default);
static NO_HEADERS: LazyLock<HeaderReading> = LazyLock::new(HeaderReading::default);
static NO_PORTS: LazyLock<Ports> = LazyLock::new(Ports::default);

fn observation(at: f64, pressure: &Pressure) -> Observation<'_> {
    Observation {
        at: Duration::from_secs_f64(at),
        pressure,
        sources: &[],
        prefixes: &[],
        rates: &NO_RATES,
        headers: &NO_HEADERS,
        ports: &NO_PORTS,
        kernel_rows: &[],
    }
}

/// Judges an observation that has been the same for two ticks: longer than a first round trip may take.
fn detect_lasting(policy: &Policy, observation: &Observation, state: &State) -> Judgement {
    let before = Observation { at: observation.at.saturating_sub(Duration::from_millis(200)), ..*observation };
    detect(policy, observation, &detect(policy, &before, state).state)
}

fn phase_after(readings: Readings) -> Phase {
    detect_lasting(&policy(), &observation(1.0, &over(readings)), &State::default()).state.phase()
}

#[test]
fn at_the_threshold_nothing_happens_and_at_one_more_it_does() {
    let refused = |refused| Readings { refused, refused_coming: refused, ..Readings::default() };
    let strays = |strays| Readings { strays, strays_coming: strays, ..Readings::default() };
    for (at, above) in [
        (counts(500, 0, 0), counts(501, 0, 0)),
        (counts(0, 0, 500), counts(0, 0, 501)),
        (counts(401, 400, 0), counts(401, 401, 0)),
        (refused(5), refused(6)),
        (strays(5000), strays(5001)),
    ] {
        assert_eq!(phase_after(at), Phase::Calm, "{at:?}");
        assert_eq!(phase_after(above), Phase::Attack, "{above:?}");
    }
}

/// A host that has completed this many handshakes per second for a while.
fn busy(completed: u64, readings: Readings) -> Readings {
    Readings { completed_second: completed, completed_lifetime: completed * 65, ..readings }
}

#[test]
fn handshakes_in_flight_and_abandoned_ones_are_no_evidence() {
    // 5,000 connections per second at a round-trip time of 150 ms, and 20,000 of which 1 % are abandoned.
    assert_eq!(phase_after(busy(5000, counts(750, 0, 750))), Phase::Calm);
    assert_eq!(phase_after(busy(20_000, counts(13_600, 12_800, 14_200))), Phase::Calm);
    // 10 forged SYNs per second beside 200 clients.
    assert_eq!(phase_after(busy(200, counts(650, 630, 650))), Phase::Calm);
    assert_eq!(phase_after(busy(200, counts(0, 0, 500 + 200 + 650))), Phase::Calm);
    assert_eq!(phase_after(busy(200, counts(0, 0, 500 + 200 + 650 + 1))), Phase::Attack);
    assert_eq!(phase_after(busy(200, counts(0, 400 + 650 + 1, 0))), Phase::Attack);
}

#[test]
fn a_first_round_trip_is_waited_for() {
    // 2,000 clients per second begin to connect at a round-trip time of 300 ms.
    let begin = (0..20u64).map(|tick| {
        let (begun, completed) = (200 * tick, (200 * tick).saturating_sub(600));
        let in_flight = begun - completed;
        Readings { completed_second: completed.min(2000), ..counts(in_flight, 0, in_flight) }
    });
    assert!(run(begin).iter().all(|phase| *phase == Phase::Calm));
    let flood = run((0..5u64).map(|tick| counts(0, 0, 400 * tick)));
    assert_eq!(flood, [Phase::Calm, Phase::Calm, Phase::Calm, Phase::Calm, Phase::Attack]);
    assert_eq!(run([counts(0, 0, 4001)]), [Phase::Attack], "no handshakes in flight explain this many");
}

#[test]
fn a_refused_threshold_of_0_is_exceeded_by_the_first() {
    let mut policy = policy();
    policy.host.max_refused = Some(0);
    let refused = Readings { refused: 1, refused_coming: 1, ..Readings::default() };
    let after = detect_lasting(&policy, &observation(1.0, &over(refused)), &State::default()).state;
    assert_eq!(after.phase(), Phase::Attack);
    let after = detect(&policy, &observation(2.0, &over(Readings::default())), &after).state;
    assert_eq!(after.phase(), Phase::Recovering);
}

/// Runs `readings`, one per tick, from `calm`, and returns the phase after each.
fn run(readings: impl IntoIterator<Item = Readings>) -> Vec<Phase> {
    let policy = policy();
    let mut state = State::default();
    let phases = readings.into_iter().enumerate().map(|(tick, readings)| {
        let pressure = over(readings);
        state = detect(&policy, &observation(tick as f64 / 10.0, &pressure), &state).state;
        state.phase()
    });
    phases.collect()
}

#[test]
fn what_an_attack_leaves_behind_holds_nothing_up_and_begins_nothing() {
    let flood = counts(600, 500, 100_000);
    let left_behind = Readings { half_open_coming: 0, ..flood };
    let phases = run(std::iter::repeat_n(flood, 50).chain(std::iter::repeat_n(left_behind, 200)));
    assert_eq!(phases[49], Phase::Attack);
    assert_eq!(phases[50], Phase::Recovering);
    assert_eq!(phases[149], Phase::Recovering);
    assert!(phases[151..].iter().all(|phase| *phase == Phase::Calm), "{:?}", &phases[140..]);
}

#[test]
fn an_attack_that_is_dropped_completely_goes_on() {
    // After the handshake lifetime nothing is half open any more.
    let dropped = Readings { half_open_prevented: 100_000, ..counts(0, 0, 0) };
    assert_eq!(phase_after(dropped), Phase::Calm, "what is dropped is no attack by itself");
    let phases = run(std::iter::repeat_n(counts(600, 0, 600), 5)
        .chain(std::iter::repeat_n(dropped, 300))
        .chain(std::iter::repeat_n(Readings::default(), 102)));
    assert!(phases[2..305].iter().all(|phase| *phase == Phase::Attack));
    assert_eq!((phases[305], phases[406]), (Phase::Recovering, Phase::Calm));
}

#[test]
fn after_a_leave_the_same_again_is_another_attack() {
    let left_behind = Readings { half_open_coming: 0, ..counts(600, 0, 600) };
    let phases = run(std::iter::repeat_n(counts(600, 0, 600), 5)
        .chain(std::iter::repeat_n(left_behind, 150))
        .chain(std::iter::repeat_n(counts(1101, 0, 1101), 3)));
    assert_eq!(phases[156], Phase::Calm);
    assert_eq!(phases[157], Phase::Attack);
}

#[test]
fn a_pause_shorter_than_hold_is_the_same_attack() {
    let policy = policy();
    let (flood, pause) = (over(counts(0, 0, 5000)), over(Readings { half_open_coming: 0, ..counts(0, 0, 5000) }));
    let mut state = detect_lasting(&policy, &observation(0.0, &flood), &State::default()).state;
    for tick in 1..95 {
        state = detect(&policy, &observation(f64::from(tick) / 10.0, &pause), &state).state;
    }
    assert_eq!(state.phase(), Phase::Recovering);
    let judgement = detect(&policy, &observation(9.6, &flood), &state);
    assert_eq!((judgement.state.phase(), judgement.state.since()), (Phase::Attack, Some(Duration::ZERO)));
}

#[test]
fn a_service_has_thresholds_of_its_own() {
    let mut policy = policy();
    policy.services = vec![(vec![443], Limits { max_half_open: 2000, ..policy.host.clone() })];
    let pressure = Pressure { services: vec![counts(0, 0, 1500)], ..over(counts(0, 0, 400)) };
    let state = detect_lasting(&policy, &observation(0.0, &pressure), &State::default()).state;
    assert_eq!(state.phase(), Phase::Calm);
    let pressure = Pressure { services: vec![counts(0, 0, 2001)], ..over(counts(0, 0, 400)) };
    let judgement = detect_lasting(&policy, &observation(0.3, &pressure), &state);
    assert_eq!(judgement.state.host.phase, Phase::Calm);
    assert_eq!(judgement.state.services[0].phase, Phase::Attack);
    assert_eq!(judgement.changes[0].scope, Scope::Service(0));
}

/// Returns the state of a scope in an attack that began at this second, or recovers from it.
fn scope(phase: Phase, since: u64) -> ScopeState {
    let mut scope = ScopeState::default();
    (scope.phase, scope.since) = (phase, Some(Duration::from_secs(since)));
    scope
}

#[test]
fn a_changed_set_of_services_keeps_the_states_of_those_that_stay() {
    let scope = |seconds| scope(Phase::Attack, seconds);
    let state = State { host: scope(1), services: vec![scope(2), scope(3)], ..State::default() };
    let changed = state.with_services(&[vec![80], vec![443, 8443]], &[vec![443, 8443], vec![22], vec![443]]);
    assert_eq!(changed.services, [scope(3), ScopeState::default(), ScopeState::default()]);
    assert_eq!(changed.host, scope(1));
}

#[test]
fn there_is_room_up_to_the_lowest_threshold() {
    let mut policy = policy();
    policy.services = vec![(vec![443], Limits { max_half_open: 60, ..policy.host.clone() })];
    let room_of = |host, service| {
        let pressure = Pressure { services: vec![counts(0, 0, service)], ..over(counts(0, 0, host)) };
        room(&policy, &pressure, &State::default())
    };
    assert_eq!([room_of(0, 0), room_of(0, 50), room_of(480, 0), room_of(480, 61)], [60, 10, 20, 0]);
}

fn any_readings() -> impl Strategy<Value = Readings> {
    let count = || prop_oneof![0..=450u64, 390..=510u64, 0..=100_000u64];
    (count(), count(), count(), count(), 0..10u64, 0..10u64).prop_map(
        |(kernel, kernel_retried, datapath, half_open_coming, refused, refused_coming)| Readings {
            half_open: HalfOpenCounts { kernel, kernel_retried: kernel_retried.min(kernel), datapath },
            half_open_coming,
            refused,
            refused_coming,
            ..Readings::default()
        },
    )
}

proptest! {
    #[test]
    fn there_is_always_a_way_back_to_calm(readings in prop::collection::vec(any_readings(), 0..100)) {
        let quiet = Readings { half_open_coming: 0, ..readings.last().copied().unwrap_or_default() };
        let quiet = Readings { refused: 0, refused_coming: 0, ..quiet };
        let ticks = readings.len();
        let phases = run(readings.into_iter().chain(std::iter::repeat_n(quiet, 102)));
        // From `calm`, the present counts may start one attack, but quiet readings end it.
        let last = phases[ticks + 101];
        prop_assert!(last == Phase::Calm || phases[ticks..].contains(&Phase::Calm) || phases[ticks] != Phase::Calm);
        prop_assert!(phases[ticks..].iter().rev().take(1).all(|phase| *phase != Phase::Attack));
    }

    #[test]
    fn no_attack_without_evidence(readings in prop::collection::vec(any_readings(), 1..100)) {
        let policy = policy();
        let mut state = State::default();
        for (tick, readings) in readings.into_iter().enumerate() {
            let pressure = over(readings);
            let judgement = detect(&policy, &observation(tick as f64 / 10.0, &pressure), &state);
            for change in &judgement.changes {
                prop_assert!(!change.evidence.is_empty());
                prop_assert!(change.evidence.iter().all(|evidence| evidence.value > evidence.threshold));
            }
            state = judgement.state;
            let is_calm = state.phase() == Phase::Calm;
            prop_assert_eq!(state.since().is_none(), is_calm);
            prop_assert_eq!(state.kind.is_none(), is_calm);
            prop_assert!(is_calm || !state.host.evidence.is_empty());
            prop_assert!(!is_calm || judgement.offenders == Offenders::default());
        }
    }

    #[test]
    fn nothing_flaps_within_the_band(coming in prop::collection::vec(400..=500u64, 1..300)) {
        // During an attack, values between `leave_ratio` and the threshold change nothing.
        let band = coming.into_iter().map(|half_open_coming| Readings { half_open_coming, ..counts(0, 0, 100_000) });
        let phases = run(std::iter::once(counts(0, 0, 100_000)).chain(band));
        prop_assert!(phases.iter().all(|phase| *phase == Phase::Attack));
        // The same holds in `calm`.
        let phases = run((0..100).map(|n| counts(400 + n, 0, 500)));
        prop_assert!(phases.iter().all(|phase| *phase == Phase::Calm));
    }
}
