//! Following the host's interfaces and addresses.

use std::collections::BTreeSet;

use ipnet::IpNet;
use tokio::time::Instant;
use tracing::warn;

use super::Daemon;
use crate::{
    datapath::maps::{GuardedInterfaceMap, LocalAddresses, ProtectedMaps},
    interfaces::{InterfaceSet, Link, LinkChange, LinkWatch, Links},
    response::Surroundings,
};

/// So many protected networks are looked up to find the interfaces that lead to them.
const MOST_WAYS: usize = 64;

/// The guarded interfaces, and what the datapath knows of the host's network.
pub(super) struct Network {
    pub interfaces: InterfaceSet,
    pub links: Links,
    pub guarded: GuardedInterfaceMap,
    pub local: LocalAddresses,
    pub protected: ProtectedMaps,
    /// The networks of the configuration behind this host.
    pub behind: Vec<IpNet>,
    /// Whether the datapath knows every address of the host.
    pub knows_local: bool,
    /// Addresses were added or removed since they were written to the datapath. Many may change at once; they are all written
    /// with the next tick.
    pub has_new_addresses: bool,
    /// Whether the log says that the host has too many addresses.
    pub has_warned: bool,
    /// Whether an interface is stacked on a guarded one, or the other way round; true while that is not known.
    pub has_stacked: bool,
}

impl Network {
    /// Returns what measures depend on.
    pub fn surroundings(&self, observes_behind: bool) -> Surroundings {
        Surroundings {
            observes_behind,
            knows_local: self.knows_local,
            has_local_networks: self.local.has_networks(),
            has_stacked: self.has_stacked,
        }
    }

    /// Writes the host's addresses to the datapath.
    pub async fn update_local(&mut self) {
        self.has_new_addresses = false;
        let result = match (self.links.addresses().await, self.links.local_networks().await) {
            (Ok(addresses), Ok(networks)) => self.local.set(&addresses, &networks),
            (Err(error), _) | (_, Err(error)) => Err(error),
        };
        match result {
            Ok(knows_local) => {
                if !knows_local && !self.has_warned {
                    warn!(
                        "the host has too many addresses: every destination counts as one of the host's, and no cookies are sent"
                    );
                }
                self.knows_local = knows_local;
                self.has_warned = !knows_local;
            }
            Err(error) => {
                self.knows_local = false;
                warn!(
                    "the host's addresses could not be updated, so every destination counts as one of the host's: {error}"
                );
            }
        }
    }

    /// Returns the interfaces that lead to protected networks. That of the default route is none of them, and neither is a
    /// bridge or bond of which a guarded interface is a port: clients are there.
    async fn inner(&self, links: &[Link], guarded: &[u32]) -> BTreeSet<u32> {
        let mut inner = BTreeSet::new();
        for network in self.behind.iter().take(MOST_WAYS) {
            // The first address of a network is not that of a host.
            let address = network.hosts().next().unwrap_or(network.addr());
            inner.extend(self.links.way_to(address).await);
        }
        let default = self.links.default_route_interface().await.ok().flatten();
        for link in links {
            if guarded.contains(&link.index)
                && let Some(master) = link.master
            {
                inner.remove(&master);
            }
            if default.as_ref() == Some(&link.name) {
                inner.remove(&link.index);
            }
        }
        inner
    }

    /// Writes the interfaces whose handshakes count to the datapath.
    pub async fn update_guarded(&mut self) {
        self.has_stacked = true;
        let result = match self.links.all().await {
            Ok(links) => {
                let indices = self.interfaces.receiving_indices(&links);
                let guarded: Vec<u32> = self.interfaces.indices().collect();
                let is_master = |link: &Link| link.master.is_some_and(|master| guarded.contains(&master));
                self.has_stacked = indices.len() > guarded.len() || links.iter().any(is_master);
                let inner = self.inner(&links, &guarded).await;
                self.guarded.set(&indices, &guarded, &inner)
            }
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            warn!("the set of guarded interfaces could not be updated: {error}");
        }
    }
}

impl Daemon {
    /// Applies a change of an interface or an address.
    pub(super) async fn follow(&mut self, change: &LinkChange) {
        self.schedule.hurry(Instant::now());
        if *change == LinkChange::Addresses {
            self.network.has_new_addresses = true;
            return;
        }
        let is_stacked = matches!(change, LinkChange::Present(link) if link.lower.is_some() || link.master.is_some());
        if self.network.interfaces.follow(change, &mut self.datapath) || is_stacked {
            self.network.update_guarded().await;
        }
    }

    /// Synchronizes everything with the existing interfaces: the kernel drops messages about changes if too many arrive
    /// at once, and may close the channel.
    pub(super) async fn review(&mut self, watch: &mut Option<LinkWatch>) {
        if watch.is_none() {
            *watch =
                LinkWatch::start().inspect_err(|error| warn!("changes of interfaces are not received: {error}")).ok();
        }
        let network = &mut self.network;
        if let Err(error) = network.interfaces.review(&network.links, &mut self.datapath).await {
            warn!("changes of interfaces may have been missed: {error}");
        }
        network.update_guarded().await;
        network.update_local().await;
    }
}
