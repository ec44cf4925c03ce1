//! Differences between two configurations, and which of them apply to a running daemon.

use std::fmt;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};
use utoipa::ToSchema;

use super::Config;

/// When a change takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TakesEffect {
    /// Immediately.
    Now,
    /// At the next start of the daemon.
    AtRestart,
}

/// A configuration key whose value changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Change {
    /// Dotted key, such as `thresholds.max_half_open`.
    pub key: String,
    /// Previous value as TOML; absent if the key was not set.
    pub from: Option<String>,
    /// New value as TOML; absent if the key is no longer set.
    pub to: Option<String>,
    /// When the change takes effect.
    pub takes_effect: TakesEffect,
}

/// Keys and sections that are read only at startup: sockets and file paths, map sizes, and how the datapath is attached
/// and loaded.
const AT_RESTART: [&str; 11] = [
    "attach",
    "xdp_mode",
    "coexist",
    "source.prefix_v4",
    "source.prefix_v6",
    "limits.max_sources",
    "limits.memory",
    "listen.http",
    "listen.socket",
    "store",
    "pins",
];

fn takes_effect(key: &str) -> TakesEffect {
    let is_within =
        |section: &&str| key == *section || key.strip_prefix(*section).is_some_and(|rest| rest.starts_with('.'));
    if AT_RESTART.iter().any(is_within) { TakesEffect::AtRestart } else { TakesEffect::Now }
}

impl Config {
    /// Returns the changes from this configuration to `other`, ordered by key.
    pub fn changes_to(&self, other: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        compare("", &table(self), &table(other), &mut changes);
        changes
    }

    /// Returns this configuration with the keys that are read only at startup taken from `running`.
    #[must_use]
    pub fn as_applied_to(self, running: &Self) -> Self {
        Self {
            attach: running.attach,
            xdp_mode: running.xdp_mode,
            coexist: running.coexist,
            source: super::SourceLimits {
                prefix_v4: running.source.prefix_v4,
                prefix_v6: running.source.prefix_v6,
                ..self.source
            },
            limits: super::Limits {
                max_sources: running.limits.max_sources,
                memory: running.limits.memory,
                ..self.limits
            },
            listen: super::Listen { http: running.listen.http, socket: running.listen.socket.clone(), ..self.listen },
            store: running.store.clone(),
            pins: running.pins.clone(),
            ..self
        }
    }
}

/// Returns the configuration as a TOML table. The conversion cannot fail: every value has a TOML representation, which
/// a test checks.
fn table(config: &Config) -> Table {
    Table::try_from(config).unwrap_or_default()
}

fn compare(prefix: &str, before: &Table, after: &Table, changes: &mut Vec<Change>) {
    let keys: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for key in keys {
        let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match (before.get(key), after.get(key)) {
            (Some(Value::Table(before)), Some(Value::Table(after))) => compare(&name, before, after, changes),
            (before, after) if before != after => {
                let text = |value: Option<&Value>| value.map(ToString::to_string);
                let takes_effect = takes_effect(&name);
                changes.push(Change { key: name, from: text(before), to: text(after), takes_effect });
            }
            _ => {}
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "(unset)".to_owned());
        write!(formatter, "{}: {} → {}", self.key, value(&self.from), value(&self.to))?;
        match self.takes_effect {
            TakesEffect::Now => Ok(()),
            TakesEffect::AtRestart => formatter.write_str(" (after a restart)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        Config::parse(text, "test").expect("sound")
    }

    #[test]
    fn changes_are_told_by_key() {
        let before = config("[thresholds]\nmax_half_open = 100\n[listen]\nhosts = [\"a\"]");
        let after = config(
            "interfaces = [\"eth1\"]\n[thresholds]\nmax_half_open = 200\n[limits]\nmax_sources = 2048\n[listen]\nhosts = \
             [\"a\"]\n[[service]]\nports = [80]",
        );
        let changes = before.changes_to(&after);
        let told: Vec<(&str, TakesEffect)> =
            changes.iter().map(|change| (change.key.as_str(), change.takes_effect)).collect();
        assert_eq!(
            told,
            [
                ("interfaces", TakesEffect::Now),
                ("limits.max_sources", TakesEffect::AtRestart),
                ("service", TakesEffect::Now),
                ("thresholds.max_half_open", TakesEffect::Now),
                ("thresholds.max_half_open_retried", TakesEffect::Now),
            ]
        );
        assert_eq!((changes[3].from.as_deref(), changes[3].to.as_deref()), (Some("100"), Some("200")));
        assert_eq!(changes[2].from, None);
        assert!(before.changes_to(&before).is_empty());
    }

    /// Exactly the changes that are reported as waiting for a restart are not applied.
    #[test]
    fn what_is_taken_up_is_what_is_said_to_be() {
        let before = Config::default();
        let after = config(
            "interfaces = [\"eth1\"]\nattach = \"tc\"\ncoexist = \"chain\"\nxdp_mode = \"generic\"\non_exit = \"keep\"\n[thresholds]\nmax_half_open = 9\n\
             [source]\nmax_half_open = 3\nprefix_v4 = 16\nprefix_v6 = 48\n[limits]\nmax_sources = 2048\n\
             heartbeat_timeout = \"9s\"\nmemory = \"1 GiB\"\ncpu_share = 0.5\n[listen]\nhttp = \"127.0.0.1:1\"\nhosts = [\"b\"]\nsocket = \"/s\"\n[store]\n\
             path = \"/s\"\n[pins]\npath = \"/p\"\n[lists]\nkeep_ssh = false\n[challenge]\nmode = \"never\"\n[kernel]\n\
             tune_backlog = true\n[notify]\nretries = 1",
        );
        let changes = before.changes_to(&after);
        let waiting: Vec<&str> = changes
            .iter()
            .filter(|change| change.takes_effect == TakesEffect::AtRestart)
            .map(|change| change.key.as_str())
            .collect();
        assert_eq!(changes.len(), 23, "{changes:?}");
        let taken_up = after.clone().as_applied_to(&before);
        let left: Vec<String> = taken_up.changes_to(&after).into_iter().map(|change| change.key).collect();
        assert_eq!(left, waiting);
    }
}
