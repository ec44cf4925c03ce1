//! Reports an attack and the measures against it as events.

use std::{collections::BTreeSet, time::Duration};

use super::{Restored, SettingError};
use crate::{
    config::{Config, Service},
    detect::{Change, Evidence, Judgement, Kind, Offender, Phase, Scope},
    events::{EventKind, EventLog, Note},
    monitor::Snapshot,
    network::Network,
    store::AttackSoFar,
};

/// What was reported about the attack in progress.
pub(super) struct Reporter {
    events: EventLog,
    /// `syn_attack_protect`.
    level: u8,
    running: Option<AttackSoFar>,
    slow_ports: BTreeSet<u16>,
    /// Settings reported as not changed, because of the level or an error.
    settings: BTreeSet<&'static str>,
}

impl Reporter {
    pub const fn new(events: EventLog, level: u8) -> Self {
        Self { events, level, running: None, slow_ports: BTreeSet::new(), settings: BTreeSet::new() }
    }

    /// Sets `syn_attack_protect`.
    pub const fn set_level(&mut self, level: u8) {
        self.level = level;
    }

    /// Continues with what was reported before a restart.
    pub fn resume(&mut self, running: Option<AttackSoFar>) {
        self.running = running;
    }

    /// Returns what was reported about the attack in progress.
    pub fn so_far(&self) -> Option<AttackSoFar> {
        self.running.clone()
    }

    /// Reports what changed with this judgement.
    pub fn tell(&mut self, judgement: &Judgement, snapshot: &Snapshot, names: &ScopeNames, at: Duration) {
        let state = &judgement.state;
        let kind = state.kind.map(Kind::name);
        match (&mut self.running, state.phase()) {
            (None, Phase::Attack | Phase::Recovering) => {
                let mut evidence = evidence(&judgement.changes);
                evidence.extend(state.kind_evidence.clone());
                evidence.extend(state.signs.clone());
                let message = format!("an attack began ({}): {}", kind.unwrap_or("unknown"), evidence.join("; "));
                self.events.record(Note::new(EventKind::AttackStarted, message).attack(kind).evidence(evidence));
                self.running = Some(AttackSoFar {
                    since: at,
                    kind: state.kind,
                    syn: snapshot.totals.syn(),
                    dropped: snapshot.totals.dropped(),
                    blocked: 0,
                });
            }
            (Some(running), Phase::Attack | Phase::Recovering) if running.kind != state.kind => {
                running.kind = state.kind;
                let evidence: Vec<String> = state.kind_evidence.iter().chain(&state.signs).cloned().collect();
                let message = format!("the attack is now {}: {}", kind.unwrap_or("unknown"), evidence.join("; "));
                self.events.record(Note::new(EventKind::KindChanged, message).attack(kind).evidence(evidence));
            }
            (Some(running), Phase::Calm) => {
                let evidence = summary(running, snapshot, at);
                let kind = running.kind.map(Kind::name);
                let message = format!("the attack is over: {}", evidence.join("; "));
                self.events.record(Note::new(EventKind::AttackEnded, message).attack(kind).evidence(evidence));
                self.running = None;
            }
            _ => {}
        }
        for change in &judgement.changes {
            let who = names.of_scope(change.scope);
            let evidence: Vec<String> = change.evidence.iter().map(ToString::to_string).collect();
            let message = format!("{who}: from {} to {}", change.from.name(), change.to.name());
            self.events.record(Note::new(EventKind::StateChanged, message).about(who).attack(kind).evidence(evidence));
        }
        self.tell_of_slow_ports(&snapshot.pressure.slow_ports);
    }

    fn tell_of_slow_ports(&mut self, slow: &[u16]) {
        for port in slow.iter().filter(|port| !self.slow_ports.contains(port)) {
            let message = format!(
                "port {port}: the application accepts connections too slowly, so new ones are refused; this is not an \
                 attack: check the application"
            );
            self.events.record(Note::new(EventKind::SlowApplication, message).about(port));
        }
        self.slow_ports = slow.iter().copied().collect();
    }

