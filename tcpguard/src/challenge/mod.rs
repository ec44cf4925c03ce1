//! Challenges to SYNs from unproven sources, used where blocks cannot stop an attack: which ports are challenged, by
//! which method, and whether it works.
//!
//! | module | subject |
//! | --- | --- |
//! | [`choice`] | which ports are challenged |
//! | [`terms`] | what a SYN-ACK with a cookie may offer |
//! | [`readiness`] | preparing listeners to accept cookies |
//! | [`timing`] | how long cookies are valid, and the clock of TCP timestamps |
//! | [`watchdog`] | whether challenges lead to connections |

mod choice;
mod readiness;
mod status;
mod terms;
mod timing;
mod watchdog;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tcpguard_common::abi::{
    lease::flag,
    port::{PortChallenge, port_flag},
};
use tracing::{error, warn};

use crate::{
    config::{ChallengeMethod, ChallengeMode, Config, Service},
    datapath::{Datapath, DatapathError, maps::ChallengeMaps},
    detect::{Judgement, Phase, Policy, Scope},
    enforce::KernelSettings,
    events::{EventKind, EventLog, Note},
    kernel::Listener,
    monitor::Snapshot,
};
use choice::Choice;
use readiness::Readiness;
pub use status::{ChallengeStatus, ChallengedPort};
use terms::{KernelFacts, PortTerms};
pub use timing::valid_until;
use timing::{max_port_load, timestamp_offset};
use watchdog::{Family, Watchdog};

/// The setting that lets the kernel accept cookies no matter which program sent them, with the value 2.
pub const COOKIES_SETTING: &str = "net.ipv4.tcp_syncookies";
const COOKIES_ALWAYS: u64 = 2;
/// How long clients may take to return a cookie after the last one was sent.
pub(crate) const COOKIES_UNDER_WAY: Duration = Duration::from_millis(300);
/// With the value 2, timestamps have no random offset per connection, so that the kernel can read the negotiated
/// options from them.
pub const TIMESTAMPS_SETTING: &str = "net.ipv4.tcp_timestamps";
const TIMESTAMPS_PLAIN: u64 = 2;
/// How long the last cookies sent by the kernel itself may take to be returned, in seconds.
const KERNELS_COOKIES_RETURN: u64 = 3;

/// Decides which ports are challenged, and keeps the kernel and the datapath prepared for it.
pub struct Challenger {
    mode: ChallengeMode,
    method: ChallengeMethod,
    level: u8,
    syn_per_second: u32,
    services: Vec<Service>,
    policy: Policy,
    maps: ChallengeMaps,
    events: EventLog,
    choice: Choice,
    readiness: Readiness,
    watchdog: Watchdog,
    /// Why this kernel does not support cookies of the datapath.
    lacking: Option<String>,
    /// When the last cookie sent expires, in jiffies.
    cookies_until: u64,
    /// The counter of challenges at the last tick; it may have been started by the previous daemon.
    last_challenged: Option<u64>,
    flags: u64,
    timestamp_offset: u64,
    max_port_load: u64,
    ticks_per_second: u64,
    /// The datapath knows every address of the host.
    knows_local: bool,
    facts: Option<KernelFacts>,
    ticks: u64,
    told: BTreeMap<u16, String>,
    told_no_cookies: Option<String>,
    has_failed: bool,
}

impl Challenger {
    /// Creates a challenger; the last cookie sent by the previous daemon expires at `cookies_until` (jiffies).
    pub fn new(
        config: &Config,
        maps: ChallengeMaps,
        events: EventLog,
        datapath: &Datapath,
        cookies_until: u64,
    ) -> Self {
        let cookies = datapath.features.cookies.problem();
        let completions = datapath.features.completions.problem();
        let max_port_load = max_port_load(config.challenge.syn_per_second, datapath);
        Self {
            mode: config.challenge.mode,
            method: config.challenge.method,
            level: config.syn_attack_protect,
            syn_per_second: config.challenge.syn_per_second,
            services: config.services.clone(),
            policy: Policy::of(config),
            maps,
            events,
            choice: Choice::default(),
            readiness: Readiness::default(),
            watchdog: Watchdog::default(),
            lacking: cookies.or(completions).map(str::to_owned),
            cookies_until,
            last_challenged: None,
            flags: 0,
            timestamp_offset: 0,
            max_port_load,
            ticks_per_second: datapath.ticks_per_second.into(),
            knows_local: true,
            facts: None,
            ticks: 0,
            told: BTreeMap::new(),
            told_no_cookies: None,
            has_failed: false,
        }
    }

