//! What sources are ordered by.

use clap::ValueEnum;

use crate::api::model::Source;

/// What sources are ordered by.
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
    /// As the daemon calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Syn => "syn",
            Self::HalfOpen => "half_open",
            Self::Dropped => "dropped",
        }
    }

    /// The next one.
    pub const fn next(self) -> Self {
        match self {
            Self::Syn => Self::HalfOpen,
            Self::HalfOpen => Self::Dropped,
            Self::Dropped => Self::Syn,
        }
    }

    /// How far to the front a source belongs.
    pub const fn weight(self, source: &Source) -> u64 {
        match self {
            Self::Syn => source.syn,
            Self::HalfOpen => source.half_open,
            Self::Dropped => source.dropped,
        }
    }
}
