//! The guarded interfaces: those that the configuration selects, as they appear and disappear.

mod guard;
mod links;
mod select;

use std::collections::BTreeSet;

use tracing::{info, warn};

use crate::{
    config::Config,
    datapath::{Attachment, Datapath, DatapathError},
};
use guard::Guard;
pub use guard::InterfaceStatus;
pub use links::{Link, LinkChange, LinkWatch, Links};
pub use select::Selection;
pub(crate) use select::is_pattern;

/// The guarded interfaces. Dropping this detaches from all of them, except where pins keep the attachment.
pub struct InterfaceSet {
    selection: Selection,
    guards: Vec<Guard>,
    config: Config,
}

impl InterfaceSet {
    /// Selects the interfaces by the configuration, without attaching to them yet.
    ///
    /// # Errors
    /// Returns an error if an interface that the configuration names is missing or cannot be guarded.
    pub async fn choose(config: &Config, links: &Links) -> Result<Self, DatapathError> {
        let selection = Selection::of(config, links).await?;
        let present = links.all().await?;
        let mut guards = Vec::new();
        for name in selection.names() {
            let link = present.iter().find(|link| link.name == *name);
            let link = link.ok_or_else(|| DatapathError::NoInterface(name.clone()))?;
            if !link.is_ethernet {
                return Err(DatapathError::NotEthernet(name.clone()));
            }
            guards.push(Guard::chosen(name, link.clone()));
        }
        let matching = selection.matching(&present);
        guards.extend(matching.into_iter().map(|link| Guard::chosen(&link.name, link.clone())));
        if guards.is_empty() {
            warn!("no interface matches {selection} yet: matching interfaces are guarded when they appear");
        }
        Ok(Self { selection, guards, config: config.clone() })
    }

    /// Attaches to every selected interface, and detaches the previous daemon from all others.
    ///
    /// # Errors
    /// Returns an error if an interface that the configuration names has another program or cannot be attached to. An
    /// interface that only matches a pattern is skipped, and the failure is logged.
    pub fn attach(&mut self, datapath: &mut Datapath) -> Result<(), DatapathError> {
        for guard in &mut self.guards {
            match guard.attach(&self.config, datapath) {
                Err(error) if self.selection.has_named(guard.wanted()) => return Err(error),
                Err(_) | Ok(()) => {}
            }
        }
        datapath.keep_only(&self.attachments());
        Ok(())
    }

    /// Detaches from every interface.
    pub fn detach(&mut self, datapath: &mut Datapath) {
        for guard in &mut self.guards {
            guard.detach("the daemon ends", datapath);
        }
    }

    /// Applies the selection of a changed configuration. Interfaces in both selections stay as they are. Returns the
    /// errors of attaching.
    pub fn replace_with(&mut self, wanted: Self, datapath: &mut Datapath) -> Vec<String> {
        let is_wanted = |guard: &Guard| wanted.guards.iter().any(|other| other.wanted() == guard.wanted());
        for mut gone in self.guards.extract_if(.., |guard| !is_wanted(guard)) {
            info!("{} is no longer guarded", gone.wanted());
            gone.detach("it is no longer guarded", datapath);
        }
        let mut problems = Vec::new();
        (self.selection, self.config) = (wanted.selection, wanted.config);
        for mut guard in wanted.guards {
            if self.guards.iter().any(|other| other.wanted() == guard.wanted()) {
                continue;
            }
            if let Err(error) = guard.attach(&self.config, datapath) {
                problems.push(error.to_string());
            }
            self.guards.push(guard);
        }
        problems
    }

    /// Applies a change of an interface: detaches from an interface that is gone, and attaches to one that came back or
    /// newly matches a pattern. Returns whether the guarded interfaces changed.
    pub fn follow(&mut self, change: &LinkChange, datapath: &mut Datapath) -> bool {
        let mut changed = false;
        for guard in &mut self.guards {
            changed |= guard.follow(change, &self.config, datapath);
        }
        changed |= self.forget_gone() | self.let_go_of_stacked(datapath);
        match change {
            LinkChange::Present(link) => changed | self.take_in(std::slice::from_ref(link), datapath),
            LinkChange::Gone { .. } | LinkChange::Addresses => changed,
        }
    }

