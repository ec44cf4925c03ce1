//! Reporting challenges: which ports are not challenged although they should be, and why no cookies are sent.

use std::collections::BTreeMap;

use tracing::{error, warn};

use super::{ChallengeStatus, status::Method};
use crate::{
    datapath::DatapathError,
    events::{EventKind, EventLog, Note},
};

/// Reports each fact once.
pub(super) struct Announcer {
    events: EventLog,
    left_alone: BTreeMap<u16, String>,
    no_cookies: Option<String>,
    has_failed: bool,
}

impl Announcer {
    pub const fn new(events: EventLog) -> Self {
        Self { events, left_alone: BTreeMap::new(), no_cookies: None, has_failed: false }
    }

    /// Returns whether the port was reported as not challenged.
    pub fn is_left_alone(&self, port: u16) -> bool {
        self.left_alone.contains_key(&port)
    }

    /// Reports that challenges cannot be set up.
    pub fn failed(&mut self, error: &DatapathError) {
        if !std::mem::replace(&mut self.has_failed, true) {
            error!("SYNs are not challenged: {error}");
        }
    }

    /// Reports, once, ports that should be challenged but are not, and why cookies cannot be sent.
    pub fn announce(&mut self, status: &ChallengeStatus, wants_cookies: bool) {
        self.has_failed = false;
        for (port, reason) in &status.left_alone {
            if self.left_alone.get(port) != Some(reason) {
                let instead = match status.ports.iter().any(|challenged| challenged.port == *port) {
                    true => "cannot be challenged with cookies, and is challenged by a slower method",
                    false => "is not challenged, and falls back to limits and blocks",
                };
                let message = format!("port {port} {instead}: {reason}");
                self.events.record(Note::new(EventKind::ChallengeEnded, message).about(port));
            }
        }
        self.left_alone.clone_from(&status.left_alone);
        let instead = status.ports.iter().find(|port| port.method != Method::Cookie).map(|port| port.method);
        let problem = status.no_cookies.clone().filter(|_| instead.is_some() && wants_cookies);
        if let Some(problem) = &problem
            && self.no_cookies.as_ref() != Some(problem)
        {
            let instead = match instead {
                Some(Method::Reset) => "clients are asked for a reset instead",
                _ => "first SYNs are dropped instead",
            };
            let message = format!("no cookies can be sent, so {instead}: {problem}");
            warn!("{message}");
            self.events.record(Note::new(EventKind::ChallengeDegraded, message));
        }
        if instead.is_some() || status.no_cookies.is_none() {
            self.no_cookies = problem;
        }
    }

    /// Reports that the key which gateways share was read.
    pub fn key_changed(&self) {
        let message = "the shared key was read: challenges by reset are made with it, and those of before are accepted for a minute";
        self.events.record(Note::new(EventKind::KeyChanged, message));
    }

    /// Reports that the file with the shared key cannot be used.
    pub fn key_unusable(&self, problem: &str) {
        let message = format!("the shared key cannot be used, and the one of before stays in use: {problem}");
        warn!("{message}");
        self.events.record(Note::new(EventKind::KeyChanged, message));
    }

    /// Reports that the datapath started to challenge SYNs to `what`.
    pub fn triggered(&self, what: &str, syn_per_second: u32) {
        let message =
            format!("{what}: more than {syn_per_second} SYNs per second; the datapath started to challenge them");
        self.events.record(Note::new(EventKind::ChallengeTriggered, message).about(what));
    }
}
