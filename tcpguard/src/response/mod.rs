//! The response to a judgement: blocks, challenges and kernel settings, and undoing them.
//!
//! | module | subject |
//! | --- | --- |
//! | `blocking`, `blocks` | blocking offenders; how long a block lasts |
//! | [`challenge`] | challenging SYNs where blocks do not help |
//! | `closed_ports` | floods of ports without a listener |
//! | `first_syns` | how much of the table of first SYNs is used |
//! | `kernel_measures`, `kernel_settings` | kernel settings during an attack, and the journal that restores them |
//! | `harm` | whether an attack does harm, which measures wait for |
//! | `backlog_advice`, `backlog_notice` | backlogs that are too small; ports with many half-open handshakes |
//! | `payload` | SYNs with data |
//! | `scans` | reporting port scans |
//! | `signatures` | what the SYNs of a flood have in common |
//! | `strays` | floods of segments that belong to no connection |
//! | `reporter` | reporting all of it as events |

mod backlog_advice;
mod backlog_notice;
mod blocking;
mod blocks;
pub mod challenge;
mod closed_ports;
mod first_syns;
mod harm;
mod kernel_measures;
mod kernel_settings;
mod payload;
mod reporter;
mod scans;
mod signatures;
#[cfg(test)]
mod simulation;
mod strays;

use std::time::Duration;

use tcpguard_common::{
    abi::lease::{Lease, flag},
    tracking::bucket::Rate,
};

use crate::{
    config::Config,
    datapath::{
        Datapath, DatapathError,
        maps::{ChallengeMaps, PayloadPolicies},
    },
    detect::{Judgement, Phase},
    events::EventLog,
    lists::Lists,
    monitor::Snapshot,
    network::Network,
    store::{AttackSoFar, SavedBlock, Store},
    time::in_ticks,
};
pub use backlog_advice::BacklogAdvice;
use backlog_notice::BacklogNotices;
use blocking::Blocker;
pub use blocks::Block;
use challenge::{ChallengeStatus, Challenger};
use closed_ports::ClosedPorts;
use first_syns::FirstSyns;
use kernel_measures::KernelMeasures;
pub use kernel_settings::{
    COOKIES_SETTING, ChangedSetting, KernelSettings, Restored, SettingError, SettingOutcome, TIMESTAMPS_SETTING,
};
use payload::PayloadControl;
use reporter::{Reporter, ScopeNames};
use scans::Scans;
use signatures::{Seen, Signatures};
use strays::{PortFilter, Strays};

/// The measures in force.
#[derive(Clone, Debug, Default)]
pub struct Measures {
    /// The kernel settings that are changed at present.
    pub settings: Vec<ChangedSetting>,
    /// The blocks in force, sorted by when they end, the earliest first.
    pub blocks: Vec<Block>,
    /// Advice for ports whose backlog is too small.
    pub advice: Vec<BacklogAdvice>,
    /// The status of challenges.
    pub challenge: ChallengeStatus,
    /// The signatures in force, in words.
    pub signatures: Vec<String>,
    /// Segments are looked up, because strays may be flooding the host.
    pub looks_up_strays: bool,
}

impl Measures {
    /// Returns whether a measure is in force that is reviewed in short intervals: challenges, until the last cookie has
    /// expired, and the look-up of stray segments.
    pub fn are_in_progress(&self) -> bool {
        !self.challenge.ports.is_empty()
            || self.challenge.protected.iter().any(|status| !status.challenged.is_empty())
            || self.challenge.cookies_good_for.is_some()
            || self.looks_up_strays
    }
}

/// What is known of the host's network.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings {
    /// Whether the datapath knows every address of the host.
    pub knows_local: bool,
    /// Whether the host accepts every address of some networks (routes of type local).
    pub has_local_networks: bool,
    /// Whether handshakes behind this host are observed.
    pub observes_behind: bool,
    /// Whether an interface is stacked on a guarded one (VLAN, bridge, bond, VRF).
    pub has_stacked: bool,
}

/// Returns the part of the lease that applies to every source.
pub fn source_limits(config: &Config, ticks_per_second: u32) -> Lease {
    Lease {
        rate: Rate::new(config.source.syn_per_second, ticks_per_second),
        max_half_open: config.source.max_half_open.into(),
        proven_ticks: in_ticks(config.challenge.proven_for, ticks_per_second),
        ..Lease::NONE
    }
}

