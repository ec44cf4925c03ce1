//! The guarded interfaces: those that the configuration selects, as they appear and disappear.

mod guarded_interface;
mod links;
mod select;

use std::collections::BTreeSet;

use tracing::{info, warn};

use crate::{
    config::Config,
    datapath::{Attachment, Datapath, DatapathError},
};
use guarded_interface::GuardedInterface;
pub use guarded_interface::InterfaceStatus;
pub use links::{Link, LinkChange, LinkWatch, Links};
pub use select::Selection;
pub(crate) use select::is_pattern;

/// The guarded interfaces. Dropping this detaches from all of them, except where pins keep the attachment.
pub struct InterfaceSet {
    selection: Selection,
    interfaces: Vec<GuardedInterface>,
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
        let mut interfaces = Vec::new();
        for name in selection.names() {
            let link = present.iter().find(|link| link.name == *name);
            let link = link.ok_or_else(|| DatapathError::NoInterface(name.clone()))?;
            if !link.is_ethernet {
                return Err(DatapathError::NotEthernet(name.clone()));
            }
            interfaces.push(GuardedInterface::chosen(name, link.clone()));
        }
        let matching = selection.matching(&present);
        interfaces.extend(matching.into_iter().map(|link| GuardedInterface::chosen(&link.name, link.clone())));
        if interfaces.is_empty() {
            warn!("no interface matches {selection} yet: matching interfaces are guarded when they appear");
        }
        Ok(Self { selection, interfaces, config: config.clone() })
    }

    /// Attaches to every selected interface, and detaches the previous daemon from all others.
    ///
    /// # Errors
    /// Returns an error if an interface that the configuration names has another program or cannot be attached to. An
    /// interface that only matches a pattern is skipped, and the failure is logged.
    pub fn attach(&mut self, datapath: &mut Datapath) -> Result<(), DatapathError> {
        for interface in &mut self.interfaces {
            match interface.attach(&self.config, datapath) {
                Err(error) if self.selection.has_named(interface.wanted()) => return Err(error),
                Err(_) | Ok(()) => {}
            }
        }
        datapath.keep_only(&self.attachments());
        Ok(())
    }

    /// Detaches from every interface.
    pub fn detach(&mut self, datapath: &mut Datapath) {
        for interface in &mut self.interfaces {
            interface.detach("the daemon ends", datapath);
        }
    }

    /// Applies the selection of a changed configuration. Interfaces in both selections stay as they are. Returns the
    /// errors of attaching.
    pub fn replace_with(&mut self, wanted: Self, datapath: &mut Datapath) -> Vec<String> {
        let is_wanted =
            |interface: &GuardedInterface| wanted.interfaces.iter().any(|other| other.wanted() == interface.wanted());
        for mut gone in self.interfaces.extract_if(.., |interface| !is_wanted(interface)) {
            info!("{} is no longer guarded", gone.wanted());
            gone.detach("it is no longer guarded", datapath);
        }
        let mut problems = Vec::new();
        (self.selection, self.config) = (wanted.selection, wanted.config);
        for mut interface in wanted.interfaces {
            if self.interfaces.iter().any(|other| other.wanted() == interface.wanted()) {
                continue;
            }
            if let Err(error) = interface.attach(&self.config, datapath) {
                problems.push(error.to_string());
            }
            self.interfaces.push(interface);
        }
        problems
    }

    /// Applies a change of an interface: detaches from an interface that is gone, and attaches to one that came back or
    /// newly matches a pattern. Returns whether the guarded interfaces changed.
    pub fn follow(&mut self, change: &LinkChange, datapath: &mut Datapath) -> bool {
        let mut changed = false;
        for interface in &mut self.interfaces {
            changed |= interface.follow(change, &self.config, datapath);
        }
        changed |= self.forget_gone() | self.let_go_of_stacked(datapath);
        match change {
            LinkChange::Present(link) => changed | self.take_in(std::slice::from_ref(link), datapath),
            LinkChange::Gone { .. } | LinkChange::Addresses => changed,
        }
    }

    /// Synchronizes the interfaces with the existing interfaces, in case changes were missed. Returns whether the guarded
    /// interfaces changed.
    ///
    /// # Errors
    /// Returns an error if the kernel does not answer.
    pub async fn review(&mut self, links: &Links, datapath: &mut Datapath) -> Result<bool, DatapathError> {
        let present = links.all().await?;
        let mut changed = false;
        for interface in &mut self.interfaces {
            if let Some(change) = interface.missed_change(&present) {
                changed |= interface.follow(&change, &self.config, datapath);
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
            let is_known =
                |interface: &GuardedInterface| interface.wanted() == link.name || interface.index() == Some(link.index);
            if self.interfaces.iter().any(is_known) || self.is_stacked(link) {
                continue;
            }
            let mut interface = GuardedInterface::chosen(&link.name, link.clone());
            changed |= interface.attach(&self.config, datapath).is_ok();
            self.interfaces.push(interface);
        }
        changed
    }

    /// Returns whether an interface is stacked on a guarded one, or has one as its port, so that its traffic is seen
    /// there.
    fn is_stacked(&self, link: &Link) -> bool {
        let is_below = |interface: &GuardedInterface| interface.index().is_some_and(|index| link.lower == Some(index));
        self.interfaces.iter().any(|interface| is_below(interface) || interface.master() == Some(link.index))
    }

    /// Stops guarding interfaces that only match a pattern and now have another guarded interface as their port.
    fn let_go_of_stacked(&mut self, datapath: &mut Datapath) -> bool {
        let masters: Vec<u32> = self.interfaces.iter().filter_map(GuardedInterface::master).collect();
        let is_master = |interface: &GuardedInterface| interface.index().is_some_and(|index| masters.contains(&index));
        let selection = &self.selection;
        let stacked = self
            .interfaces
            .extract_if(.., |interface| is_master(interface) && !selection.has_named(interface.wanted()));
        let stacked = stacked.map(|mut interface| {
            info!("{} is no longer guarded, because its port is a guarded interface", interface.wanted());
            interface.detach("its port is guarded", datapath);
        });
        stacked.count() > 0
    }

    /// Removes interfaces that are gone and only matched a pattern. Returns whether there were any.
    fn forget_gone(&mut self) -> bool {
        let before = self.interfaces.len();
        self.interfaces.retain(|interface| !interface.is_gone() || self.selection.has_named(interface.wanted()));
        self.interfaces.len() != before
    }

    fn attachments(&self) -> Vec<&Attachment> {
        self.interfaces.iter().filter_map(GuardedInterface::attachment).collect()
    }

    /// Returns the status of each interface.
    pub fn status(&self) -> Vec<InterfaceStatus> {
        self.interfaces.iter().map(GuardedInterface::status).collect()
    }

    /// Returns the indices of the guarded interfaces that exist.
    pub fn indices(&self) -> impl Iterator<Item = u32> {
        self.interfaces.iter().filter_map(GuardedInterface::index)
    }

    /// Returns the indices of the guarded interfaces and of those stacked on them (VLANs, bridges, bonds),
    /// on which the kernel's sockets receive guarded traffic.
    pub fn receiving_indices(&self, links: &[Link]) -> BTreeSet<u32> {
        let mut indices: BTreeSet<u32> = self.indices().collect();
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
