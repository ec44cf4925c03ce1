//! The entries of the lists.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::network::Network;

/// The name of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ListName {
    /// SYNs of its networks are never dropped or challenged.
    Allow,
    /// SYNs of its networks are dropped, unless the source is allowed.
    Deny,
}

impl ListName {
    /// Returns the name used in the API, commands and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// The origin of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The configuration.
    Configuration,
    /// A file listed in the configuration's `deny_files`.
    File(Arc<str>),
    /// A command of an operator.
    Manual,
    /// The peer of an SSH session.
    Ssh,
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configuration => formatter.write_str("configuration"),
            Self::File(path) => write!(formatter, "file {path}"),
            Self::Manual => formatter.write_str("manual"),
            Self::Ssh => formatter.write_str("ssh"),
        }
    }
}

/// An entry as it is reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The network it applies to.
    pub network: Network,
    /// The list it is on.
    pub list: ListName,
    /// Its origin, as text.
    pub origin: String,
    /// The reason given by the operator.
    pub reason: Option<String>,
    /// When it expires, in jiffies; `None` if it does not.
    pub until: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_origins_have_names() {
        assert_eq!([ListName::Allow, ListName::Deny].map(ListName::name), ["allow", "deny"]);
        let origins = [Origin::Configuration, Origin::File("/etc/a".into()), Origin::Manual, Origin::Ssh];
        assert_eq!(origins.map(|origin| origin.to_string()), ["configuration", "file /etc/a", "manual", "ssh"]);
    }
}