/// Carries out measures.
pub struct Enforcer {
    source_limits: Lease,
    /// `syn_attack_protect`.
    level: u8,
    names: ScopeNames,
    blocker: Blocker,
    challenger: Challenger,
    closed_ports: ClosedPorts,
    first_syns: FirstSyns,
    scans: Scans,
    signatures: Signatures,
    strays: Strays,
    backlogs: BacklogNotices,
    /// `thresholds.max_half_open`.
    max_half_open: u32,
    /// The kernel has listed its listeners.
    knows_listeners: bool,
    /// There is an attack, or it is just over.
    is_alert: bool,
    kernel: KernelMeasures,
    payload: PayloadControl,
    lists: Lists,
    report: Reporter,
}

impl Enforcer {
    /// Creates an enforcer, and restores the kernel settings left behind by a daemon that crashed.
    ///
    /// # Errors
    /// Returns an error if the datapath's clock cannot be read.
    pub fn start(
        config: &Config,
        (payload, challenges): (PayloadPolicies, ChallengeMaps),
        datapath: &Datapath,
        lists: Lists,
        events: EventLog,
        store: Store,
    ) -> Result<Self, DatapathError> {
        let jiffies = datapath.jiffies()?;
        let max_jiffies = challenge::cookie_expiry(jiffies, datapath.ticks_per_second) - jiffies + 1;
        let kernel = KernelMeasures::open(config, events.clone(), jiffies, max_jiffies);
        let cookies_until = kernel.settings().map_or(0, KernelSettings::cookies_until);
        let level = config.syn_attack_protect;
        Ok(Self {
            source_limits: source_limits(config, datapath.ticks_per_second),
            level,
            names: ScopeNames::of(config),
            blocker: Blocker::new(config, lists.clone(), events.clone(), store),
            challenger: Challenger::new(config, challenges, events.clone(), datapath, cookies_until),
            closed_ports: ClosedPorts::new(events.clone()),
            first_syns: FirstSyns::default(),
            scans: Scans::new(events.clone()),
            signatures: Signatures::new(events.clone()),
            strays: Strays::new(config),
            backlogs: BacklogNotices::new(events.clone()),
            max_half_open: config.thresholds.max_half_open,
            knows_listeners: false,
            is_alert: false,
            kernel,
            payload: PayloadControl::new(payload, config.services.clone()),
            lists,
            report: Reporter::new(events, level),
        })
    }

    /// Restores the blocks from before a restart, and what was reported about the attack in progress.
    pub fn resume(&mut self, blocks: &[SavedBlock], attack: Option<AttackSoFar>, datapath: &Datapath, at: Duration) {
        self.report.resume(attack);
        self.blocker.resume(blocks, datapath, at);
    }

    /// Returns what was reported about the attack in progress.
    pub fn attack_so_far(&self) -> Option<AttackSoFar> {
        self.report.so_far()
    }

    /// Applies a changed configuration. Blocks in force stay.
    pub fn reconfigure(&mut self, config: &Config, datapath: &Datapath) {
        self.source_limits = source_limits(config, datapath.ticks_per_second);
        self.level = config.syn_attack_protect;
        self.max_half_open = config.thresholds.max_half_open;
        self.names = ScopeNames::of(config);
        self.blocker.reconfigure(config);
        self.kernel.reconfigure(config);
        self.payload.reconfigure(config);
        self.strays.reconfigure(config);
        self.report.set_level(self.level);
        self.challenger.reconfigure(config, datapath);
    }

