use tcpguard_common::abi::signature::CompletedShapes;

use super::*;

/// IPv4, no options, window 0, TTL 244.
const BARE: Shape = Shape(0x05f4_0000);
const LINUX: Shape = Shape(0x0204_05b4_0a40_faf0);
/// The maximum segment size alone, as a scanner sends it.
const SCANNER: Shape = Shape(0x0204_05b4_0640_0400);
const LINUX_CLASS: usize = LINUX.class() as usize;
const BARE_CLASS: usize = BARE.class() as usize;

/// A reading of a flood of `shape` on a host at which 1,000 clients with Linux have completed handshakes.
fn reading(number: u64, shape: Shape) -> HeaderReading {
    let mut completed = Box::new(CompletedShapes { handshakes: [0; 256], sources: [0; 256] });
    (completed.handshakes[LINUX_CLASS], completed.sources[LINUX_CLASS]) = (1000, 1000);
    HeaderReading { number, samples: vec![shape; 250], completed: Some(completed), ..HeaderReading::default() }
}

/// The same, with `change` applied to what the SYNs of completed handshakes looked like.
fn reading_with(shape: Shape, change: impl FnOnce(&mut CompletedShapes)) -> HeaderReading {
    let mut reading = reading(1, shape);
    if let Some(completed) = &mut reading.completed {
        change(completed);
    }
    reading
}

struct Watch(Signatures, f64);

impl Watch {
    fn new() -> Self {
        Self(Signatures::new(EventLog::in_memory()), 0.0)
    }

    /// A tick a second later; returns how many signatures are in force.
    fn tick(&mut self, phase: Phase, headers: &HeaderReading, matched: u64, refuted: u64) -> usize {
        self.1 += 1.0;
        let seen = Seen { phase, matched, refuted, headers, drops: true };
        self.0.apply(&seen, Duration::from_secs_f64(self.1));
        self.0.in_force.len()
    }
}

#[test]
fn a_flood_that_no_client_looks_like_has_one_until_it_is_over() {
    let mut watch = Watch::new();
    let flood = reading(1, BARE);
    assert_eq!(watch.tick(Phase::Calm, &flood, 0, 0), 0);
    assert_eq!(watch.tick(Phase::Attack, &flood, 0, 0), 1);
    assert!(watch.0.in_force()[0].is_of(BARE) && !watch.0.in_force()[0].is_of(LINUX));
    assert_eq!(watch.0.descriptions(), ["IPv4, no TCP options, window 0, TTL 244"]);
    for tick in 1..=20 {
        assert_eq!(watch.tick(Phase::Attack, &flood, tick * 10_000, 0), 1);
    }
    let after: Vec<usize> = (0..7).map(|_| watch.tick(Phase::Recovering, &flood, 200_000, 0)).collect();
    assert_eq!(after, [1, 1, 1, 1, 1, 0, 0], "it has paused for five seconds");
}

#[test]
fn a_flood_that_imitates_clients_has_none() {
    let mut watch = Watch::new();
    assert_eq!(watch.tick(Phase::Attack, &reading(1, LINUX), 0, 0), 0);
}

#[test]
fn it_is_not_known_what_clients_look_like_before_some_have_connected() {
    let in_force = |shape, completed| {
        let reading = reading_with(shape, |shapes| shapes.handshakes[LINUX_CLASS] = completed);
        Watch::new().tick(Phase::Attack, &reading, 0, 0)
    };
    assert_eq!([in_force(BARE, MIN_COMPLETED_BARE - 1), in_force(BARE, MIN_COMPLETED_BARE)], [0, 1]);
    assert_eq!([in_force(SCANNER, MIN_COMPLETED - 1), in_force(SCANNER, MIN_COMPLETED)], [0, 1], "options need more");
    let unread = HeaderReading { completed: None, ..reading(1, BARE) };
    assert_eq!(Watch::new().tick(Phase::Attack, &unread, 0, 0), 0);
}

