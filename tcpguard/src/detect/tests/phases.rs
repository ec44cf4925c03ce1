//! What a scope remembers from one phase to the next.

use std::net::Ipv4Addr;

use super::*;
use crate::detect::thresholds::{Evidence, Measure};

/// Judges these readings, a tenth of a second apart, and returns the host's state after each.
fn states(readings: &[Readings]) -> Vec<ScopeState> {
    let policy = policy();
    let mut state = State::default();
    let states = readings.iter().enumerate().map(|(tick, readings)| {
        let pressure = over(*readings);
        state = detect(&policy, &observation(tick as f64 / 10.0, &pressure), &state).state;
        state.host.clone()
    });
    states.collect()
}

#[test]
fn phases_have_names() {
    assert_eq!([Phase::Calm, Phase::Recovering, Phase::Attack].map(Phase::name), ["calm", "recovering", "attack"]);
}

#[test]
fn a_scope_is_in_doubt_until_it_is_an_attack() {
    let (low, high) = (counts(0, 0, 10), counts(0, 0, 600));
    let doubts = |readings: &[Readings]| states(readings).iter().map(ScopeState::is_in_doubt).collect::<Vec<_>>();
    assert_eq!(doubts(&[low, high, high, high]), [false, true, true, false]);
    assert_eq!(doubts(&[high, low]), [true, false]);
}

#[test]
fn eight_times_the_threshold_is_not_urgent_and_one_more_is() {
    assert_eq!(states(&[counts(0, 0, 4000)])[0].phase, Phase::Calm);
    assert_eq!(states(&[counts(0, 0, 4001)])[0].phase, Phase::Attack);
}

#[test]
fn an_attack_leaves_below_the_ratio_of_its_threshold() {
    let coming = |half_open_coming| Readings { half_open_coming, ..counts(0, 0, 5000) };
    let flood = counts(0, 0, 5000);
    assert_eq!(states(&[flood, coming(400)])[1].phase, Phase::Attack);
    assert_eq!(states(&[flood, coming(399)])[1].phase, Phase::Recovering);
}

#[test]
fn evidence_is_what_exceeded_a_threshold_last() {
    let value = |state: &ScopeState| state.evidence.iter().map(|evidence| evidence.value).collect::<Vec<_>>();
    let flood = |half_open| counts(0, 0, half_open);
    let states = states(&[flood(5000), flood(6000), Readings { half_open_coming: 450, ..flood(7000) }]);
    assert_eq!(value(&states[0]), [5000]);
    assert_eq!(value(&states[1]), [6000]);
    assert_eq!(states[2].phase, Phase::Attack);
    assert_eq!(value(&states[2]), [6000], "below the threshold, the last evidence is kept");
}

#[test]
fn evidence_is_put_into_words() {
    let evidence = Evidence { measure: Measure::HalfOpenKernel, value: 612, threshold: 500, allowance: 0 };
    assert_eq!(evidence.to_string(), "612 handshakes half open in the kernel (threshold 500)");
    let evidence = Evidence { measure: Measure::Refused, allowance: 7, ..evidence };
    assert_eq!(
        evidence.to_string(),
        "612 connection requests refused in a second (threshold 500, 7 of it for handshakes that complete)"
    );
}

/// The readings of an attack and of the time until it is over.
fn attack_and_leave(left_behind: Readings) -> Vec<Readings> {
    let mut readings = vec![counts(3000, 2000, 5000); 5];
    readings.extend(vec![Readings { half_open_coming: 0, ..left_behind }; 102]);
    readings
}

#[test]
fn what_is_left_over_is_forgiven_as_long_as_it_is_there() {
    let forgiven = |then: &[Readings]| {
        let mut readings = attack_and_leave(counts(3000, 2000, 5000));
        readings.extend(then);
        let last = states(&readings).pop().expect("a state");
        (last.phase, last.forgiven())
    };
    assert_eq!(forgiven(&[]), (Phase::Calm, 5000));
    let less = counts(100, 100, 200);
    assert_eq!(forgiven(&[less]), (Phase::Calm, 200));
    assert_eq!(forgiven(&[less, counts(100, 100, 700)]), (Phase::Calm, 200), "what comes then is not");
    assert_eq!(forgiven(&[less, counts(0, 0, 701), counts(0, 0, 701), counts(0, 0, 701)]).0, Phase::Attack);
    let lifetime = crate::time::COUNTED_LIFETIME.as_millis() as usize / 100;
    assert_eq!(forgiven(&vec![counts(0, 0, 400); lifetime + 1]).1, 0, "they have expired");
}

#[test]
fn a_prefix_answers_for_what_it_has_beside_what_was_left_over() {
    let prefix = |half_open| {
        [PrefixReading { network: Ipv4Addr::new(198, 18, 1, 0).into(), half_open, ended: 0, unanswered: half_open }]
    };
    let policy = policy();
    let at = |second: f64, readings: Readings, prefixes: &[PrefixReading], state: &State| {
        let pressure = over(readings);
        detect(&policy, &Observation { prefixes, ..observation(second, &pressure) }, state)
    };
    let flood = counts(0, 0, 10_000);
    let mut state = at(0.0, flood, &prefix(9000), &State::default()).state;
    for second in [0.2, 0.4, 10.5] {
        state = at(second, Readings { half_open_coming: 0, ..flood }, &prefix(9000), &state).state;
    }
    assert_eq!(state.phase(), Phase::Calm);
    let offenders = |half_open| at(11.0, counts(0, 0, 30_000), &prefix(half_open), &state).offenders.prefixes;
    assert!(offenders(9512).is_empty());
    let offender = offenders(19_000).pop().expect("an offender");
    assert_eq!(offender.half_open, 10_000);
}
