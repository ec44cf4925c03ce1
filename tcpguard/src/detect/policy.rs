//! What observations are judged by: the thresholds of the host and of services, and the limits of sources.

use super::{Limits, Scope};
use crate::{
    config::Config,
    monitor::{Pressure, Readings},
};

/// The thresholds and limits that observations are judged by.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// The thresholds for all ports except those of services.
    pub host: Limits,
    /// The ports and thresholds of each service.
    pub services: Vec<(Vec<u16>, Limits)>,
    /// The name and the thresholds of each `[[protect]]` section.
    pub protected: Vec<(String, Limits)>,
    /// Half-open handshakes allowed per source.
    pub source_half_open: u64,
    /// Half-open handshakes allowed per prefix.
    pub prefix_half_open: u64,
    /// The prefix lengths for IPv4 and IPv6.
    pub prefix_lengths: (u8, u8),
}

impl Policy {
    /// Returns the policy that `config` specifies.
    pub fn of(config: &Config) -> Self {
        let thresholds = &config.thresholds;
        let host = Limits {
            max_half_open: thresholds.max_half_open.into(),
            max_retried: thresholds.max_half_open_retried.into(),
            max_refused: Some(thresholds.max_ports_exhausted.into()),
            max_malformed: Some(thresholds.max_half_open.into()),
            max_stray: Some(thresholds.max_stray.into()),
            leave_ratio: thresholds.leave_ratio,
            hold: thresholds.hold,
        };
        let with_own = |max_half_open: u32| {
            let max_half_open = u64::from(max_half_open);
            // The same share of half-open handshakes may be retried as for the host.
            let max_retried = max_half_open * host.max_retried / host.max_half_open.max(1);
            Limits {
                max_half_open,
                max_retried,
                max_refused: None,
                max_malformed: None,
                max_stray: None,
                ..host.clone()
            }
        };
        let services = config.services.iter().map(|service| (service.ports.clone(), with_own(service.max_half_open)));
        let protected = config.protected.iter().map(|section| (section.name.clone(), with_own(section.max_half_open)));
        Self {
            services: services.collect(),
            protected: protected.collect(),
            host,
            source_half_open: config.source.max_half_open.into(),
            prefix_half_open: config.source.prefix_max_half_open.into(),
            prefix_lengths: (config.source.prefix_v4, config.source.prefix_v6),
        }
    }

    /// Returns every scope, the host first, with its thresholds and its readings.
    pub(super) fn scopes<'a>(
        &'a self,
        pressure: &'a Pressure,
    ) -> impl Iterator<Item = (Scope, &'a Limits, &'a Readings)> {
        let services = self.services.iter().zip(&pressure.services).enumerate();
        let services = services.map(|(index, ((_, limits), readings))| (Scope::Service(index), limits, readings));
        let protected = self.protected.iter().zip(&pressure.protected).enumerate();
        let protected = protected.map(|(index, ((_, limits), readings))| (Scope::Protected(index), limits, readings));
        std::iter::once((Scope::Host, &self.host, &pressure.host)).chain(services).chain(protected)
    }

    /// Returns the name of each `[[protect]]` section.
    pub fn protected_names(&self) -> Vec<String> {
        self.protected.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Returns the ports of each service.
    pub fn service_ports(&self) -> Vec<Vec<u16>> {
        self.services.iter().map(|(ports, _)| ports.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Policy {
        let config = "[thresholds]\nmax_half_open = 1000\nmax_half_open_retried = 250\nmax_ports_exhausted = 7\n\
                      max_stray = 4000\nleave_ratio = 0.25\n[source]\nmax_half_open = 12\nprefix_max_half_open = 34\n\
                      [[service]]\nports = [80, 443]\nmax_half_open = 60\n[[service]]\nports = [22]\nmax_half_open = 2";
        Policy::of(&Config::parse(config, "a test").expect("a configuration"))
    }

    #[test]
    fn the_host_is_judged_by_the_thresholds() {
        let policy = policy();
        let expected = Limits {
            max_half_open: 1000,
            max_retried: 250,
            max_refused: Some(7),
            max_malformed: Some(1000),
            max_stray: Some(4000),
            leave_ratio: 0.25,
            hold: Config::default().thresholds.hold,
        };
        assert_eq!(policy.host, expected);
        assert_eq!((policy.source_half_open, policy.prefix_half_open, policy.prefix_lengths), (12, 34, (24, 64)));
    }

    #[test]
    fn a_service_has_a_threshold_of_its_own_and_the_hosts_share_of_retried_handshakes() {
        let policy = policy();
        let of_service = |max_half_open, max_retried| Limits {
            max_half_open,
            max_retried,
            max_refused: None,
            max_malformed: None,
            max_stray: None,
            ..policy.host.clone()
        };
        assert_eq!(policy.services, [(vec![80, 443], of_service(60, 15)), (vec![22], of_service(2, 0))]);
        assert_eq!(policy.service_ports(), [vec![80, 443], vec![22]]);
    }
}