    /// Applies a changed configuration.
    pub fn take_up(&mut self, config: &Config, datapath: &Datapath) {
        self.mode = config.challenge.mode;
        self.method = config.challenge.method;
        self.level = config.syn_attack_protect;
        self.syn_per_second = config.challenge.syn_per_second;
        self.max_port_load = max_port_load(self.syn_per_second, datapath);
        self.services.clone_from(&config.services);
        self.policy = Policy::of(config);
    }

    /// Returns `true` if cookies are being sent.
    pub const fn is_sending(&self) -> bool {
        self.flags & flag::CHALLENGE != 0 && self.cookies_until > 0
    }

    const fn is_on(&self) -> bool {
        self.level == 2 && !matches!(self.mode, ChallengeMode::Never)
    }

    /// Returns the challenge part of the lease: the flags, the offset of the timestamp clock, and the number of SYNs
    /// per moment that triggers a challenge.
    pub const fn control(&self) -> (u64, u64, u64) {
        (self.flags, self.timestamp_offset, self.max_port_load)
    }

    /// Selects the ports to challenge.
    pub fn choose(&mut self, judgement: &Judgement, snapshot: &Snapshot, datapath: &Datapath, at: Duration) {
        self.note_cookies(snapshot, datapath);
        let open: BTreeSet<u16> = snapshot.listeners.iter().map(|listener| listener.local.port()).collect();
        let policy = &self.policy;
        let max_half_open = |scope: Scope| match scope {
            Scope::Host => policy.host.max_half_open,
            Scope::Service(index) => policy.services.get(index).map_or(u64::MAX, |(_, limits)| limits.max_half_open),
        };
        match self.mode {
            ChallengeMode::Always => self.choice.choose_all(&open, at),
            _ => self.choice.choose(&judgement.state, &self.services, &snapshot.ports, &open, max_half_open, at),
        }
        let is_calm = judgement.state.phase() == Phase::Calm;
        let challenged = self.choice.chosen();
        for port in &snapshot.ports {
            let is_challenged = challenged.contains_key(&port.port) && !self.told.contains_key(&port.port);
            self.watchdog.note(port, is_challenged, is_calm, at);
        }
        if self.sends_cookies() {
            // Set before the first cookie is sent.
            self.cookies_until = valid_until(snapshot.clock.jiffies(), datapath.ticks_per_second);
        }
        let challenged = self.choice.chosen();
        self.watchdog.keep_only(|port| open.contains(&port) || challenged.contains_key(&port));
    }

    /// Returns the kernel settings needed for cookies that will be sent or are still valid.
    pub fn wanted_settings(&self, settings: &KernelSettings, jiffies: u64) -> Vec<(&'static str, u64)> {
        // Cookies already sent are returned even if no more are to be sent.
        let goes_on_until = self.cookies_until;
        let mut wanted = Vec::new();
        if jiffies < goes_on_until {
            wanted.push((COOKIES_SETTING, COOKIES_ALWAYS));
        }
        // Until then the kernel sends cookies of its own, which also take some time to be returned.
        if jiffies >= goes_on_until + KERNELS_COOKIES_RETURN * self.ticks_per_second {
            return wanted;
        }
        // If the operator disabled timestamps they stay disabled: SYN-ACKs then carry only the MSS option.
        if settings.number(TIMESTAMPS_SETTING).is_ok_and(|timestamps| timestamps != 0) {
            wanted.push((TIMESTAMPS_SETTING, TIMESTAMPS_PLAIN));
        }
        wanted
    }

    fn sends_cookies(&self) -> bool {
        self.is_on()
            && self.knows_local
            && self.lacking.is_none()
            && self.method == ChallengeMethod::Cookie
            && self.choice.chosen().keys().any(|port| self.reason_to_leave_alone(*port).is_none())
    }

    /// Returns when the last cookie sent expires, in jiffies.
    pub const fn cookies_until(&self) -> u64 {
        self.cookies_until
    }

    /// Updates the challenge parameters in the datapath, after the kernel settings were changed.
    pub fn apply(
        &mut self,
        snapshot: &Snapshot,
        datapath: &Datapath,
        settings: Option<&KernelSettings>,
        knows_local: bool,
        at: Duration,
    ) -> ChallengeStatus {
        self.flags = 0;
        self.knows_local = knows_local;
        if !self.is_on() {
            return ChallengeStatus::default();
        }
        match self.try_apply(snapshot, datapath, settings, at) {
            Ok(status) => {
                self.has_failed = false;
                self.tell(&status);
                status
            }
            Err(error) => {
                if !std::mem::replace(&mut self.has_failed, true) {
                    error!("SYNs are not challenged: {error}");
                }
                ChallengeStatus { no_cookies: Some(error.to_string()), ..ChallengeStatus::default() }
            }
        }
    }

