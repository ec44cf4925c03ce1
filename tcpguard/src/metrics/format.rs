//! The two exposition formats: OpenMetrics, and the older Prometheus text format.

/// An exposition format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0, if the client accepts it.
    OpenMetrics,
    /// The Prometheus text format 0.0.4.
    Text,
}

impl Format {
    /// Returns the format that an `Accept` header selects.
    pub fn accepted_by(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Text }
    }

    /// Returns the media type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    pub(super) fn of_open_metrics(self, text: String) -> String {
        match self {
            Self::OpenMetrics => text,
            Self::Text => as_text_format(&text),
        }
    }
}

/// Converts OpenMetrics to the text format: OpenMetrics names a counter's family without the `_total` of its values,
/// the older format with it.
fn as_text_format(open_metrics: &str) -> String {
    let counters: Vec<&str> =
        open_metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines() {
        let family = line.strip_prefix("# ").and_then(|line| line.split(' ').nth(1));
        match family {
            Some(family) if counters.contains(&family) => {
                text.push_str(&line.replacen(family, &format!("{family}_total"), 1));
            }
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_format_names_counters_with_total() {
        let open = "# HELP a_syn SYNs of a_syn.\n# TYPE a_syn counter\na_syn_total 7\n# HELP a_now Now.\n# TYPE a_now gauge\n\
            a_now 1\n# EOF\n";
        let text = "# HELP a_syn_total SYNs of a_syn.\n# TYPE a_syn_total counter\na_syn_total 7\n# HELP a_now Now.\n\
            # TYPE a_now gauge\na_now 1\n# EOF\n";
        assert_eq!(Format::Text.of_open_metrics(open.to_owned()), text);
        assert_eq!(Format::OpenMetrics.of_open_metrics(open.to_owned()), open);
    }

    #[test]
    fn prometheus_is_given_what_it_asks_for() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(Format::accepted_by(prometheus), Format::OpenMetrics);
        assert_eq!(Format::accepted_by("*/*"), Format::Text);
    }
}
