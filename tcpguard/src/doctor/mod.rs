//! `tcpguard doctor`: what this kernel, driver, namespace and configuration can and cannot do; each knob that
//! matters, with its value, what it does here, and how to change it where it should be changed.

mod configuration;
mod daemon;
mod interfaces;
mod kernel;
mod listeners;
mod settings;

use std::path::Path;

use serde::Serialize;

use crate::{api::model::Stats, config::Config, interfaces::Link};

/// How something stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Good,
    /// Worth knowing; nothing needs to be done.
    Note,
    /// Something to fix.
    Fix,
}

impl Status {
    /// As it is shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Note => "note",
            Self::Fix => "FIX",
        }
    }
}

/// What was found out about one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it belongs to: kernel, interface, setting, listener, configuration or daemon.
    pub area: &'static str,
    /// What it is about.
    pub name: String,
    /// How it stands.
    pub status: Status,
    /// Its value.
    pub value: String,
    /// What it does here.
    pub meaning: String,
    /// The command, or the step, that puts it right.
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

    /// Where `is_bad`, to be put right by `fix`.
    fn fix_if(self, is_bad: bool, fix: impl Into<String>) -> Self {
        if is_bad { self.fix(fix) } else { self }
    }
}

/// Everything that was found out.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// How many things there are to fix.
    pub to_fix: usize,
    /// All findings, area by area.
    pub findings: Vec<Finding>,
}

/// What became of asking the daemon.
pub enum Daemon {
    /// How things stand, by its word.
    Answers(Box<Stats>),
    /// It listens, and does not answer as it should.
    Unwell(String),
    /// Nobody listens.
    Absent,
    /// Whoever runs this may not ask it.
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

/// Examines this host, as the configuration in `file` would guard it, and the daemon at `socket`.
pub async fn examine(file: Option<&Path>, loaded: Result<Config, String>, socket: &Path, daemon: &Daemon) -> Report {
    let mut findings = kernel::examine();
    let config = loaded.as_ref().map_or_else(|_| Config::default(), Config::clone);
    let links = interfaces::list().await;
    findings.extend(interfaces::examine(&links, &config, daemon.stats()).await);
    findings.extend(settings::examine(&config));
    let listeners = listeners::list();
    findings.extend(listeners::examine(&listeners));
    findings.extend(configuration::examine(file, &loaded, &listeners));
    findings.extend(daemon::examine(socket, daemon));
    let to_fix = findings.iter().filter(|finding| finding.status == Status::Fix).count();
    Report { to_fix, findings }
}

/// The interfaces to guard: those of the configuration, or that of the default route.
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
