use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::LazyLock,
};

use proptest::prelude::*;

use super::*;
use crate::monitor::{HalfOpenCounts, Readings};

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

fn observation(at: f64, pressure: &Pressure) -> Observation<'_> {
    Observation {
        at: Duration::from_secs_f64(at),
        pressure,
        sources: &[],
        prefixes: &[],
        rates: &NO_RATES,
        headers: &NO_HEADERS,
        ports: &[],
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

fn source(last: u8, half_open: u64) -> SourceReading {
    SourceReading {
        source: Ipv4Addr::new(198, 18, 1, last).into(),
        half_open,
        recent_half_open: half_open,
        ports: 1,
        passed: half_open,
        ..SourceReading::default()
    }
}

fn judge(half_open: u64, sources: &[SourceReading], prefixes: &[PrefixReading]) -> Judgement {
    let pressure = over(counts(0, 0, half_open));
    let observation = Observation { sources, prefixes, ..observation(1.0, &pressure) };
    detect_lasting(&policy(), &observation, &State::default())
}

#[test]
fn few_sources_are_named_and_answer() {
    let sources: Vec<SourceReading> = (1..=10).map(|n| source(n, 200)).collect();
    let judgement = judge(2000, &sources, &[]);
    assert_eq!(judgement.state.kind, Some(Kind::Concentrated));
    assert_eq!(judgement.offenders.sources.len(), 10);
    assert!(judgement.offenders.prefixes.is_empty());
}

#[test]
fn what_an_attack_left_behind_says_nothing_about_the_next() {
    let ten: Vec<SourceReading> = (1..=10).map(|n| source(n, 1000)).collect();
    let policy = policy();
    let at = |second: f64, readings: Readings, state: &State| {
        let pressure = over(readings);
        detect(&policy, &Observation { sources: &ten, ..observation(second, &pressure) }, state)
    };
    let flood = counts(0, 0, 10_000);
    let left_behind = Readings { half_open_coming: 0, ..flood };
    let first = at(0.2, flood, &at(0.0, flood, &State::default()).state);
    assert_eq!((first.state.kind, first.offenders.sources.len()), (Some(Kind::Concentrated), 10));
    let state = [0.4, 10.5].iter().fold(first.state, |state, second| at(*second, left_behind, &state).state);
    assert_eq!(state.phase(), Phase::Calm);
    // The next one is challenged at once: fewer of its handshakes are half open than of the first.
    let second = at(12.2, counts(0, 0, 16_000), &at(12.0, counts(0, 0, 16_000), &state).state);
    assert_eq!((second.state.kind, second.offenders), (Some(Kind::Spoofed), Offenders::default()));
    // What has expired does not excuse what the same sources send later.
    let expired: Vec<SourceReading> = (1..=10).map(|n| source(n, 10)).collect();
    let pressure = over(counts(0, 0, 6000));
    let state =
        detect(&policy, &Observation { sources: &expired, ..observation(30.0, &pressure) }, &second.state).state;
    assert_eq!(at(31.0, counts(0, 0, 16_000), &state).offenders.sources.len(), 10);
}

#[test]
fn nobody_answers_for_random_sources() {
    let sources: Vec<SourceReading> = (1..=200).map(|n| source(n, 70)).collect();
    let prefixes = [PrefixReading {
        network: Ipv4Addr::new(198, 18, 1, 0).into(),
        half_open: 20_000,
        ended: 0,
        unanswered: 20_000,
    }];
    let judgement = judge(5_000_000, &sources, &prefixes);
    assert_eq!(judgement.state.kind, Some(Kind::Spoofed));
    assert_eq!(judgement.offenders, Offenders::default());
}

#[test]
fn a_network_answers_where_no_few_of_its_sources_do() {
    let network = |half_open| PrefixReading {
        network: Ipv4Addr::new(198, 18, 1, 0).into(),
        half_open,
        ended: 0,
        unanswered: half_open,
    };
    let all: Vec<SourceReading> = (0..=255).map(|n| source(n, 80)).collect();
    let judgement = judge(20_480, &all, &[network(20_480)]);
    assert_eq!(judgement.state.kind, Some(Kind::Prefix));
    assert_eq!((judgement.offenders.sources.len(), judgement.offenders.prefixes.len()), (0, 1));

    let ten: Vec<SourceReading> = (1..=10).map(|n| source(n, 2000)).collect();
    let judgement = judge(20_000, &ten, &[network(20_000)]);
    assert_eq!(judgement.state.kind, Some(Kind::Concentrated));
    assert_eq!((judgement.offenders.sources.len(), judgement.offenders.prefixes.len()), (10, 0));
}

#[test]
fn a_network_of_random_ipv6_sources_answers() {
    let prefix = PrefixReading {
        network: Ipv6Addr::new(0x2001, 0xdb8, 9, 9, 0, 0, 0, 0).into(),
        half_open: 50_000,
        ended: 3,
        unanswered: 50_000,
    };
    let judgement = judge(50_000, &[], &[prefix]);
    assert_eq!(judgement.state.kind, Some(Kind::Prefix));
    assert_eq!(judgement.offenders.prefixes.len(), 1);
}

#[test]
fn a_source_of_many_ports_scans() {
    let scanner = SourceReading { ports: 200, ..source(7, 1000) };
    let judgement = judge(1000, &[scanner], &[]);
    assert_eq!(judgement.state.kind, Some(Kind::Scan));
    assert_eq!(judgement.offenders.sources.len(), 1);
}

#[test]
fn strays_are_a_kind_of_their_own_and_beside_syns_a_part_of_a_mixture() {
    let kind = |half_open, strays| {
        let readings = Readings { strays, strays_coming: strays, ..counts(0, 0, half_open) };
        let judgement = detect_lasting(&policy(), &observation(1.0, &over(readings)), &State::default());
        assert!(judgement.offenders.sources.is_empty());
        judgement.state.kind
    };
    assert_eq!(kind(0, 100_000), Some(Kind::Stray));
    assert_eq!(kind(100, 100_000), Some(Kind::Stray), "too few are half open to tell anything");
    assert_eq!(kind(5000, 100_000), Some(Kind::Mixed));
    assert_eq!(kind(5000, 100), Some(Kind::Spoofed));
}

#[test]
fn a_client_whose_handshakes_complete_is_no_offender() {
    // 500 complete per second, and 2 % are lost: 160 recently half open.
    let client = SourceReading { recent_completed: 4000, recent_half_open: 160, half_open: 650, ..source(1, 650) };
    let judgement = judge(100_000, &[client, source(2, 90_000)], &[]);
    let offenders: Vec<_> = judgement.offenders.sources.iter().map(|offence| offence.address).collect();
    assert_eq!(offenders, [source(2, 0).source]);
}

#[test]
fn a_proven_source_answers_for_its_own_half_open_handshakes() {
    let proven = SourceReading { recent_completed: 10, recent_half_open: 900, ..source(3, 900) };
    assert_eq!(judge(1000, &[proven], &[]).offenders.sources.len(), 1);
}

#[test]
fn equal_parts_are_mixed() {
    assert_eq!(judge(10_000, &[source(1, 5000)], &[]).state.kind, Some(Kind::Mixed));
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
