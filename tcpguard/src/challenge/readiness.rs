//! Keeping listeners ready for cookies: the kernel takes one only where its listener has made one within the last
//! two minutes, and each listener, or group of them that shares a port, has to be asked by itself.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use crate::{
    datapath::{Datapath, DatapathError},
    kernel::Listener,
};

/// A listener is made ready anew after this.
const REFRESH: Duration = Duration::from_secs(20);
/// And stays so for this long at most, where that fails.
const LASTS: Duration = Duration::from_secs(100);
/// A port that is not ready for longer is challenged by something else.
const PATIENCE: Duration = Duration::from_secs(2);

/// Which listeners are ready.
#[derive(Default)]
pub struct Readiness {
    /// When a listener was made ready, and how often the listeners of its port had changed then.
    ready: BTreeMap<(SocketAddr, bool), (Duration, u64)>,
    /// Since when a port is not ready.
    waiting: BTreeMap<u16, Duration>,
    /// Which of those that share a port is asked depends on who asks.
    turn: u16,
}

impl Readiness {
    /// Makes all of these ready, which are those of one port; false where one of them is not.
    ///
    /// # Errors
    /// Where the kernel refuses to run the program that does it.
    pub fn prepare(
        &mut self,
        datapath: &Datapath,
        listeners: &[&Listener],
        changes: u64,
        at: Duration,
    ) -> Result<bool, DatapathError> {
        let mut all = true;
        for listener in listeners {
            all &= self.prepare_one(datapath, listener, changes, at)?;
        }
        if let Some(listener) = listeners.first() {
            let port = listener.local.port();
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
    ) -> Result<bool, DatapathError> {
        let key = (listener.local, listener.is_ipv6_only);
        let known = self.ready.get(&key).filter(|(_, of_changes)| *of_changes == changes).map(|(since, _)| *since);
        if known.is_some_and(|since| at.saturating_sub(since) < REFRESH) {
            return Ok(true);
        }
        self.turn = self.turn.wrapping_add(1);
        if datapath.prime(listener.local.ip(), listener.local.port(), self.turn)? {
            self.ready.insert(key, (at, changes));
            return Ok(true);
        }
        // It has no room for a connection at this moment, or has just been closed.
        Ok(known.is_some_and(|since| at.saturating_sub(since) < LASTS))
    }

    /// Whether a port that is not ready may be so in a moment.
    pub fn may_still_come(&self, port: u16, at: Duration) -> bool {
        self.waiting.get(&port).is_none_or(|since| at.saturating_sub(*since) < PATIENCE)
    }

    /// Forgets all: what the kernel has to be set to for it was not.
    pub fn forget(&mut self) {
        self.ready.clear();
    }

    /// Forgets those that are long gone.
    pub fn expire(&mut self, at: Duration) {
        self.ready.retain(|_, (since, _)| at.saturating_sub(*since) < LASTS);
    }
}
