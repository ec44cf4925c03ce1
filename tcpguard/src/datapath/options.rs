//! The options the datapath is loaded with.

use std::path::PathBuf;

use crate::config::{Coexist, Config, Hook, MemoryLimit};

/// The options the datapath is loaded with.
#[derive(Clone, Debug)]
pub struct DatapathOptions {
    /// The number of entries of the source table.
    pub max_sources: u32,
    /// The memory that the maps may take.
    pub memory: MemoryLimit,
    /// The length of the prefixes that IPv4 sources are accounted under, in bits.
    pub prefix_v4: u8,
    /// The length of the prefixes that IPv6 sources are accounted under, in bits.
    pub prefix_v6: u8,
    /// The hook the datapath will be attached to.
    pub hook: Hook,
    /// Whether passed frames are handed to the programs previously attached to the interfaces.
    pub chains: bool,
    /// The folder for pins; `None` if nothing is to outlive the daemon.
    pub pins: Option<PathBuf>,
    /// aya-log's level (1 error to 5 trace), or `None` for no log: the logging code is then removed from the programs.
    pub log_level: Option<u8>,
}

impl DatapathOptions {
    /// Returns the options that a configuration asks for, without a log.
    pub fn of(config: &Config) -> Self {
        Self {
            max_sources: config.limits.max_sources,
            memory: config.limits.memory,
            prefix_v4: config.source.prefix_v4,
            prefix_v6: config.source.prefix_v6,
            hook: config.attach,
            chains: config.coexist == Coexist::Chain,
            pins: Some(config.pins.path.clone()),
            log_level: None,
        }
    }
}

/// The purpose the programs are loaded for.
#[derive(Clone, Copy)]
pub(super) enum Purpose {
    /// Guarding interfaces: attached to them, and to the tracepoints.
    Guarding,
    /// Running single frames with a copy of the state of a datapath that uses this hash key.
    Explaining { hash_key: u64 },
}

/// The capacity of a twin's source table.
const TWIN_SOURCES: u32 = 4096;

impl Purpose {
    /// Returns the number of entries of the source table, for a configured number.
    pub fn source_entries(self, configured: u32) -> u32 {
        match self {
            Self::Guarding => configured,
            Self::Explaining { .. } => configured.min(TWIN_SOURCES),
        }
    }
}
