//! Applying a changed configuration at run time: nothing is detached, and no state is lost.

use std::sync::Arc;

use tracing::warn;

use super::{
    Daemon,
    command::{ConfigSource, ReloadError, Reloaded},
    start::networks_behind,
};
use crate::{
    config::Config,
    events::{EventKind, Note},
    interfaces::InterfaceSet,
    lists::ListError,
};

impl Daemon {
    /// Reads the configuration again and applies what changed. All of it is checked before anything is applied.
    ///
    /// # Errors
    /// Returns an error if the configuration is invalid or names an interface that does not exist.
    pub(super) async fn reload(&mut self, source: Option<&ConfigSource>) -> Result<Reloaded, ReloadError> {
        self.health.service_manager.reloading();
        let result = self.read_and_apply(source).await;
        self.health.service_manager.ready();
        result
    }

    async fn read_and_apply(&mut self, source: Option<&ConfigSource>) -> Result<Reloaded, ReloadError> {
        let source = source.ok_or(ReloadError::NoSource)?.clone();
        let wanted = tokio::task::block_in_place(|| source.read())?;
        let changes = self.config.changes_to(&wanted);
        let config = Arc::new(wanted.as_applied_to(&self.config));
        let interfaces = InterfaceSet::choose(&config, &self.network.links).await?;
        let mut problems = Vec::new();
        tokio::task::block_in_place(|| self.reconfigure(&config, &mut problems));
        problems.extend(self.network.interfaces.replace_with(interfaces, &mut self.datapath));
        self.network.update_guarded().await;
        self.publisher.publish_config(config);
        let reloaded = Reloaded { changes, problems };
        self.record_reload(&reloaded);
        Ok(reloaded)
    }

    fn reconfigure(&mut self, config: &Arc<Config>, problems: &mut Vec<String>) {
        self.detector.reconfigure(config);
        self.monitor.reconfigure(config);
        self.enforcer.reconfigure(config, &self.datapath);
        if let Err(error) = self.lists.reconfigure(config) {
            problems.push(not_all_listed(&error));
        }
        if config.protected != self.config.protected
            && let Err(error) = self.network.protected.set(&config.protected)
        {
            problems.push(format!("not all networks of the configuration are protected: {error}"));
        }
        self.network.behind = networks_behind(config);
        self.lease.lasts = config.limits.heartbeat_timeout;
        self.config = Arc::clone(config);
    }

    fn record_reload(&self, reloaded: &Reloaded) {
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
