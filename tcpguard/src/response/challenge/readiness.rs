//! Keeps listeners ready for cookies: the kernel accepts a cookie only if its listener sent one within the last two
//! minutes, and each listener (or each in a group that shares a port) has to be prepared separately.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use crate::{
    datapath::{Datapath, DatapathError},
    kernel::Listener,
};

/// A listener is prepared again after this time.
const REFRESH: Duration = Duration::from_secs(40);
/// A listener counts as ready for at most this long if preparing it again fails.
const LASTS: Duration = Duration::from_secs(100);
/// A port that has not been ready for this long is challenged by the other method.
const PATIENCE: Duration = Duration::from_secs(2);

/// The least time between two looks at all listeners for those that were prepared too long ago.
const EXPIRE_EVERY: Duration = Duration::from_secs(1);
/// How many ports at which a listener could not be prepared are tried again in each tick.
const MOST_RETRIED: usize = 100;

/// Whether a listener is ready.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Prepared {
    Yes,
    /// It is from before, and could not be prepared again.
    Still,
    No,
}

/// Tracks which listeners are ready.
#[derive(Default)]
pub struct Readiness {
    /// When each listener was last prepared, and the change count of its port's listeners at that time.
    ready: BTreeMap<(SocketAddr, bool), (Duration, u64)>,
    /// The ports of listeners that could not be prepared when they were due.
    failed: BTreeSet<u16>,
    /// Since when each port has not been ready.
    waiting: BTreeMap<u16, Duration>,
    /// The kernel selects one of the listeners that share a port by the requester; this number varies it.
    turn: u16,
    /// When listeners were last forgotten.
    expired: Duration,
}

impl Readiness {
    /// Prepares all listeners of one port. Returns `false` if one of them is not ready.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses to run the program that prepares listeners.
    pub fn prepare(
        &mut self,
        datapath: &Datapath,
        listeners: &[Listener],
        changes: u64,
        at: Duration,
    ) -> Result<bool, DatapathError> {
        let (mut all, mut has_failed) = (true, false);
        for listener in listeners {
            let prepared = self.prepare_one(datapath, listener, changes, at)?;
            all &= prepared != Prepared::No;
            has_failed |= prepared != Prepared::Yes;
        }
        if let Some(listener) = listeners.first() {
            let port = listener.local.port();
            if has_failed {
                self.failed.insert(port)
            } else {
                self.failed.remove(&port)
            };
            if all {
                self.waiting.remove(&port);
            } else {
                self.waiting.entry(port).or_insert(at);
            }
        }
        Ok(all)
    }

    fn prepare_one(
        &mut self,
        datapath: &Datapath,
        listener: &Listener,
        changes: u64,
        at: Duration,
    ) -> Result<Prepared, DatapathError> {
        let key = (listener.local, listener.is_ipv6_only);
        let known = self.ready.get(&key).filter(|(_, of_changes)| *of_changes == changes).map(|(since, _)| *since);
        if known.is_some_and(|since| at.saturating_sub(since) < REFRESH) {
            return Ok(Prepared::Yes);
        }
        self.turn = self.turn.wrapping_add(1);
        if datapath.prime(listener.local.ip(), listener.local.port(), self.turn)? {
            self.ready.insert(key, (at, changes));
            return Ok(Prepared::Yes);
        }
        // The listener has no room for a connection at the moment, or was just closed.
        Ok(if known.is_some_and(|since| at.saturating_sub(since) < LASTS) { Prepared::Still } else { Prepared::No })
    }

    /// Returns ports whose listeners could not be prepared when they were due: they are looked at again in the next tick, so
    /// many at most.
    pub fn failed(&self) -> impl Iterator<Item = &u16> {
        self.failed.iter().take(MOST_RETRIED)
    }

    /// Forgets failures at ports that are not `wanted` any more.
    pub fn keep_only(&mut self, wanted: impl Fn(u16) -> bool) {
        self.failed.retain(|port| wanted(*port));
    }

    /// Returns `true` if a port that is not ready may become ready soon.
    pub fn may_still_come(&self, port: u16, at: Duration) -> bool {
        self.waiting.get(&port).is_none_or(|since| at.saturating_sub(*since) < PATIENCE)
    }

    /// Returns `true` if a listener is ready.
    pub fn has_any(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Forgets all listeners, because the kernel setting they depend on was changed.
    pub fn forget(&mut self) {
        self.ready.clear();
        self.failed.clear();
    }

    /// Forgets listeners that were prepared too long ago. That has a margin: the kernel accepts their cookies for longer.
    pub fn expire(&mut self, at: Duration) {
        if at.saturating_sub(self.expired) >= EXPIRE_EVERY {
            self.expired = at;
            self.ready.retain(|_, (since, _)| at.saturating_sub(*since) < LASTS);
        }
    }
}
