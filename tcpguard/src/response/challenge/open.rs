//! The ports that are served: where cookies or resets make sense.

use std::collections::BTreeSet;

use crate::monitor::Snapshot;

/// The ports at which a listener or a redirection serves other hosts.
#[derive(Default)]
pub struct Open {
    ports: BTreeSet<u16>,
    redirected: BTreeSet<u16>,
    /// The listeners that they were derived from ([`Snapshot::listener_layout`]).
    layout: Option<u64>,
}

impl Open {
    /// Finds them anew if listeners or redirections have changed.
    pub fn follow(&mut self, snapshot: &Snapshot) {
        let is_same_layout = self.layout.replace(snapshot.listener_layout) == Some(snapshot.listener_layout);
        if !is_same_layout || self.redirected != snapshot.redirected {
            self.redirected.clone_from(&snapshot.redirected);
            self.ports = snapshot.listeners.reachable_ports() | &self.redirected;
        }
    }

    /// Returns all of them.
    pub const fn ports(&self) -> &BTreeSet<u16> {
        &self.ports
    }

    /// Returns those that are redirected.
    pub const fn redirected(&self) -> &BTreeSet<u16> {
        &self.redirected
    }
}
