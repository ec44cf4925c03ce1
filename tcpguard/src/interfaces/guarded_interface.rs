//! A guarded interface and its state.

use tracing::{error, info, warn};

use super::{Link, LinkChange};
use crate::{
    config::Config,
    datapath::{Attachment, Datapath, DatapathError},
};

/// The status of a guarded interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceStatus {
    /// The current name of the interface.
    pub name: String,
    /// How the guard is attached (`native`, `generic` or `tc`); `None` while it is not.
    pub mode: Option<&'static str>,
    /// A remark on the attachment, or the reason why there is none.
    pub reason: Option<String>,
    /// The MTU in bytes, while the guard is attached.
    pub mtu: Option<u32>,
}

pub(super) struct GuardedInterface {
    /// The name the interface was selected by.
    wanted: String,
    /// The current name.
    name: String,
    /// The index of the interface that it is a port of (bridge, bond).
    master: Option<u32>,
    state: State,
}

enum State {
    /// Selected, but not attached to yet.
    Chosen(Link),
    Attached {
        index: u32,
        attachment: Attachment,
        mtu: u32,
    },
    /// The interface exists, but is not attached to, for this reason.
    Refused {
        index: u32,
        reason: String,
    },
    /// The interface does not exist.
    Gone,
}

impl GuardedInterface {
    pub fn chosen(name: &str, link: Link) -> Self {
        Self { wanted: name.to_owned(), name: name.to_owned(), master: link.master, state: State::Chosen(link) }
    }

    /// Returns the name the interface was selected by.
    pub fn wanted(&self) -> &str {
        &self.wanted
    }

    /// Attaches to the interface if it is selected, but not attached to yet.
    pub fn attach(&mut self, config: &Config, datapath: &mut Datapath) -> Result<(), DatapathError> {
        let State::Chosen(link) = &self.state else { return Ok(()) };
        let (result, index) = (attach(config, datapath, link), link.index);
        match result {
            Ok(state) => {
                self.state = state;
                Ok(())
            }
            Err(problem) => {
                error!("interface {} is not guarded: {problem}", self.name);
                self.state = State::Refused { index, reason: problem.to_string() };
                Err(problem)
            }
        }
    }

    /// Tries to attach again after a failure, whose cause may be gone. Returns whether this succeeded.
    fn try_again(&mut self, link: &Link, config: &Config, datapath: &mut Datapath) -> bool {
        let State::Refused { reason, .. } = &mut self.state else { return false };
        match attach(config, datapath, link) {
            Ok(state) => {
                self.state = state;
                true
            }
            Err(problem) => {
                *reason = problem.to_string();
                false
            }
        }
    }

    pub fn follow(&mut self, change: &LinkChange, config: &Config, datapath: &mut Datapath) -> bool {
        match change {
            LinkChange::Gone { index } if self.index() == Some(*index) => {
                warn!("interface {} is gone; it will be guarded again when it comes back", self.name);
                self.detach("the interface is gone", datapath);
                self.state = State::Gone;
                true
            }
            LinkChange::Present(link) if self.index() == Some(link.index) => {
                self.note(link);
                self.try_again(link, config, datapath)
            }
            LinkChange::Present(link) if link.name == self.wanted => {
                self.detach("the interface was replaced", datapath);
                self.name.clone_from(&self.wanted);
                self.state = State::Chosen(link.clone());
                // A failure is logged, and is part of the status until it is resolved.
                self.attach(config, datapath).ok();
                true
            }
            LinkChange::Present(_) | LinkChange::Gone { .. } | LinkChange::Addresses => false,
        }
    }

    /// Derives the missed change from the existing interfaces.
    pub fn missed_change(&self, present: &[Link]) -> Option<LinkChange> {
        let same = present.iter().find(|link| self.index() == Some(link.index));
        let link = same.or_else(|| present.iter().find(|link| link.name == self.wanted));
        match link {
            Some(link) => Some(LinkChange::Present(link.clone())),
            None => self.index().map(|index| LinkChange::Gone { index }),
        }
    }

    /// Returns the index of the interface that it is a port of.
    pub const fn master(&self) -> Option<u32> {
        self.master
    }

    /// Updates the guard from the changed interface.
    fn note(&mut self, link: &Link) {
        self.master = link.master;
        if self.name != link.name {
            warn!(
                "interface {} is called {} now; it is still guarded, but the next start looks for the name in the \
                 configuration, {}",
                self.name, link.name, self.wanted
            );
            self.name.clone_from(&link.name);
        }
        if let State::Attached { mtu, .. } = &mut self.state {
            *mtu = link.mtu;
        }
    }

    /// Detaches from the interface, for `reason`.
    pub fn detach(&mut self, reason: &str, datapath: &mut Datapath) {
        let Some(index) = self.index() else { return };
        let refused = State::Refused { index, reason: reason.to_owned() };
        if let State::Attached { attachment, .. } = std::mem::replace(&mut self.state, refused) {
            datapath.let_go(attachment);
        }
    }

    /// Returns whether the interface is gone.
    pub const fn is_gone(&self) -> bool {
        matches!(self.state, State::Gone)
    }

    pub const fn attachment(&self) -> Option<&Attachment> {
        match &self.state {
            State::Attached { attachment, .. } => Some(attachment),
            State::Chosen(_) | State::Refused { .. } | State::Gone => None,
        }
    }

    /// Returns the index of the interface, while it exists.
    pub const fn index(&self) -> Option<u32> {
        match &self.state {
            State::Chosen(link) => Some(link.index),
            State::Attached { index, .. } | State::Refused { index, .. } => Some(*index),
            State::Gone => None,
        }
    }

    pub fn status(&self) -> InterfaceStatus {
        let (mode, reason, mtu) = match &self.state {
            State::Chosen(link) => (None, None, Some(link.mtu)),
            State::Attached { attachment, mtu, .. } => {
                (Some(attachment.mode.name()), attachment.remark.clone(), Some(*mtu))
            }
            State::Refused { reason, .. } => (None, Some(reason.clone()), None),
            State::Gone => (None, Some("the interface is gone".to_owned()), None),
        };
        InterfaceStatus { name: self.name.clone(), mode, reason, mtu }
    }
}

fn attach(config: &Config, datapath: &mut Datapath, link: &Link) -> Result<State, DatapathError> {
    if !link.is_ethernet {
        return Err(DatapathError::NotEthernet(link.name.clone()));
    }
    let attachment = datapath.attach(link.target(), config.xdp_mode, config.coexist)?;
    info!("guarding {} ({})", link.name, attachment.mode.described());
    Ok(State::Attached { index: link.index, attachment, mtu: link.mtu })
}