    fn note_cookies(&mut self, snapshot: &Snapshot, datapath: &Datapath) {
        let challenged = snapshot.totals.challenged();
        let before = self.last_challenged.replace(challenged);
        if before.is_some_and(|before| before != challenged) {
            self.cookies_until = valid_until(snapshot.clock.jiffies(), datapath.ticks_per_second);
        }
    }

    fn try_apply(
        &mut self,
        snapshot: &Snapshot,
        datapath: &Datapath,
        settings: Option<&KernelSettings>,
        at: Duration,
    ) -> Result<ChallengeStatus, DatapathError> {
        let mut status = ChallengeStatus {
            no_cookies: self.reason_for_no_cookies(settings),
            cookies_good_for: self.cookies_good_for(snapshot, datapath),
            ..ChallengeStatus::default()
        };
        let takes_cookies = settings.is_some_and(|settings| settings.number(COOKIES_SETTING).is_ok_and(|n| n == 2));
        if !takes_cookies {
            self.readiness.forget();
        }
        self.readiness.expire(at);
        let facts = self.kernel_facts(settings);
        let mtu = snapshot.interfaces.iter().filter_map(|interface| interface.mtu).min();
        let (mut ports, endpoints) = terms::terms_of(&snapshot.listeners, &facts, mtu);
        let can_send = status.no_cookies.is_none() && takes_cookies;
        let mut terms = BTreeMap::new();
        for (port, port_terms) in &mut ports {
            let of_port: Vec<&Listener> =
                snapshot.listeners.iter().filter(|listener| listener.local.port() == *port).collect();
            if let Some(ready) = self.terms_of_port(*port, port_terms, &of_port, can_send, datapath, &mut status, at)? {
                terms.insert(*port, ready);
            }
        }
        self.maps.set_endpoints(endpoints)?;
        self.maps.set_terms(&terms)?;
        let has = |flags: u32| terms.values().any(|terms| terms.has(flags));
        self.flags = if terms.is_empty() { 0 } else { flag::CHALLENGE }
            | if has(port_flag::WATCH_IPV4) { flag::STRAY_FILTER } else { 0 };
        self.timestamp_offset = timestamp_offset(datapath)?;
        Ok(status)
    }

    /// Returns the relevant kernel settings: read in every tick while ports are challenged, and occasionally otherwise.
    fn kernel_facts(&mut self, settings: Option<&KernelSettings>) -> KernelFacts {
        self.ticks += 1;
        let is_due = !self.choice.chosen().is_empty() || self.ticks.is_multiple_of(TICKS_PER_LOOK);
        let known = self.facts.take().filter(|_| !is_due);
        let facts = known.unwrap_or_else(|| KernelFacts::read(|name| settings?.read(name).ok()));
        self.facts = Some(facts.clone());
        facts
    }

    /// Returns the parameters for one port, or `None` if it is not challenged.
    #[expect(clippy::too_many_arguments, reason = "one step of the caller's loop, separated for readability")]
    fn terms_of_port(
        &mut self,
        port: u16,
        port_terms: &PortTerms,
        listeners: &[&Listener],
        can_send: bool,
        datapath: &Datapath,
        status: &mut ChallengeStatus,
        at: Duration,
    ) -> Result<Option<PortChallenge>, DatapathError> {
        let since = self.choice.chosen().get(&port).copied();
        if let Some(reason) = self.reason_to_leave_alone(port) {
            if since.is_some() {
                status.left_alone.insert(port, reason);
            }
            return Ok(None);
        }
        let changes = self.maps.listener_changes(port)?;
        let by_cookie = can_send
            && !port_terms.is_bound_to_interface
            && self.readiness.prepare(datapath, listeners, changes, at)?;
        let mut terms = PortChallenge { changes, ..port_terms.terms };
        if let Some(reason) = self.leave_family_alone(port, &mut terms) {
            status.left_alone.insert(port, reason);
        }
        if since.is_some() {
            let waits = can_send && !port_terms.is_bound_to_interface && !by_cookie;
            // A listener that is not ready for a moment is no reason to switch to the slower method.
            terms.flags |= match (by_cookie, waits && self.readiness.may_still_come(port, at)) {
                (true, _) => port_flag::COOKIE | port_flag::WATCH_IPV4 | port_flag::WATCH_IPV6,
                (false, true) => 0,
                (false, false) => port_flag::RETRANSMIT,
            };
            if by_cookie {
                let guards =
                    [(Family::Ipv4, port_flag::STRAY_FILTER_IPV4), (Family::Ipv6, port_flag::STRAY_FILTER_IPV6)];
                let served = guards.into_iter().filter(|(family, _)| self.watchdog.is_served_here(port, *family));
                terms.flags |= served.map(|(_, guard)| guard).sum::<u32>();
            }
        }
        if self.syn_per_second > 0 {
            terms.flags |= if by_cookie { port_flag::TRIGGERS_COOKIE } else { port_flag::TRIGGERS_RETRANSMIT };
        }
        if let Some(since) = since {
            let (lasts, is_guarded) =
                (at.saturating_sub(since), terms.has(port_flag::STRAY_FILTER_IPV4 | port_flag::STRAY_FILTER_IPV6));
            status.ports.push(ChallengedPort { port, by_cookie, lasts, is_guarded });
        }
        Ok(terms.has(ACTIVE).then_some(terms))
    }

