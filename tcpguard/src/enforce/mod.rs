//! Acting on judgements as early and as gently as possible, and undoing what was done.
//!
//! | level | action during an attack |
//! | --- | --- |
//! | 0 | none: what would have been done is reported |
//! | 1 | kernel settings: fewer SYN-ACK retransmits, SYN cookies enabled, advice on backlogs |
//! | 2 | additionally, packets are dropped: offenders are blocked, SYNs with data dropped, other SYNs challenged |
//!
//! At level 2, lists, the filter of malformed segments and the limit per source are also in force outside attacks.

mod advice;
mod blocks;
mod kernel_settings;
mod report;
#[cfg(test)]
mod simulation;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tcpguard_common::{
    abi::lease::{Lease, flag, payload_policy},
    tracking::bucket::Rate,
};
use tracing::error;

use crate::{
    challenge::{self, COOKIES_SETTING, ChallengeStatus, Challenger},
    config::{Config, Service},
    datapath::{
        Datapath, DatapathError,
        maps::{ChallengeMaps, PayloadPolicies},
    },
    detect::{Judgement, Offence, Phase, Scope},
    events::{EventKind, EventLog, Note},
    lists::{ListError, Lists, Network},
    monitor::{Snapshot, in_ticks},
    store::{AttackSoFar, Moment, Record, SavedBlock, Store},
};
pub use advice::BacklogAdvice;
pub use blocks::Block;
pub use kernel_settings::{ChangedSetting, KernelSettings, Restored, SettingError, SettingOutcome};

use blocks::{BlockBook, Sentence};
use report::AttackReport;

/// `tcp_synack_retries` during an attack: a request is then kept for three seconds.
const SYNACK_RETRIES: u64 = 1;
/// The bit of `tcp_fastopen` that makes listeners accept SYNs with data.
const FAST_OPEN_SERVER: u64 = 2;

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
}

/// Returns the part of the lease that applies to every source.
pub fn terms(config: &Config, ticks_per_second: u32) -> Lease {
    Lease {
        rate: Rate::new(config.source.syn_per_second, ticks_per_second),
        max_half_open: config.source.max_half_open.into(),
        proven_ticks: in_ticks(config.challenge.proven_for, ticks_per_second),
        ..Lease::NONE
    }
}

