//! What the headers of the SYNs of the last second have in common.

use std::time::{Duration, Instant};

use tcpguard_common::{
    abi::{signature::CompletedShapes, syn_headers::SynHeaders},
    packet::Shape,
};

use crate::datapath::{DatapathError, maps::SynHeaderMap};

/// The span over which headers are counted.
const SPAN: Duration = Duration::from_millis(950);

/// The headers of the SYNs that arrived in about a second.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderReading {
    /// SYNs whose headers were counted; 0 while there is no attack.
    pub syn: u64,
    /// The two most frequent TTLs and the number of SYNs with each, the most frequent first; fewer if there are fewer.
    pub times_to_live: Vec<(u8, u64)>,
    /// SYNs without TCP options.
    pub without_options: u64,
    /// Changes with each new reading.
    pub number: u64,
    /// The shapes of some of the SYNs.
    pub samples: Vec<Shape>,
    /// What the SYNs of completed handshakes looked like, since the datapath was loaded first; `None` while there is no
    /// attack.
    pub completed: Option<Box<CompletedShapes>>,
}

/// Reads the totals once a second.
pub struct HeaderMeter {
    map: SynHeaderMap,
    before: Option<(Instant, Vec<SynHeaders>)>,
    number: u64,
    reading: HeaderReading,
}

impl HeaderMeter {
    pub(super) fn new(map: SynHeaderMap) -> Self {
        Self { map, before: None, number: 0, reading: HeaderReading::default() }
    }

    /// Returns the latest reading; an empty one unless `is_alert`, because nothing is counted then.
    pub(super) fn read(&mut self, is_alert: bool, now: Instant) -> Result<HeaderReading, DatapathError> {
        if !is_alert {
            (self.before, self.reading) = (None, HeaderReading::default());
            return Ok(HeaderReading::default());
        }
        if self.before.as_ref().is_none_or(|(then, _)| now.duration_since(*then) >= SPAN) {
            let cpus = self.map.read()?;
            self.number += 1;
            if let Some((_, before)) = &self.before {
                let completed = Some(Box::new(self.map.read_completed()?));
                self.reading =
                    HeaderReading { number: self.number, completed, ..HeaderReading::between(before, &cpus) };
            }
            self.before = Some((now, cpus));
        }
        Ok(self.reading.clone())
    }
}

impl HeaderReading {
    /// Returns what all CPUs have counted and sampled between two readings.
    fn between(before: &[SynHeaders], now: &[SynHeaders]) -> Self {
        let mut counts = [0; 256];
        let mut reading = Self::default();
        for (before, now) in before.iter().zip(now) {
            for (count, (now, then)) in counts.iter_mut().zip(now.by_time_to_live.iter().zip(before.by_time_to_live)) {
                *count += now.saturating_sub(then);
            }
            reading.without_options += now.without_options.saturating_sub(before.without_options);
            reading.samples.extend(now.sampled_since(before.syn));
        }
        reading.syn = counts.iter().sum();
        reading.times_to_live = (0..=u8::MAX).zip(counts).filter(|(_, count)| *count > 0).collect();
        reading.times_to_live.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        reading.times_to_live.truncate(2);
        reading
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_most_frequent_ttls_are_kept() {
        let mut now = SynHeaders { without_options: 7, ..SynHeaders::NONE };
        (now.by_time_to_live[57], now.by_time_to_live[64], now.by_time_to_live[128]) = (20, 900, 80);
        let reading = HeaderReading::between(&[SynHeaders::NONE], &[now]);
        assert_eq!((reading.syn, reading.without_options), (1000, 7));
        assert_eq!(reading.times_to_live, [(64, 900), (128, 80)]);
        assert_eq!(HeaderReading::between(&[now], &[now]), HeaderReading::default());
    }

    #[test]
    fn each_cpu_counts_and_samples() {
        let mut now = [SynHeaders::NONE; 2];
        (0..100).for_each(|n| now[n % 2].count(Shape(0x0540_0000)));
        let reading = HeaderReading::between(&[SynHeaders::NONE; 2], &now);
        assert_eq!((reading.syn, reading.without_options, reading.times_to_live), (100, 100, vec![(64, 100)]));
        assert_eq!(reading.samples, [Shape(0x0540_0000); 24]);
    }
}
