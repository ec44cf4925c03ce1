//! Every key of the configuration, from its doc comment.

use std::fmt::Write;

use documented::{Documented, DocumentedFields};

use super::cell;
use crate::config::{
    Challenge, Config, Kernel, Limits, Listen, Lists, Notify, Pins, Service, SourceLimits, Store, Thresholds,
};

const PREFACE: &str = "`/etc/tcpguard/tcpguard.toml`, or the file named with `--config`: TOML. Every key is optional; unknown keys are refused, \
    with line and column. `tcpguard check` prints what is in effect. Lengths of time are written as in `\"90s\"`, `\"1m 30s\"` or \
    `\"1h\"`. [judgement.md](../judgement.md) says what thresholds do, [challenge.md](../challenge.md) how SYNs are challenged, \
    [lists.md](../lists.md) how lists work.\n";

pub(super) fn describe() -> String {
    let defaults = toml::Value::try_from(Config::default()).expect("TOML");
    let mut text = PREFACE.to_owned();
    let keys = Config::FIELD_NAMES.iter().zip(Config::FIELD_DOCS);
    // What is not a section stands at the top of the file.
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