    /// Synchronizes the guards with the existing interfaces, in case changes were missed. Returns whether the guarded
    /// interfaces changed.
    ///
    /// # Errors
    /// Returns an error if the kernel does not answer.
    pub async fn review(&mut self, links: &Links, datapath: &mut Datapath) -> Result<bool, DatapathError> {
        let present = links.all().await?;
        let mut changed = false;
        for guard in &mut self.guards {
            if let Some(change) = guard.missed_change(&present) {
                changed |= guard.follow(&change, &self.config, datapath);
            }
        }
        changed |= self.forget_gone() | self.let_go_of_stacked(datapath);
        Ok(changed | self.take_in(&present, datapath))
    }

    /// InterfaceSet the interfaces in `links` that match a pattern and are not guarded yet. Returns whether any was attached
    /// to.
    fn take_in(&mut self, links: &[Link], datapath: &mut Datapath) -> bool {
        let mut changed = false;
        for link in self.selection.matching(links) {
            let is_known = |guard: &Guard| guard.wanted() == link.name || guard.index() == Some(link.index);
            if self.guards.iter().any(is_known) || self.is_stacked(link) {
                continue;
            }
            let mut guard = Guard::chosen(&link.name, link.clone());
            changed |= guard.attach(&self.config, datapath).is_ok();
            self.guards.push(guard);
        }
        changed
    }

    /// Returns whether an interface is stacked on a guarded one, or has one as its port, so that its traffic is seen
    /// there.
    fn is_stacked(&self, link: &Link) -> bool {
        let is_below = |guard: &Guard| guard.index().is_some_and(|index| link.lower == Some(index));
        self.guards.iter().any(|guard| is_below(guard) || guard.master() == Some(link.index))
    }

    /// Stops guarding interfaces that only match a pattern and now have another guarded interface as their port.
    fn let_go_of_stacked(&mut self, datapath: &mut Datapath) -> bool {
        let masters: Vec<u32> = self.guards.iter().filter_map(Guard::master).collect();
        let is_master = |guard: &Guard| guard.index().is_some_and(|index| masters.contains(&index));
        let selection = &self.selection;
        let stacked = self.guards.extract_if(.., |guard| is_master(guard) && !selection.has_named(guard.wanted()));
        let stacked = stacked.map(|mut guard| {
            info!("{} is no longer guarded, because its port is a guarded interface", guard.wanted());
            guard.detach("its port is guarded", datapath);
        });
        stacked.count() > 0
    }

    /// Removes interfaces that are gone and only matched a pattern. Returns whether there were any.
    fn forget_gone(&mut self) -> bool {
        let before = self.guards.len();
        self.guards.retain(|guard| !guard.is_gone() || self.selection.has_named(guard.wanted()));
        self.guards.len() != before
    }

    fn attachments(&self) -> Vec<&Attachment> {
        self.guards.iter().filter_map(Guard::attachment).collect()
    }

    /// Returns the status of each interface.
    pub fn status(&self) -> Vec<InterfaceStatus> {
        self.guards.iter().map(Guard::status).collect()
    }

    /// Returns whether the datapath is attached to any interface.
    pub fn any_attached(&self) -> bool {
        self.guards.iter().any(|guard| guard.attachment().is_some())
    }

    /// Returns the indices of the guarded interfaces and of those stacked on them (VLANs, bridges, bonds),
    /// on which the kernel's sockets receive guarded traffic.
    pub fn receiving_indices(&self, links: &[Link]) -> BTreeSet<u32> {
        let mut indices: BTreeSet<u32> = self.guards.iter().filter_map(Guard::index).collect();
        // Stacks are a few layers deep; each round finds the next layer up.
        for _ in 0..4 {
            let above = links.iter().filter(|link| link.lower.is_some_and(|lower| indices.contains(&lower)));
            let masters = links.iter().filter(|link| indices.contains(&link.index)).filter_map(|link| link.master);
            let found: Vec<u32> = above.map(|link| link.index).chain(masters).collect();
            indices.extend(found);
        }
        indices
    }
}
