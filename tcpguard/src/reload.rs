//! Applying a changed configuration at run time: nothing is detached, and no state is lost.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tracing::warn;
use utoipa::ToSchema;

use crate::{
    config::{Change, Config, ConfigError, TakesEffect},
    daemon::Daemon,
    datapath::DatapathError,
    events::{EventKind, Note},
    interfaces::Guards,
    lists::ListError,
};

/// Reads the configuration again, from where it was read at the start.
#[derive(Clone)]
pub struct ConfigSource(Arc<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>);

impl ConfigSource {
    /// Creates a source that calls `read`.
    pub fn new(read: impl Fn() -> Result<Config, ConfigError> + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// Reads the configuration.
    ///
    /// # Errors
    /// Returns an error if it is invalid.
    pub fn read(&self) -> Result<Config, ConfigError> {
        (self.0)()
    }
}

impl fmt::Debug for ConfigSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ConfigSource")
    }
}

/// The result of a reload.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Reloaded {
    /// The keys whose values changed.
    pub changes: Vec<Change>,
    /// What could not be applied nevertheless, one sentence each.
    pub problems: Vec<String>,
}

/// The reason a reload changed nothing.
#[derive(Debug, Error)]
pub enum ReloadError {
    /// The configuration is invalid.
    #[error("nothing was changed: {0}")]
    Config(#[from] ConfigError),
    /// Something that the configuration names does not exist.
    #[error("nothing was changed: {0}")]
    Datapath(#[from] DatapathError),
    /// The daemon was started without a source to read the configuration from.
    #[error("nothing was changed: the daemon has no source to read its configuration from again")]
    NoSource,
}

impl Daemon {
    /// Reads the configuration again and applies what changed. All of it is checked before anything is applied.
    ///
    /// # Errors
    /// Returns an error if the configuration is invalid or names an interface that does not exist.
    pub(crate) async fn reload(&mut self, source: Option<&ConfigSource>) -> Result<Reloaded, ReloadError> {
        self.service_manager.reloading();
        let result = self.read_and_take_up(source).await;
        self.service_manager.ready();
        result
    }

    async fn read_and_take_up(&mut self, source: Option<&ConfigSource>) -> Result<Reloaded, ReloadError> {
        let source = source.ok_or(ReloadError::NoSource)?.clone();
        let wanted = tokio::task::block_in_place(|| source.read())?;
        let changes = self.config.changes_to(&wanted);
        let config = Arc::new(wanted.as_taken_up_by(&self.config));
        let guards = Guards::choose(&config, &self.links).await?;
        let mut problems = Vec::new();
        tokio::task::block_in_place(|| self.take_up(&config, &mut problems));
        problems.extend(self.guards.become_those_of(guards, &mut self.datapath));
        self.update_guarded().await;
        self.publish_config.send_replace(config);
        let reloaded = Reloaded { changes, problems };
        self.tell_of_reload(&reloaded);
        Ok(reloaded)
    }

    fn take_up(&mut self, config: &Arc<Config>, problems: &mut Vec<String>) {
        self.judge.take_up(config);
        self.monitor.take_up(config);
        self.enforcer.take_up(config, &self.datapath);
        if let Err(error) = self.lists.take_up(config) {
            problems.push(not_all_listed(&error));
        }
        self.heartbeat_timeout = config.limits.heartbeat_timeout;
        self.on_exit = config.on_exit;
        self.config = Arc::clone(config);
    }

    fn tell_of_reload(&self, reloaded: &Reloaded) {
        let told: Vec<String> = reloaded.changes.iter().map(ToString::to_string).collect();
        let message = if told.is_empty() {
            "the configuration was reloaded; nothing changed".to_owned()
        } else {
            format!("the configuration was reloaded: {}", told.join("; "))
        };
        self.events.record(Note::new(EventKind::ConfigReloaded, message).evidence(reloaded.problems.clone()));
        for problem in &reloaded.problems {
            warn!("{problem}");
        }
    }
}

fn not_all_listed(error: &ListError) -> String {
    format!("not all list entries of the configuration are in force: {error}")
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