    /// Returns why a port must not be challenged over either address family.
    fn reason_to_leave_alone(&self, port: u16) -> Option<String> {
        let [ipv4, ipv6] = Family::ALL.map(|family| self.watchdog.left_alone(port, family));
        let both = ipv4.filter(|_| ipv6.is_some()).map(str::to_owned);
        both.or_else(|| self.watchdog.is_served_elsewhere(port).map(str::to_owned))
    }

    /// Removes an address family that must not be challenged from the port's parameters, and returns the reason.
    fn leave_family_alone(&self, port: u16, terms: &mut PortChallenge) -> Option<String> {
        let (family, any) = [(Family::Ipv4, port_flag::ANY_IPV4), (Family::Ipv6, port_flag::ANY_IPV6)]
            .into_iter()
            .find(|(family, _)| self.watchdog.left_alone(port, *family).is_some())?;
        // The family of single addresses is not known here.
        terms.flags &= !(any | port_flag::SOME_ADDRESSES);
        self.watchdog.left_alone(port, family).map(str::to_owned)
    }

    fn reason_for_no_cookies(&self, settings: Option<&KernelSettings>) -> Option<String> {
        if self.method != ChallengeMethod::Cookie {
            return Some("challenge.method is \"retransmit\"".to_owned());
        }
        if let Some(lacking) = &self.lacking {
            return Some(lacking.clone());
        }
        if !self.knows_local {
            return Some("the datapath does not know all addresses of the host".to_owned());
        }
        let Some(settings) = settings else { return Some("kernel settings cannot be changed".to_owned()) };
        let cookies = settings.number(COOKIES_SETTING);
        if self.sends_cookies() && !cookies.as_ref().is_ok_and(|cookies| *cookies == COOKIES_ALWAYS) {
            let what = cookies.map_or_else(|error| error.to_string(), |cookies| format!("it is {cookies}"));
            return Some(format!("{COOKIES_SETTING} must be 2 and could not be changed: {what}"));
        }
        None
    }

    fn cookies_good_for(&self, snapshot: &Snapshot, datapath: &Datapath) -> Option<Duration> {
        let left = self.cookies_until.saturating_sub(snapshot.clock.jiffies());
        (left > 0).then(|| Duration::from_secs_f64(left as f64 / f64::from(datapath.ticks_per_second)))
    }

    /// Reports, once, ports that should be challenged but are not, and why cookies cannot be sent.
    fn tell(&mut self, status: &ChallengeStatus) {
        for (port, reason) in &status.left_alone {
            if self.told.get(port) != Some(reason) {
                let message = format!("port {port} is not challenged, and falls back to limits and blocks: {reason}");
                self.events.record(Note::new(EventKind::ChallengeEnded, message).about(port));
            }
        }
        self.told.clone_from(&status.left_alone);
        let is_wanted = status.ports.iter().any(|port| !port.by_cookie);
        let problem = status.no_cookies.clone().filter(|_| is_wanted && self.method == ChallengeMethod::Cookie);
        if let Some(problem) = &problem
            && self.told_no_cookies.as_ref() != Some(problem)
        {
            warn!("SYNs are challenged by dropping the first one, since no cookies can be sent: {problem}");
            let message = format!("no cookies can be sent, so first SYNs are dropped instead: {problem}");
            self.events.record(Note::new(EventKind::ChallengeDegraded, message));
        }
        if is_wanted || status.no_cookies.is_none() {
            self.told_no_cookies = problem;
        }
    }

    /// Reports that the datapath started to challenge SYNs to `port`.
    pub fn note_triggered(&self, port: u16) {
        let message = format!(
            "port {port}: more than {} SYNs per second; the datapath started to challenge them",
            self.syn_per_second
        );
        self.events.record(Note::new(EventKind::ChallengeTriggered, message).about(port));
    }
}

/// While no port is challenged, the kernel settings are read once in this many ticks.
const TICKS_PER_LOOK: u64 = 20;
/// The flags that make a port's parameters effective.
const ACTIVE: u32 =
    port_flag::COOKIE | port_flag::RETRANSMIT | port_flag::TRIGGERS_COOKIE | port_flag::TRIGGERS_RETRANSMIT;
