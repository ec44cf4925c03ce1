//! `/metrics`: every counter and gauge of `/stats`, for Prometheus. All values are rendered on request from one
//! snapshot, so they are consistent with each other and with `/stats`.

mod format;
mod labelled;
mod plain;
mod protected;

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use crate::api::model::Stats;
pub use format::Format;

/// Prefix of every metric name.
const PREFIX: &str = "tcpguard";

/// Returns all metrics of `stats`.
///
/// # Errors
/// Returns an error if the encoder fails; writing to a string does not fail.
pub fn encode(stats: Arc<impl AsRef<Stats> + Send + Sync + 'static>, format: Format) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(StatsCollector(stats)));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(format.of_open_metrics(text))
}

struct StatsCollector<S>(Arc<S>);

impl<S> fmt::Debug for StatsCollector<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("StatsCollector")
    }
}

impl<S: AsRef<Stats> + Send + Sync + 'static> Collector for StatsCollector<S> {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut sink = Sink(encoder);
        let stats = (*self.0).as_ref();
        plain::write(stats, &mut sink)?;
        labelled::write(stats, &mut sink)?;
        protected::write(stats, &mut sink)
    }
}

/// The type of a metric: a counter only grows while the daemon runs, a gauge goes up and down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
}

impl Kind {
    const fn metric_type(self) -> MetricType {
        match self {
            Self::Counter => MetricType::Counter,
            Self::Gauge => MetricType::Gauge,
        }
    }

    fn encode(self, value: f64, encoder: MetricEncoder<'_>) -> fmt::Result {
        match self {
            Self::Counter => ConstCounter::new(value).encode(encoder),
            Self::Gauge => ConstGauge::new(value).encode(encoder),
        }
    }
}

/// Receives the metrics, one family after the other.
struct Sink<'a>(DescriptorEncoder<'a>);

impl Sink<'_> {
    /// Writes a metric without labels.
    fn value(&mut self, kind: Kind, name: &str, help: &str, value: f64) -> fmt::Result {
        kind.encode(value, self.0.encode_descriptor(name, help, None, kind.metric_type())?)
    }

    /// Writes a metric with one value for each set of labels.
    fn family<const LABELS: usize>(
        &mut self,
        kind: Kind,
        (name, help): (&str, &str),
        values: impl IntoIterator<Item = ([(&'static str, String); LABELS], f64)>,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, kind.metric_type())?;
        for (labels, value) in values {
            kind.encode(value, encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