/// Carries out measures.
pub struct Enforcer {
    terms: Lease,
    level: u8,
    tune_backlog: bool,
    services: Vec<Service>,
    prefix_lengths: (u8, u8),
    settings: Option<KernelSettings>,
    payload: PayloadPolicies,
    blocks: BlockBook,
    challenger: Challenger,
    lists: Lists,
    events: EventLog,
    store: Store,
    report: AttackReport,
    /// Prefixes whose blocks could not be lifted yet.
    to_lift: BTreeSet<Network>,
    drops_payload: bool,
    advised: BTreeSet<u16>,
    has_failed: bool,
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
        let valid_until = challenge::valid_until(jiffies, datapath.ticks_per_second);
        let settings = match KernelSettings::open(&config.listen.socket, jiffies, valid_until - jiffies + 1) {
            Ok((settings, restored)) => {
                report::restored(&events, restored);
                Some(settings)
            }
            Err(error) => {
                error!("kernel settings cannot be changed during an attack: {error}");
                None
            }
        };
        let cookies_until = settings.as_ref().map_or(0, KernelSettings::cookies_until);
        let challenger = Challenger::new(config, challenges, events.clone(), datapath, cookies_until);
        let level = config.syn_attack_protect;
        let mut enforcer = Self {
            terms: terms(config, datapath.ticks_per_second),
            level,
            tune_backlog: config.kernel.tune_backlog,
            services: config.services.clone(),
            prefix_lengths: (config.source.prefix_v4, config.source.prefix_v6),
            settings,
            payload,
            blocks: BlockBook::new(config.source.block_for, config.source.block_max),
            challenger,
            lists,
            report: AttackReport::new(events.clone(), level),
            events,
            store,
            to_lift: BTreeSet::new(),
            drops_payload: false,
            advised: BTreeSet::new(),
            has_failed: false,
        };
        // An attack on the host does not affect a calm service.
        for index in 0..enforcer.services.len() {
            enforcer.set_payload_policy(index, payload_policy::PASS);
        }
        Ok(enforcer)
    }

    /// Restores the blocks from before a restart, and what was reported about the attack in progress.
    pub fn resume(&mut self, blocks: &[SavedBlock], attack: Option<AttackSoFar>, datapath: &Datapath, at: Duration) {
        self.report.resume(attack);
        let now = Moment::now();
        for saved in blocks {
            if self.lists.is_allowed(saved.network) != Some(false) {
                continue;
            }
            let Some(left) = self.blocks.restore(saved, &now, at) else { continue };
            if let Err(error) = self.block_again(saved.network, left, datapath) {
                self.fail(&format!("the block of {} could not be restored: {error}", saved.network));
            }
        }
    }

    fn block_again(&self, network: Network, left: Duration, datapath: &Datapath) -> Result<(), ListError> {
        let until = datapath.jiffies()? + in_ticks(left, datapath.ticks_per_second);
        if network.length() == 128 {
            return Ok(datapath.block(network.first(), until)?);
        }
        self.lists.block(network, until).map(drop)
    }

    /// Returns what was reported about the attack in progress.
    pub fn attack_so_far(&self) -> Option<AttackSoFar> {
        self.report.so_far()
    }

    /// Saves the record of a block in the store.
    fn keep(&self, network: Network, at: Duration) {
        if let Some(block) = self.blocks.saved(network, at) {
            self.store.write(Record::Block(block));
        }
    }

    /// Applies a changed configuration. Blocks in force stay.
    pub fn take_up(&mut self, config: &Config, datapath: &Datapath) {
        let is_new = |service: &Service| !self.services.iter().any(|other| other.ports == service.ports);
        let added: Vec<usize> =
            config.services.iter().enumerate().filter(|(_, service)| is_new(service)).map(|(index, _)| index).collect();
        let ports: BTreeSet<u16> = config.services.iter().flat_map(|service| service.ports.iter().copied()).collect();
        let left = self.services.iter().flat_map(|service| &service.ports).filter(|port| !ports.contains(port));
        for port in left.copied().collect::<Vec<_>>() {
            self.set_port_policy(port, payload_policy::HOST);
        }
        self.services.clone_from(&config.services);
        for index in added {
            self.set_payload_policy(index, payload_policy::PASS);
        }
        self.terms = terms(config, datapath.ticks_per_second);
        self.level = config.syn_attack_protect;
        self.tune_backlog = config.kernel.tune_backlog;
        self.blocks.set_lengths(config.source.block_for, config.source.block_max);
        self.report.set_level(self.level);
        self.challenger.take_up(config, datapath);
    }

    /// Carries out the measures that follow from a judgement, and returns the measures in force.
    pub fn act(
        &mut self,
        judgement: &Judgement,
        snapshot: &Snapshot,
        datapath: &Datapath,
        knows_local: bool,
        at: Duration,
    ) -> Measures {
        self.report.tell(judgement, snapshot, &self.services, at);
        self.lift_waiting();
        let advice = self.advise(judgement, snapshot);
        self.challenger.choose(judgement, snapshot, datapath, at);
        self.set_settings(judgement, snapshot, &advice);
        let challenge = self.challenger.apply(snapshot, datapath, self.settings.as_ref(), knows_local, at);
        self.set_payload_policies(judgement);
        for offence in &judgement.offenders.prefixes {
            self.block_prefix(offence, snapshot, at);
        }
        for offence in &judgement.offenders.sources {
            self.block_source(offence, snapshot, datapath, at);
        }
        self.measures(advice, challenge, at)
    }

    fn measures(&self, advice: Vec<BacklogAdvice>, challenge: ChallengeStatus, at: Duration) -> Measures {
        let mut blocks = self.blocks.in_force(at);
        blocks.sort_by_key(|block| (block.left, block.network));
        let settings = self.settings.as_ref().map(|settings| settings.changed().to_vec()).unwrap_or_default();
        Measures { settings, blocks, advice, challenge }
    }

    /// Returns the lease, which expires after `valid_until` (jiffies).
    pub fn control(&self, datapath: &Datapath, valid_until: u64, knows_local: bool) -> Lease {
        let mut flags = 0;
        let mut set = |condition: bool, flag: u64| flags |= if condition { flag } else { 0 };
        // The token that a SYN costs is returned when its handshake completes, if completions are seen.
        set(datapath.features.sees_completions(), flag::LIMIT);
        set(self.level == 2, flag::DROP);
        set(self.drops_payload, flag::DROP_PAYLOAD);
        set(knows_local, flag::LOCAL_KNOWN);
        let (challenge_flags, timestamp_offset, max_port_load) = self.challenger.control();
        flags |= challenge_flags;
        self.lists.within(Lease { valid_until, flags, timestamp_offset, max_port_load, ..self.terms })
    }

    /// Lifts the blocks within `network` and returns how many there were.
    pub fn lift(&mut self, network: Network, datapath: &Datapath, at: Duration) -> usize {
        let lifted = self.blocks.lift(network, at);
        for who in &lifted {
            let result = if who.length() == 128 {
                datapath.block(who.first(), 0).map_err(Into::into)
            } else {
                self.lift_network(*who)
            };
            if let Err(error) = result {
                error!("the block of {who} could not be lifted: {error}");
            }
            self.keep(*who, at);
            self.events.record(Note::new(EventKind::BlockLifted, format!("the block of {who} was lifted")).about(who));
        }
        lifted.len()
    }

    /// Lifts the block of a prefix. While a long list is being changed, this is postponed to the next tick.
    fn lift_network(&mut self, network: Network) -> Result<(), ListError> {
        if !self.lists.block(network, 0)? {
            self.to_lift.insert(network);
        }
        Ok(())
    }

    /// Lifts the blocks that were postponed.
    fn lift_waiting(&mut self) {
        for network in std::mem::take(&mut self.to_lift) {
            if let Err(error) = self.lift_network(network) {
                error!("the block of {network} could not be lifted: {error}");
            }
        }
    }

    /// Records that the datapath started to challenge SYNs to `port`.
    pub fn note_triggered(&self, port: u16) {
        self.challenger.note_triggered(port);
    }

    /// Returns `true` if cookies were sent so recently that clients may still return them.
    pub const fn has_cookies_under_way(&self) -> bool {
        self.challenger.is_sending()
    }

    /// Stops the kernel from sending cookies of its own, so that the last ones are returned while it still accepts
    /// them.
    pub fn stop_cookies(&mut self) {
        let Some(settings) = &mut self.settings else { return };
        report::restored(&self.events, settings.restore_only(COOKIES_SETTING));
    }

    /// Restores all kernel settings.
    pub fn restore(&mut self) {
        let Some(settings) = &mut self.settings else { return };
        report::restored(&self.events, settings.restore());
    }

    /// Sets the kernel settings to what an attack and challenges require.
    fn set_settings(&mut self, judgement: &Judgement, snapshot: &Snapshot, advice: &[BacklogAdvice]) {
        let is_calm = judgement.state.phase() == Phase::Calm;
        if is_calm {
            self.advised.clear();
        }
        let Some(settings) = &self.settings else { return };
        let mut wanted = if is_calm { BTreeMap::new() } else { self.classic_defences(settings, advice) };
        if self.level == 0 {
            wanted.into_iter().for_each(|(name, value)| self.report.would_set(name, value));
            wanted = BTreeMap::new();
        }
        wanted.extend(self.challenger.wanted_settings(settings, snapshot.clock.jiffies()));
        if wanted.is_empty() {
            self.report.forget_settings();
        }
        let cookies_until = self.challenger.cookies_until();
        let Some(settings) = &mut self.settings else { return };
        settings.note_cookies(cookies_until);
        let outcomes = settings.bring_to(&wanted);
        for outcome in outcomes {
            match outcome {
                SettingOutcome::Changed(changed) => {
                    let message = format!(
                        "{} was temporarily set to {} (normally {})",
                        changed.name, changed.value, changed.original
                    );
                    self.events.record(Note::new(EventKind::KernelSettingChanged, message).about(changed.name));
                }
                SettingOutcome::Failed(name, error) => self.report.setting_failed(name, &error),
                SettingOutcome::Restored(restored) => report::restored(&self.events, vec![restored]),
            }
        }
    }

    /// Returns the kernel's own countermeasures.
    fn classic_defences(&self, settings: &KernelSettings, advice: &[BacklogAdvice]) -> BTreeMap<&'static str, u64> {
        let mut wanted = BTreeMap::new();
        let is = |name: &str, condition: fn(u64) -> bool| settings.operators_number(name).is_ok_and(condition);
        if is("net.ipv4.tcp_synack_retries", |retries| retries > SYNACK_RETRIES) {
            wanted.insert("net.ipv4.tcp_synack_retries", SYNACK_RETRIES);
        }
        if is(COOKIES_SETTING, |cookies| cookies == 0) {
            wanted.insert(COOKIES_SETTING, 1);
        }
        if self.tune_backlog
            && let Some(backlog) = advice.iter().map(|advice| advice.backlog).max()
        {
            let raised = ["net.core.somaxconn", "net.ipv4.tcp_max_syn_backlog"];
            let too_low =
                raised.into_iter().filter(|name| settings.operators_number(name).is_ok_and(|now| now < backlog));
            wanted.extend(too_low.map(|name| (name, backlog)));
        }
        wanted
    }

    fn advise(&mut self, judgement: &Judgement, snapshot: &Snapshot) -> Vec<BacklogAdvice> {
        if judgement.state.phase() != Phase::Attack {
            return Vec::new();
        }
        let somaxconn = self.settings.as_ref().and_then(|settings| settings.number("net.core.somaxconn").ok());
        let somaxconn = somaxconn.unwrap_or(u64::MAX);
        let advice = advice::advise(&snapshot.ports, &snapshot.listeners, somaxconn, snapshot.rates.syn);
        for advice in &advice {
            if self.advised.insert(advice.port) {
                self.events.record(Note::new(EventKind::BacklogAdvice, &advice.text).about(advice.port));
            }
        }
        advice
    }

    /// Drops SYNs with data during an attack, unless TCP Fast Open is enabled (RFC 7413).
    fn set_payload_policies(&mut self, judgement: &Judgement) {
        let is_calm = judgement.state.phase() == Phase::Calm;
        if is_calm && judgement.changes.is_empty() {
            self.drops_payload = false;
            return;
        }
        let fast_open = self.settings.as_ref().and_then(|settings| settings.number("net.ipv4.tcp_fastopen").ok());
        let is_wanted = fast_open.unwrap_or(0) & FAST_OPEN_SERVER != 0;
        self.drops_payload = judgement.state.host.phase != Phase::Calm && !is_wanted;
        for change in &judgement.changes {
            let Scope::Service(index) = change.scope else { continue };
            let drops = change.to != Phase::Calm && !is_wanted;
            let policy = if drops { payload_policy::DROP } else { payload_policy::PASS };
            self.set_payload_policy(index, policy);
        }
    }

    fn set_payload_policy(&mut self, service: usize, policy: u32) {
        let ports = self.services.get(service).map(|service| service.ports.clone());
        for port in ports.unwrap_or_default() {
            self.set_port_policy(port, policy);
        }
    }

    fn set_port_policy(&mut self, port: u16, policy: u32) {
        if let Err(error) = self.payload.set(port, policy) {
            error!("{error}");
        }
    }

    fn block_prefix(&mut self, offence: &Offence, snapshot: &Snapshot, at: Duration) {
        let network = Network::at(offence.address, self.prefix_lengths);
        // No source has an address in a prefix around the IPv4-mapped addresses, and a block of it would apply to all
        // of IPv4.
        if network.contains_ipv4() || self.lists.is_allowed(network) != Some(false) {
            return;
        }
        let Sentence::Block { lasts, times } = self.blocks.sentence(network, offence.let_in, offence.limit, at) else {
            return;
        };
        let until = snapshot.clock.after(lasts);
        self.to_lift.remove(&network);
        match self.lists.block(network, until) {
            Ok(true) => {
                self.keep(network, at);
                self.report.blocked(EventKind::PrefixBlocked, network, offence, lasts, times);
            }
            // A long list is being changed: the next tick tries again.
            Ok(false) => self.blocks.forget(network),
            Err(error) => self.fail(&format!("{network} could not be blocked: {error}")),
        }
    }

    fn block_source(&mut self, offence: &Offence, snapshot: &Snapshot, datapath: &Datapath, at: Duration) {
        let network = Network::of(offence.address);
        if self.lists.is_allowed(network) != Some(false) {
            return;
        }
        let (lasts, times) = match self.blocks.sentence(network, offence.let_in, offence.limit, at) {
            Sentence::Block { lasts, times } => (lasts, Some(times)),
            // The source's entry may have been evicted, and the block with it.
            Sentence::Standing { left } => (left, None),
            Sentence::Wait => return,
        };
        if times.is_none() && offence.blocked_until > snapshot.clock.jiffies() {
            return;
        }
        match datapath.block(offence.address, snapshot.clock.after(lasts)) {
            Ok(()) => {
                if let Some(times) = times {
                    self.keep(network, at);
                    self.report.blocked(EventKind::SourceBlocked, network, offence, lasts, times);
                }
            }
            Err(error) => self.fail(&format!("{network} could not be blocked: {error}")),
        }
    }

    /// Logs only the first problem, since what fails for one source fails for all.
    fn fail(&mut self, problem: &str) {
        if !std::mem::replace(&mut self.has_failed, true) {
            error!("{problem}");
        }
    }
}
