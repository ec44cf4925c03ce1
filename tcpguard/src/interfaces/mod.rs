//! The interfaces that are guarded: attached at the start, followed as they go and come back.

mod links;

use std::collections::BTreeSet;

use tracing::{error, info, warn};

use crate::{
    config::Config,
    datapath::{Attachment, Datapath, DatapathError},
};
pub use links::{Link, LinkChange, LinkWatch, Links};

/// One guarded interface, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceStatus {
    /// Its name.
    pub name: String,
    /// How the program is attached; `None` while it is not.
    pub mode: Option<&'static str>,
    /// Why it is not attached natively, or not at all.
    pub reason: Option<String>,
    /// Its MTU, while it is attached.
    pub mtu: Option<u32>,
}

/// The guarded interfaces. Dropping this detaches from all, but for what is pinned.
pub struct Guards {
    guards: Vec<Guard>,
    config: Config,
}

struct Guard {
    name: String,
    state: State,
}

enum State {
    /// It is to be attached to.
    Chosen(Link),
    Attached { index: u32, attachment: Attachment, mtu: u32 },
    Detached { reason: String },
}

impl Guards {
    /// Those of the configuration, or that of the default route; none is attached to yet.
    ///
    /// # Errors
    /// Where one of them is missing, or cannot be guarded.
    pub async fn choose(config: &Config, links: &Links) -> Result<Self, DatapathError> {
        let names = match config.interfaces.as_slice() {
            [] => vec![links.default_route_interface().await?.ok_or(DatapathError::NoDefaultRoute)?],
            names => names.to_vec(),
        };
        let mut guards = Vec::new();
        for name in names {
            let link = links.find(&name).await?.ok_or_else(|| DatapathError::NoInterface(name.clone()))?;
            if !link.is_ethernet {
                return Err(DatapathError::NotEthernet(name));
            }
            guards.push(Guard { name, state: State::Chosen(link) });
        }
        Ok(Self { guards, config: config.clone() })
    }

    /// Attaches to every one that was chosen, and lets go of what a daemon before this one has guarded beside them.
    ///
    /// # Errors
    /// Where one of them has another program, or cannot be attached to.
    pub fn attach(&mut self, datapath: &mut Datapath) -> Result<(), DatapathError> {
        for guard in &mut self.guards {
            if let State::Chosen(link) = &guard.state {
                guard.state = attach(&self.config, datapath, link)?;
            }
        }
        datapath.keep_only(&self.attachments());
        Ok(())
    }

    fn attachments(&self) -> Vec<&Attachment> {
        let attached = self.guards.iter().filter_map(|guard| match &guard.state {
            State::Attached { attachment, .. } => Some(attachment),
            State::Chosen(_) | State::Detached { .. } => None,
        });
        attached.collect()
    }

    /// Follows a change of some interface: the datapath has left one that is gone, and is attached to
    /// one that came back. True where something changed for a guarded one.
    pub fn follow(&mut self, change: &LinkChange, datapath: &mut Datapath) -> bool {
        let mut changed = false;
        for guard in &mut self.guards {
            changed |= guard.follow(change, &self.config, datapath);
        }
        changed
    }

    /// Brings every guard in line with the interfaces there are now, for when changes were missed.
    ///
    /// # Errors
    /// Where the kernel cannot be asked.
    pub async fn review(&mut self, links: &Links, datapath: &mut Datapath) -> Result<bool, DatapathError> {
        let present = links.all().await?;
        let mut changed = false;
        for guard in &mut self.guards {
            let change = present.iter().find(|link| link.name == guard.name).map_or_else(
                || guard.attached_index().map(|index| LinkChange::Gone { index }),
                |link| Some(LinkChange::Present(link.clone())),
            );
            changed |= change.is_some_and(|change| guard.follow(&change, &self.config, datapath));
        }
        Ok(changed)
    }

