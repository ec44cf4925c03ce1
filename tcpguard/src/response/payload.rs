//! SYNs with data, which are dropped during an attack.

use std::collections::BTreeSet;

use tcpguard_common::abi::lease::payload_policy;
use tracing::error;

use super::KernelSettings;
use crate::{
    config::{Config, Service},
    datapath::maps::PayloadPolicies,
    detect::{Judgement, Phase, Scope},
};

/// The bit of `tcp_fastopen` that makes listeners accept SYNs with data.
const FAST_OPEN_SERVER: u64 = 2;

/// Decides for the host and each service whether SYNs with data are dropped.
pub(super) struct PayloadControl {
    policies: PayloadPolicies,
    services: Vec<Service>,
    /// Whether they are dropped at ports that belong to no service.
    drops: bool,
}

impl PayloadControl {
    pub fn new(policies: PayloadPolicies, services: Vec<Service>) -> Self {
        let mut control = Self { policies, services, drops: false };
        // An attack on the host does not affect a calm service.
        for index in 0..control.services.len() {
            control.set_service(index, payload_policy::PASS);
        }
        control
    }

    /// Returns whether SYNs with data are dropped at ports that belong to no service.
    pub const fn drops(&self) -> bool {
        self.drops
    }

    /// Applies a changed configuration.
    pub fn reconfigure(&mut self, config: &Config) {
        let is_new = |service: &Service| !self.services.iter().any(|other| other.ports == service.ports);
        let added: Vec<usize> =
            config.services.iter().enumerate().filter(|(_, service)| is_new(service)).map(|(index, _)| index).collect();
        let ports: BTreeSet<u16> = config.services.iter().flat_map(|service| service.ports.iter().copied()).collect();
        let left = self.services.iter().flat_map(|service| &service.ports).filter(|port| !ports.contains(port));
        for port in left.copied().collect::<Vec<_>>() {
            self.set_port(port, payload_policy::HOST);
        }
        self.services.clone_from(&config.services);
        for index in added {
            self.set_service(index, payload_policy::PASS);
        }
    }

    /// Drops SYNs with data during an attack, unless TCP Fast Open is enabled (RFC 7413).
    pub fn apply(&mut self, judgement: &Judgement, settings: Option<&KernelSettings>) {
        let is_calm = judgement.state.phase() == Phase::Calm;
        if is_calm && judgement.changes.is_empty() {
            self.drops = false;
            return;
        }
        let fast_open = settings.and_then(|settings| settings.number("net.ipv4.tcp_fastopen").ok());
        let is_wanted = fast_open.unwrap_or(0) & FAST_OPEN_SERVER != 0;
        self.drops = judgement.state.host.phase != Phase::Calm && !is_wanted;
        for change in &judgement.changes {
            let Scope::Service(index) = change.scope else { continue };
            let drops = change.to != Phase::Calm && !is_wanted;
            let policy = if drops { payload_policy::DROP } else { payload_policy::PASS };
            self.set_service(index, policy);
        }
    }

    fn set_service(&mut self, service: usize, policy: u32) {
        let ports = self.services.get(service).map(|service| service.ports.clone());
        for port in ports.unwrap_or_default() {
            self.set_port(port, policy);
        }
    }

    fn set_port(&mut self, port: u16, policy: u32) {
        if let Err(error) = self.policies.set(port, policy) {
            error!("{error}");
        }
    }
}
