//! Telling the service manager how the daemon does (sd_notify(3)). Without one nothing is told.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tracing::warn;

use crate::{Report, detect::Phase};

/// Time between two status lines.
const STATUS_EVERY: Duration = Duration::from_secs(2);

/// Tells it.
pub(crate) struct ServiceManager {
    /// How often it wants to hear that the daemon is alive; `None` where it does not.
    watchdog: Option<Duration>,
    fed: Option<Instant>,
    status: Option<(Instant, String)>,
    has_failed: bool,
}

impl ServiceManager {
    /// The one that started this process.
    pub fn of_this_process() -> Self {
        // Twice as often as it must be, and once more for a tick that comes late.
        let watchdog = sd_notify::watchdog_enabled().map(|timeout| timeout / 3);
        Self { watchdog, fed: None, status: None, has_failed: false }
    }

    /// The host is guarded.
    pub fn ready(&mut self) {
        self.tell(&[NotifyState::Ready]);
    }

    /// The configuration is being read again.
    pub fn reloading(&mut self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[NotifyState::Reloading, now]),
            Err(error) => warn!("the service manager is not told of a reload: {error}"),
        }
    }

    /// The daemon is about to end.
    pub fn stopping(&mut self) {
        self.tell(&[NotifyState::Stopping, NotifyState::Status("ending")]);
    }

    /// A tick has come to its end, and this is what it saw.
    pub fn note_tick(&mut self, report: &Report) {
        let now = Instant::now();
        if let Some(every) = self.watchdog
            && self.fed.is_none_or(|fed| now.duration_since(fed) >= every)
        {
            self.fed = Some(now);
            self.tell(&[NotifyState::Watchdog]);
        }
        if self.status.as_ref().is_none_or(|(told, _)| now.duration_since(*told) >= STATUS_EVERY) {
            let line = status(report);
            if self.status.as_ref().is_none_or(|(_, told)| *told != line) {
                self.tell(&[NotifyState::Status(&line)]);
            }
            self.status = Some((now, line));
        }
    }

    fn tell(&mut self, states: &[NotifyState<'_>]) {
        if let Err(error) = sd_notify::notify(states)
            && !std::mem::replace(&mut self.has_failed, true)
        {
            warn!("the service manager is not told how the daemon does: {error}");
        }
    }
}

fn status(report: &Report) -> String {
    let guarded: Vec<String> = report
        .snapshot
        .interfaces
        .iter()
        .map(|interface| format!("{} ({})", interface.name, interface.mode.unwrap_or("detached")))
        .collect();
    let kind = report.state.kind.map_or_else(String::new, |kind| format!(" ({})", kind.name()));
    let state = match report.state.phase() {
        Phase::Calm => "calm".to_owned(),
        phase => format!("{}{kind}, {} blocked", phase.name(), report.measures.blocks.len()),
    };
    format!("{state}; guarding {}; {:.0} SYN/s", guarded.join(", "), report.snapshot.rates.syn)
}
