//! `tcpguard doctor`: examines the kernel, drivers, network namespace and configuration. Each finding has a value, its
//! meaning, and a fix if one is needed.

mod configuration;
mod daemon;
mod gateway;
mod interfaces;
mod kernel;
mod listeners;
mod settings;

use std::path::Path;

use serde::Serialize;

use crate::{api::model::Stats, config::Config, interfaces::Link};

/// The assessment of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// No action needed.
    Good,
    /// Worth knowing, but no action needed.
    Note,
    /// Needs to be fixed.
    Fix,
}

impl Status {
    /// Returns the name shown in the report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Note => "note",
            Self::Fix => "FIX",
        }
    }
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Area: kernel, interface, gateway, setting, listener, configuration or daemon.
    pub area: &'static str,
    /// What was checked, such as the name of a setting.
    pub name: String,
    /// Assessment of the value.
    pub status: Status,
    /// Value that was found.
    pub value: String,
    /// What the value means for tcpguard.
    pub meaning: String,
    /// Command or step that fixes the problem or changes the value.
    pub fix: Option<String>,
}

impl Finding {
    fn new(area: &'static str, name: impl Into<String>, value: impl ToString, meaning: impl Into<String>) -> Self {
        Self {
            area,
            name: name.into(),
            status: Status::Good,
            value: value.to_string(),
            meaning: meaning.into(),
            fix: None,
        }
    }

    fn note(self) -> Self {
        Self { status: Status::Note, ..self }
    }

    fn fix(self, fix: impl Into<String>) -> Self {
        Self { status: Status::Fix, fix: Some(fix.into()), ..self }
    }

    /// Marks the finding as to be fixed by `fix` if `is_bad`.
    fn fix_if(self, is_bad: bool, fix: impl Into<String>) -> Self {
        if is_bad { self.fix(fix) } else { self }
    }
}

/// The report with all findings.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Number of findings to fix.
    pub to_fix: usize,
    /// All findings, grouped by area.
    pub findings: Vec<Finding>,
}

/// The outcome of querying the daemon.
pub enum Daemon {
    /// The daemon answered with its state.
    Answers(Box<Stats>),
    /// The daemon listens, but the request failed with this error.
    Unwell(String),
    /// No process listens on the socket.
    Absent,
    /// The user has no permission to open the socket.
    Forbidden,
}

impl Daemon {
    fn stats(&self) -> Option<&Stats> {
        match self {
            Self::Answers(stats) => Some(stats),
            _ => None,
        }
    }
}

/// Examines this host against the configuration in `file`, and the daemon at `socket`. If the configuration cannot be
/// loaded, the defaults are used.
pub async fn examine(file: Option<&Path>, loaded: Result<Config, String>, socket: &Path, daemon: &Daemon) -> Report {
    let mut findings = kernel::examine();
    let config = loaded.as_ref().map_or_else(|_| Config::default(), Config::clone);
    let links = interfaces::list().await;
    findings.extend(interfaces::examine(&links, &config, daemon.stats()).await);
    findings.extend(gateway::examine(&config, &links.links));
    findings.extend(settings::examine(&config));
    let listeners = listeners::list();
    findings.extend(listeners::examine(&listeners));
    findings.extend(configuration::examine(file, &loaded, &listeners));
    findings.extend(daemon::examine(socket, daemon));
    let to_fix = findings.iter().filter(|finding| finding.status == Status::Fix).count();
    Report { to_fix, findings }
}

/// Returns the interfaces to guard, with their links if they exist: the configured ones, or that of the default route.
fn wanted<'a>(links: &'a [Link], config: &Config, default: Option<&str>) -> Vec<(String, Option<&'a Link>)> {
    let names = match config.interfaces.as_slice() {
        [] => default.map(str::to_owned).into_iter().collect(),
        names => names.to_vec(),
    };
    let link = |name: String| {
        let link = links.iter().find(|link| link.name == name);
        (name, link)
    };
    names.into_iter().map(link).collect()
}
