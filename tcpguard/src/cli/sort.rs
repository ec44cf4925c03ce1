//! Sort orders of the source list.

use clap::ValueEnum;

#[cfg(feature = "tui")]
use crate::api::model::Source;

/// A sort order of the source list, descending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    /// SYNs
    Syn,
    /// Half-open handshakes
    #[value(alias = "half_open")]
    HalfOpen,
    /// SYNs dropped
    Dropped,
}

impl Sort {
    /// Returns the name in the HTTP API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Syn => "syn",
            Self::HalfOpen => "half_open",
            Self::Dropped => "dropped",
        }
    }

    /// Returns the next sort order, cyclically.
    #[cfg(feature = "tui")]
    pub const fn next(self) -> Self {
        match self {
            Self::Syn => Self::HalfOpen,
            Self::HalfOpen => Self::Dropped,
            Self::Dropped => Self::Syn,
        }
    }

    /// Returns the value that sources are sorted by; the largest comes first.
    #[cfg(feature = "tui")]
    pub const fn weight(self, source: &Source) -> u64 {
        match self {
            Self::Syn => source.syn,
            Self::HalfOpen => source.half_open,
            Self::Dropped => source.dropped,
        }
    }
}