    /// Reports a block.
    pub fn blocked(&mut self, kind: EventKind, who: Network, offence: &Offender, lasts: Duration, times: u32) {
        let mut evidence = vec![
            format!("{} handshakes half open (limit {})", offence.half_open, offence.limit),
            format!("{} completed recently", offence.completed),
        ];
        if offence.ports > 1 {
            evidence.push(format!("about {} different ports", offence.ports));
        }
        let again = if times > 1 { format!(" ({} block)", ordinal(times)) } else { String::new() };
        let is_done = self.level == 2;
        let message = format!(
            "{who} {} blocked for {lasts:?}{again}: {}",
            if is_done { "was" } else { "would be" },
            evidence.join("; ")
        );
        let attack = self.running.as_mut().and_then(|running| {
            running.blocked += 1;
            running.kind.map(Kind::name)
        });
        self.events.record(Note::new(kind, message).about(who).attack(attack).evidence(evidence).watch_only(!is_done));
    }

    /// Reports, once per attack, that a setting would have been changed.
    pub fn would_set(&mut self, name: &'static str, value: u64) {
        if self.settings.insert(name) {
            let message = format!("{name} would have been set to {value}");
            self.events.record(Note::new(EventKind::KernelSettingChanged, message).about(name).watch_only(true));
        }
    }

    /// Reports, once per attack, that a setting could not be changed.
    pub fn setting_failed(&mut self, name: &'static str, error: &SettingError) {
        if self.settings.insert(name) {
            self.events
                .record(Note::new(EventKind::KernelSettingChanged, error.to_string()).about(name).watch_only(true));
        }
    }

    /// Allows the next attack to report settings again.
    pub fn forget_settings(&mut self) {
        self.settings.clear();
    }
}

/// Returns a number as in "second" or "12th".
fn ordinal(number: u32) -> String {
    match number {
        1 => "first".to_owned(),
        2 => "second".to_owned(),
        3 => "third".to_owned(),
        _ => {
            let suffix = match (number % 10, number % 100) {
                (1, last) if last != 11 => "st",
                (2, last) if last != 12 => "nd",
                (3, last) if last != 13 => "rd",
                _ => "th",
            };
            format!("{number}{suffix}")
        }
    }
}

fn summary(attack: &AttackSoFar, snapshot: &Snapshot, at: Duration) -> Vec<String> {
    // The counters may have been reset by a restart.
    let dropped = snapshot.totals.dropped().saturating_sub(attack.dropped);
    let syn = snapshot.totals.syn().saturating_sub(attack.syn);
    vec![
        format!("it lasted {} s", at.saturating_sub(attack.since).as_secs()),
        format!("{syn} SYNs"),
        format!("{dropped} frames dropped"),
        format!("{} blocks", attack.blocked),
    ]
}

/// Reports the outcome of restoring settings.
pub(super) fn restored(events: &EventLog, outcomes: Vec<Restored>) {
    for outcome in outcomes {
        let (name, message) = match outcome {
            Restored::Back(setting) => {
                let message = format!("{} was put back to {}", setting.name, setting.original);
                (setting.name, message)
            }
            Restored::LeftAlone(setting) => {
                let message = format!("{} was changed by another program and is left as it is", setting.name);
                (setting.name, message)
            }
            Restored::Failed(setting, error) => {
                let message =
                    format!("{} could not be put back to {}: {error}; set it manually", setting.name, setting.original);
                (setting.name, message)
            }
        };
        events.record(Note::new(EventKind::KernelSettingRestored, message).about(name));
    }
}

/// The names of the scopes in messages.
pub(super) struct ScopeNames {
    services: Vec<String>,
    protected: Vec<String>,
}

impl ScopeNames {
    pub fn of(config: &Config) -> Self {
        Self {
            services: config.services.iter().map(Service::name).collect(),
            protected: config.protected.iter().map(|section| section.name.clone()).collect(),
        }
    }

    /// Returns whether there are protected networks.
    pub const fn has_protected(&self) -> bool {
        !self.protected.is_empty()
    }

    fn of_scope(&self, scope: Scope) -> String {
        let name = match scope {
            Scope::Host => return "the host".to_owned(),
            Scope::Service(index) => self.services.get(index),
            Scope::Protected(index) => self.protected.get(index),
        };
        name.cloned().unwrap_or_default()
    }
}

fn evidence(changes: &[Change]) -> Vec<String> {
    changes.iter().flat_map(|change| &change.evidence).map(Evidence::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_numbered_in_words_and_then_in_digits() {
        let numbered = [1, 2, 3, 4, 11, 12, 13, 21, 22, 103, 111].map(ordinal);
        assert_eq!(
            numbered,
            ["first", "second", "third", "4th", "11th", "12th", "13th", "21st", "22nd", "103rd", "111th"]
        );
    }
}
