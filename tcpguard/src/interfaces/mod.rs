//! The interfaces that are guarded: those that the configuration selects, followed as they come and go.

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

/// The guarded interfaces. Dropping this detaches from all, but for what is pinned.
pub struct Guards {
    selection: Selection,
    guards: Vec<Guard>,
    config: Config,
}

impl Guards {
    /// Those that the configuration selects; none is attached to yet.
    ///
    /// # Errors
    /// Where one that it names is missing, or cannot be guarded.
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
            warn!("no interface matches {selection} yet: those that come to will be guarded");
        }
        Ok(Self { selection, guards, config: config.clone() })
    }

    /// Attaches to every one that was chosen, and lets go of what a daemon before this one has guarded beside them.
    ///
    /// # Errors
    /// Where one that the configuration names has another program, or cannot be attached to. One that only matches a
    /// pattern is left out, and that is said.
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

    /// Takes the datapath off every one.
    pub fn detach(&mut self, datapath: &mut Datapath) {
        for guard in &mut self.guards {
            guard.detach("the daemon ends", datapath);
        }
    }

    /// Becomes what another configuration selects: what both guard stays as it is. The problems there were.
    pub fn become_those_of(&mut self, wanted: Self, datapath: &mut Datapath) -> Vec<String> {
        let is_wanted = |guard: &Guard| wanted.guards.iter().any(|other| other.wanted() == guard.wanted());
        for mut gone in self.guards.extract_if(.., |guard| !is_wanted(guard)) {
            info!("{} is not guarded any more", gone.wanted());
            gone.detach("it is not guarded any more", datapath);
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

    /// Follows a change of some interface: the datapath has left one that is gone, and is attached to one that came
    /// back, or that is new and matches a pattern. True where something changed for a guarded one.
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

    /// Brings every guard in line with the interfaces there are now, for when changes were missed.
    ///
    /// # Errors
    /// Where the kernel cannot be asked.
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

    /// Guards those of `links` that match a pattern, and are not guarded yet.
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

    /// Whether it is stacked on one that is guarded, or has one as its port, so that its traffic is seen there.
    fn is_stacked(&self, link: &Link) -> bool {
        let is_below = |guard: &Guard| guard.index().is_some_and(|index| link.lower == Some(index));
        self.guards.iter().any(|guard| is_below(guard) || guard.master() == Some(link.index))
    }

    /// One that only matches a pattern, and has come to have another guarded one as its port, is let go.
    fn let_go_of_stacked(&mut self, datapath: &mut Datapath) -> bool {
        let masters: Vec<u32> = self.guards.iter().filter_map(Guard::master).collect();
        let is_master = |guard: &Guard| guard.index().is_some_and(|index| masters.contains(&index));
        let selection = &self.selection;
        let stacked = self.guards.extract_if(.., |guard| is_master(guard) && !selection.has_named(guard.wanted()));
        let stacked = stacked.map(|mut guard| {
            info!("{} has a guarded interface as its port, and is not guarded itself any more", guard.wanted());
            guard.detach("it is guarded below", datapath);
        });
        stacked.count() > 0
    }

    /// One that only matched a pattern is forgotten once it is gone.
    fn forget_gone(&mut self) -> bool {
        let before = self.guards.len();
        self.guards.retain(|guard| !guard.is_gone() || self.selection.has_named(guard.wanted()));
        self.guards.len() != before
    }

    fn attachments(&self) -> Vec<&Attachment> {
        self.guards.iter().filter_map(Guard::attachment).collect()
    }

    /// How each interface stands.
    pub fn status(&self) -> Vec<InterfaceStatus> {
        self.guards.iter().map(Guard::status).collect()
    }

    /// Whether any interface is attached to.
    pub fn any_attached(&self) -> bool {
        self.guards.iter().any(|guard| guard.attachment().is_some())
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
