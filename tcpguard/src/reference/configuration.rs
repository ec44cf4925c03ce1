//! Describes every key of the configuration, from its doc comment.

use std::fmt::Write;

use documented::{Documented, DocumentedFields};

use super::cell;
use crate::config::{
    Challenge, Config, Kernel, Limits, Listen, Lists, Notify, Pins, Service, SourceLimits, Store, Thresholds,
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
    let section = |text: &mut String, name: &str, doc: &str, names: &[&'static str], docs: &[&'static str]| {
        writeln!(text, "\n## `[{name}]`\n\n{}\n", cell(doc)).expect("written");
        let defaults = defaults.get(name).cloned();
        table(text, names.iter().copied().zip(docs.iter().copied()), |key| defaults.as_ref()?.get(key).cloned());
    };
    macro_rules! sections {
        ($($name:literal: $section:ty,)*) => {
            $(section(&mut text, $name, <$section>::DOCS, <$section>::FIELD_NAMES, <$section>::FIELD_DOCS);)*
        };
    }
    sections! {
        "thresholds": Thresholds,
        "source": SourceLimits,
        "challenge": Challenge,
        "lists": Lists,
        "listen": Listen,
        "limits": Limits,
        "kernel": Kernel,
        "store": Store,
        "pins": Pins,
        "notify": Notify,
        "[service]": Service,
    }
    text
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
