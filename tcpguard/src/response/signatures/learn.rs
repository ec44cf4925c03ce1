//! Learning what the SYNs of a flood have in common.

use std::collections::HashMap;

use tcpguard_common::{
    abi::signature::Signature,
    packet::{SEGMENT_SIZE, Shape, TIME_TO_LIVE, WINDOW},
};

/// The share of SYNs that a signature, or several with different TTLs, must cover.
pub const COVERED: f64 = 0.95;
/// A TTL is worth a signature if this share of the SYNs has it.
const WORTH_IT: f64 = 0.01;

/// What may differ between the SYNs of one tool, the least first. The TTL differs between places, the window and the
/// segment size with the tool.
const VARIED: [u64; 7] = [
    0,
    TIME_TO_LIVE,
    WINDOW,
    TIME_TO_LIVE | WINDOW,
    SEGMENT_SIZE,
    TIME_TO_LIVE | SEGMENT_SIZE,
    TIME_TO_LIVE | WINDOW | SEGMENT_SIZE,
];

/// Returns at most `most` signatures that cover [`COVERED`] of the samples, as specific as that permits; none if the samples
/// have nothing in common.
pub fn learn(samples: &[Shape], most: usize) -> Vec<Signature> {
    let enough = (samples.len() as f64 * COVERED).ceil() as usize;
    if samples.is_empty() || most == 0 {
        return Vec::new();
    }
    for varied in VARIED {
        let (value, count) = most_frequent(samples.iter().map(|shape| shape.0 & !varied));
        if count < enough {
            continue;
        }
        let common = Signature { mask: !varied, value };
        if varied & TIME_TO_LIVE == 0 {
            return vec![common];
        }
        let exact = by_time_to_live(samples, common);
        let covered = samples.iter().filter(|shape| exact.iter().any(|signature| signature.is_of(**shape))).count();
        return if exact.len() <= most && covered >= enough { exact } else { vec![common] };
    }
    Vec::new()
}

/// Returns the signatures of the frequent TTLs of samples that have `common` in common.
fn by_time_to_live(samples: &[Shape], common: Signature) -> Vec<Signature> {
    let mut counts: HashMap<u64, usize> = HashMap::new();
    for shape in samples.iter().filter(|shape| common.is_of(**shape)) {
        *counts.entry(shape.0 & TIME_TO_LIVE).or_default() += 1;
    }
    let worth_it = (samples.len() as f64 * WORTH_IT) as usize;
    let frequent = counts.into_iter().filter(|(_, count)| *count > worth_it);
    let mut values: Vec<u64> = frequent.map(|(value, _)| value).collect();
    values.sort_unstable();
    values
        .into_iter()
        .map(|value| Signature { mask: common.mask | TIME_TO_LIVE, value: common.value | value })
        .collect()
}

/// Returns the most frequent value and how often there is.
fn most_frequent(values: impl Iterator<Item = u64>) -> (u64, usize) {
    let mut counts: HashMap<u64, usize> = HashMap::new();
    values.for_each(|value| *counts.entry(value).or_default() += 1);
    counts.into_iter().max_by_key(|(value, count)| (*count, *value)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// IPv4, no options, this window and TTL.
    const fn bare(window: u16, time_to_live: u8) -> Shape {
        Shape(0x0500_0000 | (time_to_live as u64) << 16 | window as u64)
    }

    const LINUX: Shape = Shape(0x0204_05b4_0a40_faf0);

    fn covered(samples: &[Shape], signatures: &[Signature]) -> usize {
        samples.iter().filter(|shape| signatures.iter().any(|signature| signature.is_of(**shape))).count()
    }

    #[test]
    fn a_tool_that_sends_the_same_again_and_again_has_one() {
        let samples: Vec<Shape> = (0..1000).map(|n| if n % 50 == 0 { LINUX } else { bare(0, 244) }).collect();
        let signatures = learn(&samples, 4);
        assert_eq!(signatures, [Signature { mask: u64::MAX, value: bare(0, 244).0 }]);
        assert_eq!(covered(&samples, &signatures), 980);
        assert!(!signatures[0].is_of(LINUX));
    }

    #[test]
    fn two_ttls_are_two() {
        let samples: Vec<Shape> = (0..1000).map(|n| bare(0, if n % 3 == 0 { 242 } else { 244 })).collect();
        let signatures = learn(&samples, 4);
        assert_eq!(signatures.len(), 2);
        assert_eq!(covered(&samples, &signatures), 1000);
        assert!(!signatures.iter().any(|signature| signature.is_of(bare(0, 243))));
        let one = learn(&samples, 1);
        assert_eq!((one.len(), covered(&samples, &one)), (1, 1000), "there is room for one only");
    }

    #[test]
    fn what_the_tool_varies_is_not_compared() {
        let samples: Vec<Shape> = (0..1000u16).map(|n| bare(n * 61, (n % 97) as u8 + 30)).collect();
        let signatures = learn(&samples, 4);
        assert_eq!(signatures.len(), 1);
        assert_eq!(signatures[0].mask & (WINDOW | TIME_TO_LIVE), 0);
        assert_eq!(covered(&samples, &signatures), 1000);
    }

    #[test]
    fn a_mixture_has_none() {
        let samples: Vec<Shape> = (0..1000).map(|n| if n % 10 == 0 { LINUX } else { bare(0, 244) }).collect();
        assert!(learn(&samples, 4).is_empty(), "90 % are too few");
        assert!(learn(&[], 4).is_empty());
        assert!(learn(&[LINUX], 0).is_empty());
    }
}
