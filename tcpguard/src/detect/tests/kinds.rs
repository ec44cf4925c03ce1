//! Offenders, and the kinds of attacks.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::*;
use crate::kernel::HalfOpen;

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

#[test]
fn kinds_have_names() {
    let names = Kind::ALL.map(Kind::name);
    assert_eq!(names, ["spoofed", "concentrated", "prefix", "scan", "stray", "mixed"]);
}

/// Judges one source beside so many half-open handshakes that it stands out, and returns whether it is an offender.
fn offends(source: SourceReading) -> bool {
    !judge(1000, &[source], &[]).offenders.sources.is_empty()
}

#[test]
fn an_offender_has_more_than_its_limit() {
    assert!(!offends(source(1, 64)));
    assert!(offends(source(1, 65)));
}

#[test]
fn a_source_that_recently_did_nothing_completes_nothing() {
    let silent = SourceReading { recent_half_open: 0, recent_completed: 0, ..source(1, 900) };
    assert!(offends(silent));
    assert!(!offends(SourceReading { recent_completed: 1, ..silent }));
    let half = SourceReading { recent_half_open: 10, recent_completed: 10, ..source(1, 900) };
    assert!(!offends(half));
    assert!(offends(SourceReading { recent_completed: 9, ..half }));
}

#[test]
fn an_offence_tells_what_was_seen() {
    let seen = SourceReading { ports: 3, blocked_until: 77, passed: 55, recent_completed: 2, ..source(9, 900) };
    let offence = judge(1000, &[seen], &[]).offenders.sources[0];
    let expected = Offender {
        address: seen.source,
        half_open: 900,
        limit: 64,
        completed: 2,
        ports: 3,
        blocked_until: 77,
        let_in: 55,
    };
    assert_eq!(offence, expected);
    let network = PrefixReading { network: seen.source, half_open: 9000, ended: 7, unanswered: 5 };
    let offence = judge(9000, &[], &[network]).offenders.prefixes[0];
    let expected = Offender {
        address: seen.source,
        half_open: 9000,
        limit: 512,
        completed: 7,
        ports: 0,
        blocked_until: 0,
        let_in: 5,
    };
    assert_eq!(offence, expected);
}

/// Judges an observation in an attack of a kind that was found before.
fn kind_after(phase: Phase, readings: Readings) -> Option<Kind> {
    let state = State { host: scope(phase, 0), kind: Some(Kind::Scan), ..State::default() };
    let judgement = detect(&policy(), &observation(1.0, &over(readings)), &state);
    assert_eq!(judgement.state.phase(), phase);
    judgement.state.kind
}

#[test]
fn the_kind_changes_only_while_the_attack_goes_on_and_tells_something() {
    assert_eq!(kind_after(Phase::Attack, counts(0, 0, 5000)), Some(Kind::Spoofed));
    let refused = Readings { refused: 6, refused_coming: 6, ..counts(0, 0, 10) };
    assert_eq!(kind_after(Phase::Attack, refused), Some(Kind::Scan), "too few are half open to tell");
    let left_behind = Readings { half_open_coming: 0, ..counts(0, 0, 5000) };
    assert_eq!(kind_after(Phase::Recovering, left_behind), Some(Kind::Scan));
}

#[test]
fn strays_tell_something_above_their_threshold() {
    let strays = |strays| Readings { strays, strays_coming: strays, ..Readings::default() };
    assert_eq!(kind_after(Phase::Attack, strays(5000)), Some(Kind::Scan));
    assert_eq!(kind_after(Phase::Attack, strays(5001)), Some(Kind::Stray));
}

#[test]
fn half_of_the_threshold_tells_a_kind() {
    let refused = |half_open| Readings { refused: 6, refused_coming: 6, ..counts(0, 0, half_open) };
    assert_eq!(kind_after(Phase::Attack, refused(249)), Some(Kind::Scan));
    assert_eq!(kind_after(Phase::Attack, refused(250)), Some(Kind::Spoofed));
}

fn network(half_open: u64) -> PrefixReading {
    PrefixReading { network: Ipv4Addr::new(198, 18, 1, 0).into(), half_open, ended: 0, unanswered: half_open }
}

