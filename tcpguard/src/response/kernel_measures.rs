//! What the kernel itself can do against an attack: settings that are changed while it lasts, and advice on backlogs.

use std::collections::{BTreeMap, BTreeSet};

use tracing::error;

use super::{
    BacklogAdvice, COOKIES_SETTING, KernelSettings, SettingOutcome, backlog_advice,
    reporter::{self, Reporter},
};
use crate::{
    config::Config,
    detect::{Judgement, Phase},
    events::{EventKind, EventLog, Note},
    monitor::Snapshot,
};

/// `tcp_synack_retries` during an attack: a request is then kept for three seconds.
const SYNACK_RETRIES: u64 = 1;

/// Changes kernel settings, and restores them.
pub(super) struct KernelMeasures {
    /// `None` if settings cannot be changed.
    settings: Option<KernelSettings>,
    tune_backlog: bool,
    events: EventLog,
    /// Ports that advice was given for in this attack.
    advised: BTreeSet<u16>,
    /// This attack has done harm.
    was_harmed: bool,
}

impl KernelMeasures {
    /// Restores the settings left behind by a daemon that crashed, except for those that its cookies depend on, sent up to
    /// `jiffies` and valid for `max_jiffies`.
    pub fn open(config: &Config, events: EventLog, jiffies: u64, max_jiffies: u64) -> Self {
        let settings = match KernelSettings::open(&config.listen.socket, jiffies, max_jiffies) {
            Ok((settings, restored)) => {
                reporter::restored(&events, restored);
                Some(settings)
            }
            Err(error) => {
                error!("kernel settings cannot be changed during an attack: {error}");
                None
            }
        };
        Self { settings, tune_backlog: config.kernel.tune_backlog, events, advised: BTreeSet::new(), was_harmed: false }
    }

    /// Applies a changed configuration.
    pub const fn reconfigure(&mut self, config: &Config) {
        self.tune_backlog = config.kernel.tune_backlog;
    }

    pub const fn settings(&self) -> Option<&KernelSettings> {
        self.settings.as_ref()
    }

    /// Stops the kernel from sending cookies of its own, so that the last ones are returned while it still accepts
    /// them.
    pub fn stop_cookies(&mut self) {
        let Some(settings) = &mut self.settings else { return };
        reporter::restored(&self.events, settings.restore_only(COOKIES_SETTING));
    }

    /// Restores all kernel settings.
    pub fn restore(&mut self) {
        let Some(settings) = &mut self.settings else { return };
        reporter::restored(&self.events, settings.restore());
    }

    /// Sets the kernel settings to what an attack that does harm, and challenges, require.
    #[expect(clippy::too_many_arguments, reason = "what several parts of the response want of the kernel")]
    pub fn apply(
        &mut self,
        judgement: &Judgement,
        is_harmed: bool,
        advice: &[BacklogAdvice],
        level: u8,
        for_cookies: Vec<(&'static str, u64)>,
        cookies_until: u64,
        report: &mut Reporter,
    ) {
        let is_calm = judgement.state.phase_here() == Phase::Calm;
        self.was_harmed = !is_calm && (self.was_harmed || is_harmed);
        if is_calm {
            self.advised.clear();
        }
        let Some(settings) = &self.settings else { return };
        let mut wanted = if self.was_harmed { self.classic_defences(settings, advice) } else { BTreeMap::new() };
        if level == 0 {
            wanted.into_iter().for_each(|(name, value)| report.would_set(name, value));
            wanted = BTreeMap::new();
        }
        wanted.extend(for_cookies);
        if wanted.is_empty() {
            report.forget_settings();
        }
        let Some(settings) = &mut self.settings else { return };
        settings.note_cookies(cookies_until);
        let outcomes = settings.bring_to(&wanted);
        for outcome in outcomes {
            match outcome {
                // It has its original value for a moment, on the way from one value to another.
                SettingOutcome::Changed(changed) if changed.value == changed.original => {}
                SettingOutcome::Changed(changed) => {
                    let message = format!(
                        "{} was temporarily set to {} (normally {})",
                        changed.name, changed.value, changed.original
                    );
                    self.events.record(Note::new(EventKind::KernelSettingChanged, message).about(changed.name));
                }
                SettingOutcome::Failed(name, error) => report.setting_failed(name, &error),
                SettingOutcome::Restored(restored) => reporter::restored(&self.events, vec![restored]),
            }
        }
    }

    /// Returns the kernel's own countermeasures.
    fn classic_defences(&self, settings: &KernelSettings, advice: &[BacklogAdvice]) -> BTreeMap<&'static str, u64> {
        let mut wanted = BTreeMap::new();
        let is = |name: &str, condition: fn(u64) -> bool| settings.operators_number(name).is_ok_and(condition);
        if is("net.ipv4.tcp_synack_retries", |retries| retries > SYNACK_RETRIES) {
            wanted.insert("net.ipv4.tcp_synack_retries", SYNACK_RETRIES);
        }
        if is(COOKIES_SETTING, |cookies| cookies == 0) {
            wanted.insert(COOKIES_SETTING, 1);
        }
        if self.tune_backlog
            && let Some(backlog) = advice.iter().map(|advice| advice.backlog).max()
        {
            let raised = ["net.core.somaxconn", "net.ipv4.tcp_max_syn_backlog"];
            let too_low =
                raised.into_iter().filter(|name| settings.operators_number(name).is_ok_and(|now| now < backlog));
            wanted.extend(too_low.map(|name| (name, backlog)));
        }
        wanted
    }

    /// Returns advice for listeners whose backlog is too small for the SYNs that arrive.
    pub fn advise(&mut self, judgement: &Judgement, snapshot: &Snapshot) -> Vec<BacklogAdvice> {
        if judgement.state.phase_here() != Phase::Attack {
            return Vec::new();
        }
        let somaxconn = self.settings.as_ref().and_then(|settings| settings.number("net.core.somaxconn").ok());
        let somaxconn = somaxconn.unwrap_or(u64::MAX);
        let advice = backlog_advice::advise(&snapshot.ports, &snapshot.listeners, somaxconn, snapshot.rates.syn);
        for advice in &advice {
            if self.advised.insert(advice.port) {
                self.events.record(Note::new(EventKind::BacklogAdvice, &advice.text).about(advice.port));
            }
        }
        advice
    }
}
