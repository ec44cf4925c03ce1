//! The peers of SSH sessions, which must not be locked out by tcpguard's decisions, while their sessions last.
//!
//! Whoever can open a connection to sshd's port is nobody yet: a peer counts only once it has logged in.
//!
//! | module | how that is known |
//! | --- | --- |
//! | `logins` | systemd-logind and utmp list sessions |
//! | `connections` | where neither does, sshd has closed connections that did not log in within LoginGraceTime |
//! | `own` | the session in which this process was started |

mod connections;
mod logins;
mod own;

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    path::Path,
    time::{Duration, Instant},
};

use tcpguard_common::abi::rule::FOREVER;

use super::{Item, ListName, Lists, Origin};
use crate::{
    events::{EventKind, Note},
    kernel::SockDiag,
    network::Network,
    time::{Every, Limits, Pace},
};
use connections::OldConnections;

/// The least time between two looks at the kernel's connections.
const NEXT_LOOK: Duration = Duration::from_secs(5);
/// Their cost grows with the number of connections: a second at half a million.
const LOOKS: Limits = Limits {
    calm: 0.002,
    alert: 0.002,
    longest_calm: Duration::from_secs(600),
    longest_alert: Duration::from_secs(600),
};

/// Keeps the peers of SSH sessions on the allow list.
pub struct SshWatch {
    lists: Lists,
    own: Option<own::Connection>,
    old: OldConnections,
    /// The peers found by the last look at the kernel's connections, or why there are none.
    looked: Result<BTreeSet<IpAddr>, String>,
    look_due: Every,
    look_pace: Pace,
    /// The peers that were put on the list.
    allowed: BTreeSet<IpAddr>,
    /// The last problem reported.
    problem: Option<String>,
}

impl SshWatch {
    pub(super) fn new(lists: Lists) -> Self {
        Self {
            lists,
            own: own::connection(),
            old: OldConnections::default(),
            looked: Ok(BTreeSet::new()),
            look_due: Every::new(NEXT_LOOK),
            look_pace: Pace::new(LOOKS),
            allowed: BTreeSet::new(),
            problem: None,
        }
    }

    /// Allows the peers whose sessions began, and no longer those whose sessions ended.
    pub fn review(&mut self) {
        let peers = if self.lists.keeps_ssh() { self.peers(Instant::now()) } else { Ok(BTreeSet::new()) };
        let result = peers.map_err(|error| error.to_string()).and_then(|peers| {
            self.lists.allow_ssh_peers(&self.allowed, &peers).map_err(|error| error.to_string())?;
            self.allowed = peers;
            Ok(())
        });
        let problem = result.err();
        if let Some(problem) = &problem
            && self.problem.as_ref() != Some(problem)
        {
            let message = format!("the peers of SSH sessions cannot be allowed: {problem}; allow them manually");
            self.lists.events.record(Note::new(EventKind::ListProblem, message));
        }
        self.problem = problem;
    }

    fn peers(&mut self, now: Instant) -> io::Result<BTreeSet<IpAddr>> {
        let mut peers = match logins::peers(Path::new("/")) {
            Some(peers) => peers,
            None => self.old_connections(now)?,
        };
        if let Some(own) = &self.own {
            match own.is_open()? {
                true => drop(peers.insert(own.peer())),
                false => self.own = None,
            }
        }
        peers.retain(|peer| !peer.is_loopback());
        Ok(peers)
    }

    fn old_connections(&mut self, now: Instant) -> io::Result<BTreeSet<IpAddr>> {
        if self.look_pace.is_due(false, now) && self.look_due.is_due(now) {
            let Self { old, look_pace, .. } = self;
            self.looked =
                look_pace.measure(|| old.look(&mut SockDiag::open()?, now)).map_err(|error| error.to_string());
        }
        self.looked.clone().map_err(io::Error::other)
    }
}

impl Lists {
    /// Replaces the peers `before` of SSH sessions on the allow list by those at present. An entry that an operator removed
    /// stays away while its session lasts.
    fn allow_ssh_peers(&self, before: &BTreeSet<IpAddr>, now: &BTreeSet<IpAddr>) -> Result<(), super::ListError> {
        let network = |peer: &IpAddr| Network::of((*peer).into());
        for peer in now.difference(before) {
            let item = Item { list: ListName::Allow, origin: Origin::Ssh, reason: None, until: FOREVER };
            self.lock().insert(network(peer), item)?;
        }
        for peer in before.difference(now) {
            self.lock().remove(network(peer), ListName::Allow, |origin| *origin == Origin::Ssh)?;
        }
        let began = now.difference(before).map(|peer| (peer, "is allowed: it has an SSH session to this host"));
        let ended = before.difference(now).map(|peer| (peer, "is no longer allowed: its SSH session ended"));
        for (peer, what) in began.chain(ended) {
            let message = format!("{peer} {what}");
            self.events.record(Note::new(EventKind::ListChanged, message).about(peer));
        }
        Ok(())
    }
}