    /// How each interface stands.
    pub fn status(&self) -> Vec<InterfaceStatus> {
        self.guards.iter().map(Guard::status).collect()
    }

    /// Whether any interface is attached to.
    pub fn any_attached(&self) -> bool {
        self.guards.iter().any(|guard| guard.attached_index().is_some())
    }

    /// The indices of guarded interfaces and of those stacked on them (VLANs, bridges, bonds): where
    /// handshakes of guarded traffic are received, as the kernel sees it.
    pub fn receiving_indices(&self, links: &[Link]) -> BTreeSet<u32> {
        let mut indices: BTreeSet<u32> = self.guards.iter().filter_map(Guard::index).collect();
        // Stacks are a few layers deep; each round finds the next one up.
        for _ in 0..4 {
            let above = links.iter().filter(|link| link.lower.is_some_and(|lower| indices.contains(&lower)));
            let masters = links.iter().filter(|link| indices.contains(&link.index)).filter_map(|link| link.master);
            let found: Vec<u32> = above.map(|link| link.index).chain(masters).collect();
            indices.extend(found);
        }
        indices
    }
}

fn attach(config: &Config, datapath: &mut Datapath, link: &Link) -> Result<State, DatapathError> {
    if !link.is_ethernet {
        return Err(DatapathError::NotEthernet(link.name.clone()));
    }
    let attachment = datapath.attach(link.target(), config.xdp_mode)?;
    info!("guarding {} ({} XDP)", link.name, attachment.mode.name());
    Ok(State::Attached { index: link.index, attachment, mtu: link.mtu })
}

impl Guard {
    fn follow(&mut self, change: &LinkChange, config: &Config, datapath: &mut Datapath) -> bool {
        match change {
            LinkChange::Gone { index } if self.attached_index() == Some(*index) => {
                warn!("interface {} is gone; it is guarded again when it comes back", self.name);
                self.detach("the interface is gone", datapath);
                true
            }
            LinkChange::Present(link) if link.name == self.name && self.attached_index() != Some(link.index) => {
                self.detach("the interface was replaced", datapath);
                self.state = match attach(config, datapath, link) {
                    Ok(state) => state,
                    Err(problem) => {
                        error!("interface {} came back, but is not guarded: {problem}", self.name);
                        State::Detached { reason: problem.to_string() }
                    }
                };
                true
            }
            LinkChange::Present(link) => {
                if let State::Attached { index, mtu, .. } = &mut self.state
                    && *index == link.index
                {
                    *mtu = link.mtu;
                }
                false
            }
            LinkChange::Gone { .. } | LinkChange::Addresses => false,
        }
    }

    fn detach(&mut self, reason: &str, datapath: &Datapath) {
        let detached = State::Detached { reason: reason.to_owned() };
        if let State::Attached { attachment, .. } = std::mem::replace(&mut self.state, detached) {
            datapath.let_go(attachment);
        }
    }

    const fn attached_index(&self) -> Option<u32> {
        match &self.state {
            State::Attached { index, .. } => Some(*index),
            State::Chosen(_) | State::Detached { .. } => None,
        }
    }

    /// The interface that it is, or is to be, attached to.
    const fn index(&self) -> Option<u32> {
        match &self.state {
            State::Chosen(link) => Some(link.index),
            State::Attached { index, .. } => Some(*index),
            State::Detached { .. } => None,
        }
    }

    fn status(&self) -> InterfaceStatus {
        let name = self.name.clone();
        match &self.state {
            State::Attached { attachment, mtu, .. } => InterfaceStatus {
                name,
                mode: Some(attachment.mode.name()),
                reason: attachment.fallback_reason.clone(),
                mtu: Some(*mtu),
            },
            State::Chosen(link) => InterfaceStatus { name, mode: None, reason: None, mtu: Some(link.mtu) },
            State::Detached { reason } => InterfaceStatus { name, mode: None, reason: Some(reason.clone()), mtu: None },
        }
    }
}