#[test]
fn few_clients_of_that_shape_are_enough_to_have_none() {
    let two_handshakes = reading_with(BARE, |shapes| {
        (shapes.handshakes[LINUX_CLASS], shapes.handshakes[BARE_CLASS]) = (998, 2);
    });
    assert_eq!(Watch::new().tick(Phase::Attack, &two_handshakes, 0, 0), 0);
    // A probe has connected a million times, and ten clients look like the flood.
    let beside_a_probe = reading_with(BARE, |shapes| {
        (shapes.handshakes[LINUX_CLASS], shapes.sources[LINUX_CLASS]) = (1_000_000, 1);
        (shapes.handshakes[BARE_CLASS], shapes.sources[BARE_CLASS]) = (10, 10);
    });
    assert_eq!(Watch::new().tick(Phase::Attack, &beside_a_probe, 0, 0), 0);
}

#[test]
fn a_client_ends_it_at_once_and_for_a_day() {
    let mut watch = Watch::new();
    assert_eq!(watch.tick(Phase::Attack, &reading(1, BARE), 0, 0), 1);
    assert_eq!(watch.tick(Phase::Attack, &reading(2, BARE), 10_000, 1), 0);
    assert_eq!(watch.tick(Phase::Attack, &reading(3, BARE), 10_000, 1), 0);
    watch.tick(Phase::Calm, &reading(4, BARE), 10_000, 1);
    assert_eq!(watch.tick(Phase::Attack, &reading(5, BARE), 10_000, 1), 0, "an attack that has paused");
    watch.1 += 86_400.0;
    assert_eq!(watch.tick(Phase::Attack, &reading(6, BARE), 10_000, 1), 1);
}

#[test]
fn a_flood_that_changes_has_another_one() {
    let mut watch = Watch::new();
    let other = Shape(0x65f2_ffff);
    assert_eq!(watch.tick(Phase::Attack, &reading(1, BARE), 0, 0), 1);
    assert_eq!(watch.tick(Phase::Attack, &reading(2, other), 10_000, 0), 2);
    assert_eq!(watch.tick(Phase::Attack, &reading(3, LINUX), 20_000, 0), 0, "clients, or a flood that imitates them");
}

#[test]
fn handshakes_of_another_class_do_not_outweigh_clients() {
    let learned = |handshakes: [u64; 2], sources: [u64; 2]| {
        let reading = reading_with(BARE, |shapes| {
            [shapes.handshakes[LINUX_CLASS], shapes.handshakes[BARE_CLASS]] = handshakes;
            [shapes.sources[LINUX_CLASS], shapes.sources[BARE_CLASS]] = sources;
        });
        Watch::new().tick(Phase::Attack, &reading, 0, 0) == 1
    };
    // An attacker completes millions of handshakes, from as many addresses of his own.
    assert!(learned([600_000, 63], [100_000, 15]));
    assert!(!learned([600_000, 64], [100_000, 15]));
    assert!(!learned([600_000, 63], [100_000, 16]));
    // A thousand strange handshakes in ten million are no clients.
    assert!(learned([10_000_000, 999], [0, 0]));
    assert!(!learned([10_000_000, 1001], [0, 0]));
}

#[test]
fn what_is_left_of_a_flood_does_not_keep_it() {
    let mut watch = Watch::new();
    assert_eq!(watch.tick(Phase::Attack, &reading(1, BARE), 0, 0), 1);
    let mixed = |bare, number| {
        let samples = [vec![BARE; bare], vec![LINUX; 20 - bare]].concat();
        HeaderReading { samples, ..reading(number, BARE) }
    };
    assert_eq!(watch.tick(Phase::Attack, &mixed(10, 2), 60, 0), 1);
    assert_eq!(watch.tick(Phase::Attack, &mixed(9, 3), 120, 0), 0);
}

#[test]
fn a_second_tool_has_another_one_however_much_it_sends() {
    let mut watch = Watch::new();
    let other = Shape(0x65f2_ffff);
    assert_eq!(watch.tick(Phase::Attack, &reading(1, BARE), 0, 0), 1);
    let samples = [vec![BARE; 160], vec![other; 240]].concat();
    let both = HeaderReading { samples, ..reading(2, BARE) };
    assert_eq!(watch.tick(Phase::Attack, &both, 10_000, 0), 2);
}
