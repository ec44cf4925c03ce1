//! Describes every key of the configuration, from its doc comment.

use std::fmt::Write;

use documented::{Documented, DocumentedFields};

use super::cell;
use crate::config::{
    Challenge, Config, Kernel, Limits, Listen, Lists, Notify, Pins, Protect, Service, SourceLimits, Store, Thresholds,
};

const PREFACE: &str = "The configuration is the TOML file `/etc/tcpguard/tcpguard.toml`, or the file given with `--config`. Every key is \
    optional; unknown keys are rejected with their line and column. `tcpguard check` prints the values in effect. Durations are written \
    as `\"90s\"`, `\"1m 30s\"` or `\"1h\"`. [judgement.md](../judgement.md) describes the thresholds, \
    [challenge.md](../challenge.md) challenges and [lists.md](../lists.md) lists.\n";

pub(super) fn describe() -> String {
    let defaults = toml::Value::try_from(Config::default()).expect("TOML");
    let mut text = PREFACE.to_owned();
    let keys = Config::FIELD_NAMES.iter().zip(Config::FIELD_DOCS);
    // Keys that are not sections come first in the file.
    let top: Vec<_> = keys.filter(|(name, _)| defaults.get(name).is_some_and(|value| !value.is_table())).collect();
    table(&mut text, top.into_iter().map(|(name, doc)| (*name, *doc)), |name| defaults.get(name).cloned());
    type RangeOf = fn(&str) -> Option<String>;
    let section = |text: &mut String, name: &str, doc: &str, names: &[&'static str], docs: &[&str], range: RangeOf| {
        writeln!(text, "\n## `[{name}]`\n\n{}", cell(doc)).expect("written");
        let defaults = defaults.get(name).cloned();
        let docs: Vec<String> = names.iter().zip(docs).map(|(key, doc)| with_range(doc, range(key))).collect();
        let keys = names.iter().copied().zip(docs.iter().map(String::as_str));
        table(text, keys, |key| defaults.as_ref()?.get(key).cloned());
    };
    macro_rules! sections {
        ($($name:literal: $section:ty, $range:expr;)*) => {
            $(section(&mut text, $name, <$section>::DOCS, <$section>::FIELD_NAMES, <$section>::FIELD_DOCS, $range);)*
        };
    }
    sections! {
        "thresholds": Thresholds, Thresholds::range;
        "source": SourceLimits, SourceLimits::range;
        "challenge": Challenge, Challenge::range;
        "lists": Lists, |_| None;
        "listen": Listen, |_| None;
        "limits": Limits, Limits::range;
        "kernel": Kernel, Kernel::range;
        "store": Store, |_| None;
        "pins": Pins, |_| None;
        "notify": Notify, |_| None;
        "[service]": Service, |_| None;
        "[protect]": Protect, |_| None;
    }
    text
}

/// Returns the documentation of a key, with its range.
fn with_range(doc: &str, range: Option<String>) -> String {
    match range {
        Some(range) => format!("{} {range}.", doc.trim_end()),
        None => doc.to_owned(),
    }
}

fn table<'a>(
    text: &mut String,
    keys: impl Iterator<Item = (&'a str, &'a str)>,
    default: impl Fn(&str) -> Option<toml::Value>,
) {
    text.push_str("\n| key | default | meaning |\n| --- | --- | --- |\n");
    for (key, doc) in keys {
        let default = default(key).map_or_else(|| "none".to_owned(), |value| format!("`{value}`"));
        writeln!(text, "| `{key}` | {default} | {} |", cell(doc)).expect("written");
    }
}