#[test]
fn an_offending_prefix_has_more_than_its_limit() {
    assert!(judge(1000, &[], &[network(512)]).offenders.prefixes.is_empty());
    assert_eq!(judge(1000, &[], &[network(513)]).offenders.prefixes.len(), 1);
}

#[test]
fn a_prefix_answers_if_its_heaviest_sources_have_less_than_half() {
    assert!(judge(4000, &[source(1, 2000)], &[network(4000)]).offenders.prefixes.is_empty());
    assert_eq!(judge(4000, &[source(1, 1999)], &[network(4000)]).offenders.prefixes.len(), 1);
}

#[test]
fn six_tenths_predominate_and_the_first_of_two_equal_parts_is_named() {
    assert_eq!(judge(10_000, &[source(1, 6000)], &[]).state.kind, Some(Kind::Concentrated));
    assert_eq!(judge(10_000, &[source(1, 5999)], &[]).state.kind, Some(Kind::Mixed));
    // Counts that were read one after the other: each has as many as the host.
    let elsewhere = PrefixReading { network: Ipv4Addr::new(198, 18, 2, 0).into(), ..network(2000) };
    assert_eq!(judge(2000, &[source(1, 2000)], &[elsewhere]).state.kind, Some(Kind::Concentrated));
}

#[test]
fn evidence_names_shares() {
    let evidence = |sources: &[SourceReading], prefixes: &[PrefixReading]| {
        judge(10_000, sources, prefixes).state.kind_evidence.expect("evidence")
    };
    let scanner = SourceReading { ports: 200, ..source(7, 9000) };
    assert_eq!(evidence(&[scanner], &[]), "1 sources scan many ports: 90 % of the half-open handshakes");
    assert_eq!(evidence(&[source(1, 4000), source(2, 4000)], &[]), "2 sources have 80 % of the half-open handshakes");
    assert_eq!(evidence(&[], &[network(7000)]), "1 prefixes have 70 % of the half-open handshakes");
    assert_eq!(evidence(&[], &[]), "100 % of the half-open handshakes are of sources that do not stand out");
    let elsewhere = PrefixReading { network: Ipv4Addr::new(198, 18, 2, 0).into(), ..network(3000) };
    assert_eq!(
        evidence(&[source(1, 2000), SourceReading { half_open: 1000, ..scanner }], &[elsewhere]),
        "half-open handshakes: few sources 20 %, scanning sources 10 %, prefixes 30 %, others 40 %"
    );
}

/// Judges an attack that the datapath does not count.
fn uncounted(rates: &Rates, kernel_rows: &[HalfOpen]) -> State {
    let pressure = over(Readings { refused: 6, refused_coming: 6, ..Readings::default() });
    let observation = Observation { rates, kernel_rows, ..observation(1.0, &pressure) };
    detect_lasting(&policy(), &observation, &State::default()).state
}

#[test]
fn without_rows_the_number_of_sources_names_the_kind() {
    let from = |distinct_sources| uncounted(&Rates { distinct_sources, ..Rates::default() }, &[]);
    assert_eq!(from(128.0).kind, Some(Kind::Concentrated));
    assert_eq!(from(129.0).kind, Some(Kind::Spoofed));
    let evidence = |state: State| state.kind_evidence.expect("evidence");
    assert!(evidence(from(129.0)).ends_with("; about 129 sources per second"));
    assert!(evidence(from(0.5)).ends_with("; about 1 sources per second"));
    assert!(!evidence(from(0.4)).contains("sources per second"));
}

#[test]
fn the_signs_that_an_attack_showed_last_are_kept() {
    let pressure = over(counts(0, 0, 5000));
    let before = State { signs: vec!["a sign".to_owned()], ..State::default() };
    let after = |headers: &HeaderReading| {
        let observation = Observation { headers, ..observation(1.0, &pressure) };
        let state = State { host: scope(Phase::Attack, 0), ..before.clone() };
        detect(&policy(), &observation, &state).state.signs
    };
    assert_eq!(after(&HeaderReading::default()), before.signs);
    let headers = HeaderReading { syn: 100, without_options: 100, ..HeaderReading::default() };
    assert_eq!(after(&headers), ["100 % of the SYNs have no TCP options, which every usual system sends"]);
}
