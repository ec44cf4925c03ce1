//! Inputs for fuzz tests: seeds, changed at random. `cargo xtask fuzz` runs the tests whose names begin with `fuzz` for long,
//! `cargo xtask test` for a few seconds each.

use std::{panic::AssertUnwindSafe, time::Duration};

use bolero::check;

/// The environment variable that sets how long each target runs, in seconds.
pub const VARIABLE: &str = "TCPGUARD_FUZZ_SECONDS";
const DEFAULT: Duration = Duration::from_secs(3);
/// The longest input, in bytes.
const MOST: usize = 8192;

/// One change of a seed: replace a byte, insert one, remove one, or repeat the bytes before it.
type Change = (u16, u8, u8);

/// Calls `check` with the seeds, changed at random, and with random bytes, until the time is over.
pub fn run(seeds: &[&[u8]], check: impl Fn(&[u8])) {
    // A failed check ends the test, and nothing that it left behind is used again.
    let check = AssertUnwindSafe(check);
    let seconds = std::env::var(VARIABLE).ok().and_then(|seconds| seconds.parse().ok());
    seeds.iter().for_each(|seed| check(seed));
    check!().with_test_time(seconds.map_or(DEFAULT, Duration::from_secs)).with_type::<(usize, Vec<Change>)>().for_each(
        |(seed, changes)| {
            let check = &check;
            check(&changed(seeds.get(seed % (seeds.len() + 1)).copied(), changes));
        },
    );
}

fn changed(seed: Option<&[u8]>, changes: &[Change]) -> Vec<u8> {
    let Some(seed) = seed else { return changes.iter().flat_map(|(_, kind, byte)| [*kind, *byte]).collect() };
    let mut bytes = seed.to_vec();
    for (place, kind, byte) in changes {
        let place = usize::from(*place) % (bytes.len() + 1);
        match (kind % 4, bytes.get_mut(place)) {
            (0, Some(there)) => *there = *byte,
            (1, _) => bytes.insert(place, *byte),
            (2, Some(_)) => drop(bytes.remove(place)),
            (3, _) => {
                let before = bytes[place.saturating_sub(usize::from(*byte))..place].to_vec();
                bytes.splice(place..place, before);
            }
            _ => {}
        }
        bytes.truncate(MOST);
    }
    bytes
}
