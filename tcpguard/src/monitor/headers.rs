//! What the headers of the SYNs of the last second have in common.

use std::time::{Duration, Instant};

use tcpguard_common::abi::syn_headers::SynHeaders;

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
}

/// Reads the totals once a second.
pub struct HeaderMeter {
    map: SynHeaderMap,
    before: Option<(Instant, SynHeaders)>,
    reading: HeaderReading,
}

impl HeaderMeter {
    pub(super) fn new(map: SynHeaderMap) -> Self {
        Self { map, before: None, reading: HeaderReading::default() }
    }

    /// Returns the latest reading; an empty one unless `is_alert`, because nothing is counted then.
    pub(super) fn read(&mut self, is_alert: bool, now: Instant) -> Result<HeaderReading, DatapathError> {
        if !is_alert {
            (self.before, self.reading) = (None, HeaderReading::default());
            return Ok(HeaderReading::default());
        }
        if self.before.is_none_or(|(then, _)| now.duration_since(then) >= SPAN) {
            let totals = self.map.read()?;
            if let Some((_, before)) = self.before.replace((now, totals)) {
                self.reading = HeaderReading::between(&before, &totals);
            }
        }
        Ok(self.reading.clone())
    }
}

impl HeaderReading {
    fn between(before: &SynHeaders, now: &SynHeaders) -> Self {
        let counts = now.by_time_to_live.iter().zip(before.by_time_to_live).map(|(now, then)| now.saturating_sub(then));
        let mut times_to_live: Vec<(u8, u64)> = (0..=u8::MAX).zip(counts).filter(|(_, count)| *count > 0).collect();
        let syn = times_to_live.iter().map(|(_, count)| count).sum();
        times_to_live.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        times_to_live.truncate(2);
        Self { syn, times_to_live, without_options: now.without_options.saturating_sub(before.without_options) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_most_frequent_ttls_are_kept() {
        let mut now = SynHeaders { without_options: 7, ..SynHeaders::NONE };
        (now.by_time_to_live[57], now.by_time_to_live[64], now.by_time_to_live[128]) = (20, 900, 80);
        let reading = HeaderReading::between(&SynHeaders::NONE, &now);
        assert_eq!((reading.syn, reading.without_options), (1000, 7));
        assert_eq!(reading.times_to_live, [(64, 900), (128, 80)]);
        assert_eq!(HeaderReading::between(&now, &now), HeaderReading::default());
    }
}
