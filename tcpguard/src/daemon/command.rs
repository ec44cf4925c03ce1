//! Commands: what the API and signals ask the main loop to do.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::oneshot;
use utoipa::ToSchema;

use crate::{
    config::{Change, Config, ConfigError},
    datapath::DatapathError,
    network::Network,
};

/// A command: a request that the main loop executes.
#[derive(Debug)]
pub enum Command {
    /// Lifts the blocks within a network.
    Lift {
        /// The network.
        network: Network,
        /// Receives the number of lifted blocks.
        lifted: oneshot::Sender<usize>,
    },
    /// Applies the present lists to the datapath, instead of at the next tick.
    ApplyLists {
        /// Receives `()` once they are applied.
        applied: oneshot::Sender<()>,
    },
    /// Reloads the configuration.
    Reload {
        /// Receives what changed.
        done: oneshot::Sender<Result<Reloaded, ReloadError>>,
    },
}

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