    /// Carries out the measures that follow from a judgement, and returns the measures in force.
    pub fn act(
        &mut self,
        judgement: &Judgement,
        snapshot: &Snapshot,
        datapath: &Datapath,
        surroundings: Surroundings,
        at: Duration,
    ) -> Measures {
        self.report.tell(judgement, snapshot, &self.names, at);
        self.blocker.lift_postponed();
        let advice = self.kernel.advise(judgement, snapshot);

        self.strays.apply(snapshot, surroundings, at);
        self.challenger.choose(judgement, snapshot, datapath, at);
        let for_cookies = self.challenger.wanted_settings(self.kernel.settings(), snapshot.clock.jiffies());
        let cookies_until = self.challenger.cookies_until();
        self.kernel.apply(
            judgement,
            harm::is_done(snapshot),
            &advice,
            self.level,
            for_cookies,
            cookies_until,
            &mut self.report,
        );
        let challenge = self.challenger.apply(
            snapshot,
            datapath,
            self.kernel.settings(),
            surroundings.knows_local,
            self.strays.at_ports(),
            at,
        );

        self.knows_listeners = snapshot.knows_listeners;
        self.is_alert = judgement.state.phase() != Phase::Calm;
        self.signatures.apply(&Seen::of(judgement.state.phase(), snapshot, self.level == 2), at);
        self.closed_ports.apply(snapshot, self.level, at);
        self.first_syns.note(snapshot.totals.syn(), at);
        self.scans.report(&snapshot.scanning, at);
        self.backlogs.report(judgement.state.phase_here(), snapshot, self.max_half_open, at);
        self.payload.apply(judgement, self.kernel.settings());
        self.blocker.block_all(&judgement.offenders, snapshot, datapath, &mut self.report, at);

        let changed = self.kernel.settings().map(KernelSettings::changed).unwrap_or_default();
        let settings = changed.iter().filter(|setting| setting.value != setting.original).cloned().collect();
        let looks_up_strays = self.strays.at_ports() != PortFilter::Off;
        Measures {
            settings,
            blocks: self.blocker.in_force(at),
            advice,
            challenge,
            looks_up_strays,
            signatures: self.signatures.descriptions(),
        }
    }

    /// Returns the lease, which expires after `valid_until` (jiffies).
    pub fn lease(&self, datapath: &Datapath, valid_until: u64, surroundings: Surroundings) -> Lease {
        let challenge = self.challenger.granted();
        let signatures = self.signatures.in_force();
        let mut flags = challenge.flags | self.strays.flags();
        let mut set = |condition: bool, flag: u64| flags |= if condition { flag } else { 0 };
        // The token that a SYN costs is returned when its handshake completes, if completions are seen.
        set(datapath.features.sees_completions(), flag::LIMIT);
        set(self.level == 2, flag::DROP);
        set(self.payload.drops(), flag::DROP_PAYLOAD);
        set(surroundings.knows_local, flag::LOCAL_KNOWN);
        set(surroundings.has_local_networks, flag::LOCAL_NETWORKS);
        set(self.knows_listeners, flag::LISTENERS_KNOWN);
        set(self.closed_ports.are_limited(), flag::LIMIT_CLOSED);
        set(self.is_alert, flag::OBSERVE_HEADERS);
        set(surroundings.observes_behind && surroundings.knows_local, flag::REDIRECTED);
        set(surroundings.observes_behind && surroundings.knows_local && self.names.has_protected(), flag::PROTECTED);
        // Otherwise SYNs for other hosts, whose handshakes complete elsewhere, would have them as well.
        set(surroundings.knows_local && signatures != Lease::NONE.signatures, flag::SIGNATURES);
        self.lists.added_to(Lease {
            valid_until,
            flags,
            timestamp_offset: challenge.timestamp_offset,
            max_port_load: challenge.max_port_load,
            secret: challenge.secret,
            secret_before: challenge.secret_before,
            last_first_syn_slab: self.first_syns.last_slab(),
            signatures,
            ..self.source_limits
        })
    }

    /// Lifts the blocks within `network` and returns how many there were.
    pub fn lift(&mut self, network: Network, datapath: &Datapath, at: Duration) -> usize {
        self.blocker.lift(network, datapath, at)
    }

    /// Records that the datapath started to challenge SYNs to a place.
    pub fn note_triggered(&self, place: u32) {
        self.challenger.note_triggered(place);
    }

    /// Returns `true` if cookies were sent so recently that clients may still return them.
    pub const fn has_cookies_under_way(&self) -> bool {
        self.challenger.is_sending()
    }

    /// Stops the kernel from sending cookies of its own, so that the last ones are returned while it still accepts
    /// them.
    pub fn stop_cookies(&mut self) {
        self.kernel.stop_cookies();
    }

    /// Restores all kernel settings.
    pub fn restore(&mut self) {
        self.kernel.restore();
    }
}
