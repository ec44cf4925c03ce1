//! Challenges to SYNs from unproven sources, used where blocks cannot stop an attack: which ports are challenged, by
//! which method, and whether it works.
//!
//! | module | subject |
//! | --- | --- |
//! | [`choice`] | which ports are challenged |
//! | [`open`] | which ports are served |
//! | [`protected`] | the same for protected networks |
//! | [`terms`] | what a SYN-ACK with a cookie may offer |
//! | [`secrets`] | what answers that clients reset are made with |
//! | [`key_file`] | the key that several gateways share |
//! | [`readiness`] | preparing listeners to accept cookies |
//! | [`timing`] | how long cookies are valid, and the clock of TCP timestamps |
//! | [`cookie_lifetime`] | until when the kernel has to accept cookies |
//! | [`turn`] | which ports are looked at although nothing happens |
//! | [`watchdog`] | whether challenges lead to connections |
//! | [`announcer`] | reporting what is not challenged, and why |

mod announcer;
mod choice;
mod cookie_lifetime;
mod key_file;
mod open;
mod protected;
mod readiness;
mod secrets;
mod status;
mod terms;
mod timing;
mod turn;
mod watchdog;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tcpguard_common::{
    abi::{
        lease::flag,
        port::{PortChallenge, port_flag},
    },
    challenge::safe_reset::Secret,
};

use crate::{
    config::{ChallengeMethod, ChallengeMode, Config, Service},
    datapath::{Datapath, DatapathError, maps::ChallengeMaps},
    detect::{Judgement, Phase, Policy, Scope},
    events::EventLog,
    kernel::{Listener, Listeners},
    monitor::Snapshot,
    response::{COOKIES_SETTING, KernelSettings, harm, strays::PortFilter},
};
use announcer::Announcer;
use choice::{Choice, scope_of};
use cookie_lifetime::{COOKIES_ALWAYS, COOKIES_FOR_FULL_QUEUES, CookieLifetime};
use key_file::KeyFile;
pub use key_file::read as read_key;
use open::Open;
use protected::Protected;
use readiness::Readiness;
use secrets::Secrets;
pub use status::{ChallengeStatus, ChallengedPort, Method, ProtectedStatus, ReturnPath};
use terms::{CachedFacts, KernelFacts, PortTerms};
pub use timing::cookie_expiry;
use timing::{max_port_load, timestamp_offset};
use turn::Turn;
use watchdog::{Family, Watchdog};

/// How long clients may take to return a cookie after the last one was sent.
pub(crate) const COOKIES_UNDER_WAY: Duration = Duration::from_millis(1500);

/// Decides which ports are challenged, and keeps the kernel and the datapath prepared for it.
pub struct Challenger {
    options: Options,
    maps: ChallengeMaps,
    choice: Choice,
    protected: Protected,
    readiness: Readiness,
    watchdog: Watchdog,
    cookies: CookieLifetime,
    /// `None` if no random numbers could be drawn: clients are then not asked for resets.
    secrets: Option<Secrets>,
    /// Where the key comes from, if several gateways share it.
    key_file: Option<KeyFile>,
    /// Why this kernel does not support cookies of the datapath.
    lacking: Option<String>,
    /// Whether the datapath knows every address of the host.
    knows_local: bool,
    facts: CachedFacts,
    /// What a flood of strays requires of the ports.
    strays: PortFilter,
    granted: Granted,
    announcer: Announcer,
    /// The listeners whose ports the watchdog knows ([`Snapshot::listener_layout`]).
    watched_layout: Option<u64>,
    /// The ports that are served.
    open: Open,
    /// The general terms of every port, and what they were derived from.
    ports: Option<(Basis, TermsByPort)>,
    /// The other ports whose turn it is.
    turn: Turn,
    /// The ports that were challenged or left alone at the last tick.
    watched: BTreeSet<u16>,
}

/// The general terms of ports, in ascending order.
type TermsByPort = Arc<[(u16, PortTerms)]>;

/// The part of the configuration that challenges depend on.
struct Options {
    mode: ChallengeMode,
    method: ChallengeMethod,
    /// `syn_attack_protect`.
    level: u8,
    syn_per_second: u32,
    services: Vec<Service>,
    policy: Policy,
}

/// What the terms of all ports depend on.
#[derive(Clone, Debug, PartialEq)]
struct Basis {
    /// See [`Snapshot::listener_layout`].
    layout: u64,
    facts: KernelFacts,
    mtu: Option<u32>,
    is_authenticated: bool,
    can_send: bool,
    is_draining: bool,
    strays: PortFilter,
    redirected: BTreeSet<u16>,
}

/// The part of the lease that concerns challenges.
#[derive(Clone, Copy, Debug, Default)]
pub struct Granted {
    /// A combination of the bits in [`flag`].
    pub flags: u64,
    /// See [`tcpguard_common::abi::lease::Lease::timestamp_offset`].
    pub timestamp_offset: u64,
    /// See [`tcpguard_common::abi::lease::Lease::max_port_load`].
    pub max_port_load: u64,
    /// See [`tcpguard_common::abi::lease::Lease::secret`].
    pub secret: Secret,
    /// See [`tcpguard_common::abi::lease::Lease::secret_before`].
    pub secret_before: Secret,
}

impl Options {
    fn of(config: &Config) -> Self {
        Self {
            mode: config.challenge.mode,
            method: config.challenge.method,
            level: config.syn_attack_protect,
            syn_per_second: config.challenge.syn_per_second,
            services: config.services.clone(),
            policy: Policy::of(config),
        }
    }

    const fn is_on(&self) -> bool {
        self.level == 2 && !matches!(self.mode, ChallengeMode::Never)
    }

    const fn wants_cookies(&self) -> bool {
        matches!(self.method, ChallengeMethod::Auto | ChallengeMethod::Cookie)
    }
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
            options: Options::of(config),
            maps,
            choice: Choice::default(),
            protected: Protected::new(&config.protected),
            readiness: Readiness::default(),
            watchdog: Watchdog::default(),
            cookies: CookieLifetime::new(cookies_until, datapath),
            secrets: Secrets::draw(),
            key_file: config.challenge.key_file.path().map(KeyFile::new),
            lacking: cookies.or(completions).map(str::to_owned),
            knows_local: true,
            facts: CachedFacts::default(),
            strays: PortFilter::Off,
            granted: Granted { max_port_load, ..Granted::default() },
            announcer: Announcer::new(events),
            watched_layout: None,
            open: Open::default(),
            ports: None,
            turn: Turn::default(),
            watched: BTreeSet::new(),
        }
    }

    /// Applies a changed configuration.
    pub fn reconfigure(&mut self, config: &Config, datapath: &Datapath) {
        self.options = Options::of(config);
        self.protected.reconfigure(&config.protected);
        let path = config.challenge.key_file.path();
        if self.key_file.as_ref().map(KeyFile::path) != path {
            self.key_file = path.map(KeyFile::new);
        }
        self.ports = None;
        self.granted.max_port_load = max_port_load(self.options.syn_per_second, datapath);
    }

    /// Returns `true` if cookies are being sent.
    pub const fn is_sending(&self) -> bool {
        self.granted.flags & flag::CHALLENGE != 0 && self.cookies.until() > 0
    }

    /// Returns the part of the lease that concerns challenges.
    pub const fn granted(&self) -> Granted {
        self.granted
    }

    /// Selects the ports to challenge.
    pub fn choose(&mut self, judgement: &Judgement, snapshot: &Snapshot, datapath: &Datapath, at: Duration) {
        self.cookies.note(snapshot, datapath);
        self.open.follow(snapshot);
        let open = self.open.ports();
        self.protected.choose(&judgement.state, snapshot, &self.options.policy, self.options.mode, at);
        let policy = &self.options.policy;
        let max_half_open = |scope: Scope| match scope {
            Scope::Host => policy.host.max_half_open,
            Scope::Service(index) => policy.services.get(index).map_or(u64::MAX, |(_, limits)| limits.max_half_open),
            Scope::Protected(_) => u64::MAX,
        };
        match self.options.mode {
            ChallengeMode::Always => self.choice.choose_all(open, at),
            _ => self.choice.choose(
                &judgement.state,
                |port| scope_of(&self.options.services, port),
                &snapshot.ports,
                open,
                harm::is_refusing(snapshot),
                max_half_open,
                at,
            ),
        }
        let is_calm = judgement.state.phase() == Phase::Calm;
        let challenged = self.choice.chosen().keys().copied().filter(|port| !self.announcer.is_left_alone(*port));
        self.watchdog.note(&snapshot.ports, challenged.collect(), is_calm, at);
        if self.sends_cookies() {
            // Set before the first cookie is sent.
            self.cookies.extend(snapshot, datapath);
        }
        if self.watched_layout.replace(snapshot.listener_layout) != Some(snapshot.listener_layout) {
            let challenged = self.choice.chosen();
            self.watchdog.keep_only(|port| open.contains(&port) || challenged.contains_key(&port));
        }
    }

    /// Returns the kernel settings needed for cookies that will be sent or are still valid.
    pub fn wanted_settings(&mut self, settings: Option<&KernelSettings>, jiffies: u64) -> Vec<(&'static str, u64)> {
        self.cookies.wanted_settings(settings, jiffies)
    }

    /// Returns how SYNs are challenged where no cookies can be sent.
    const fn without_cookies(&self) -> Method {
        match self.options.method {
            ChallengeMethod::Auto | ChallengeMethod::Reset if self.secrets.is_some() => Method::Reset,
            _ => Method::Retransmit,
        }
    }

    fn sends_cookies(&self) -> bool {
        self.options.is_on()
            && self.knows_local
            && self.lacking.is_none()
            && self.options.wants_cookies()
            && self
                .choice
                .chosen()
                .keys()
                .any(|port| !self.open.redirected().contains(port) && self.reason_to_leave_alone(*port).is_none())
    }

    /// Returns when the last cookie sent expires, in jiffies.
    pub const fn cookies_until(&self) -> u64 {
        self.cookies.until()
    }

    /// Updates the challenge parameters in the datapath, after the kernel settings were changed.
    pub fn apply(
        &mut self,
        snapshot: &Snapshot,
        datapath: &Datapath,
        settings: Option<&KernelSettings>,
        knows_local: bool,
        strays: PortFilter,
        at: Duration,
    ) -> ChallengeStatus {
        self.strays = strays;
        self.granted.flags = 0;
        self.knows_local = knows_local;
        if !self.options.is_on() {
            return self.observe_only();
        }
        self.follow_key();
        match self.try_apply(snapshot, datapath, settings, at) {
            Ok(status) => {
                self.announcer.announce(&status, self.options.wants_cookies());
                status
            }
            Err(error) => {
                // Everything is written anew with the next tick.
                self.ports = None;
                self.announcer.failed(&error);
                ChallengeStatus { no_cookies: Some(error.to_string()), ..ChallengeStatus::default() }
            }
        }
    }

    /// Challenges nothing, and has handshakes whose SYN-ACKs take another way end with the client's ACK all the same.
    fn observe_only(&mut self) -> ChallengeStatus {
        self.ports = None;
        if let Err(error) = self.maps.set_terms(&self.protected.terms(None, false)) {
            self.announcer.failed(&error);
        }
        self.granted.flags = if self.protected.has_one_way() { flag::ONE_WAY } else { 0 };
        ChallengeStatus { protected: self.protected.status(None), ..ChallengeStatus::default() }
    }

    /// Takes over the key that gateways share when its file changes.
    fn follow_key(&mut self) {
        let (Some(file), Some(secrets)) = (&mut self.key_file, &mut self.secrets) else { return };
        match file.review(Instant::now()) {
            None => {}
            Some(Ok(key)) => {
                secrets.replace(key, SystemTime::now());
                self.announcer.key_changed();
            }
            Some(Err(problem)) => self.announcer.key_unusable(&problem),
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
            no_cookies: self.reason_for_no_cookies(settings, snapshot.clock.jiffies()),
            cookies_good_for: self.cookies.left(snapshot),
            ..ChallengeStatus::default()
        };
        let is_draining = self.cookies.is_draining(snapshot.clock.jiffies());
        // While draining, the kernel accepts cookies of the listeners that were prepared before.
        let has_setting = |wanted: u64| {
            settings.is_some_and(|settings| settings.number(COOKIES_SETTING).is_ok_and(|number| number == wanted))
        };
        let takes_cookies = has_setting(COOKIES_ALWAYS) || is_draining && has_setting(COOKIES_FOR_FULL_QUEUES);
        if !takes_cookies {
            self.readiness.forget();
        }
        self.readiness.expire(at);
        let facts = self.facts.get(settings, !self.choice.chosen().is_empty());
        let mtu = snapshot.interfaces.iter().filter_map(|interface| interface.mtu).min();
        let can_send = status.no_cookies.is_none() && takes_cookies;
        let basis = Basis {
            layout: snapshot.listener_layout,
            facts,
            mtu,
            is_authenticated: snapshot.tcp_ext.authenticated > 0,
            can_send,
            is_draining,
            strays: self.strays,
            redirected: self.open.redirected().clone(),
        };
        self.granted.timestamp_offset = timestamp_offset(datapath)?;
        let (ports, is_new) = self.ports_of(basis, &snapshot.listeners)?;
        let chosen = self.choice.chosen().keys().chain(self.watchdog.watched()).copied().collect();
        // Those whose challenge has just ended as well.
        let before = std::mem::replace(&mut self.watched, chosen);
        if is_new {
            self.readiness.keep_only(|port| ports.binary_search_by_key(&port, |(port, _)| *port).is_ok());
        }
        let watched = before.iter().chain(&self.watched).chain(&snapshot.changed_ports).chain(self.readiness.failed());
        let watched = watched.filter_map(|port| ports.binary_search_by_key(port, |(port, _)| *port).ok());
        let turn = self.turn.take(ports.len(), at);
        let places: BTreeSet<usize> = (if is_new { 0..ports.len() } else { turn }).chain(watched).collect();
        let mut changed = BTreeMap::new();
        for (port, port_terms) in places.into_iter().filter_map(|place| ports.get(place)) {
            let of_port = snapshot.listeners.of_port(*port);
            let terms = self.terms_of_port(*port, port_terms, of_port, can_send, datapath, &mut status, at)?;
            changed.insert(u32::from(*port), terms);
        }
        let of_protected = self.protected.terms(Some(self.without_cookies()), self.options.syn_per_second > 0);
        if is_new {
            self.maps.keep_only(|place| changed.contains_key(&place) || of_protected.contains_key(&place))?;
        }
        self.maps.set_terms(&of_protected)?;
        status.protected = self.protected.status(Some(self.without_cookies()));
        self.maps.set_terms(&changed)?;
        self.granted.flags = if self.maps.has_terms() { flag::CHALLENGE } else { 0 }
            | if self.maps.has(port_flag::WATCH_IPV4 | port_flag::WATCH_IPV6) { flag::STRAY_FILTER } else { 0 }
            | if self.maps.has(port_flag::ANY_RESET) { flag::RESETS } else { 0 }
            | if self.protected.has_one_way() { flag::ONE_WAY } else { 0 }
            | if is_draining { flag::CHALLENGE_PROVEN } else { 0 };
        let secrets = self.secrets.as_ref().map(|secrets| secrets.at(SystemTime::now()));
        (self.granted.secret, self.granted.secret_before) = secrets.unwrap_or_default();
        Ok(status)
    }

    /// Returns the general terms of every port, and whether those of any, or what else they depend on but the listeners, differ
    /// from the last tick.
    fn ports_of(&mut self, basis: Basis, listeners: &Listeners) -> Result<(TermsByPort, bool), DatapathError> {
        // What fails below is tried again with the next tick.
        let before = match self.ports.take() {
            Some((before, ports)) if before == basis => {
                self.ports = Some((before, Arc::clone(&ports)));
                return Ok((ports, false));
            }
            // A listener may have opened or closed.
            Some((before, ports)) => (Basis { layout: basis.layout, ..before } == basis).then_some(ports),
            None => None,
        };
        let (mut ports, endpoints) = terms::terms_of(listeners.all(), &basis.redirected, &basis.facts, basis.mtu);
        if basis.is_authenticated {
            ports.values_mut().for_each(|port| port.terms.flags |= port_flag::AUTHENTICATION_KEYS);
        }
        self.maps.set_endpoints(endpoints)?;
        let ports: TermsByPort = ports.into_iter().collect();
        self.ports = Some((basis, Arc::clone(&ports)));
        let is_new = before.is_none_or(|before| before != ports);
        Ok((ports, is_new))
    }

    /// Returns the parameters for one port, or `None` if it is not challenged.
    #[expect(clippy::too_many_arguments, reason = "one step of the caller's loop, separated for readability")]
    fn terms_of_port(
        &mut self,
        port: u16,
        port_terms: &PortTerms,
        listeners: &[Listener],
        can_send: bool,
        datapath: &Datapath,
        status: &mut ChallengeStatus,
        at: Duration,
    ) -> Result<Option<PortChallenge>, DatapathError> {
        let since = self.choice.chosen().get(&port).copied();
        // Cookies lead to nothing here. That may be an attacker's doing: another method is used instead.
        let without_cookies = self.reason_to_leave_alone(port);
        if let Some(reason) = &without_cookies
            && since.is_some()
        {
            status.left_alone.insert(port, reason.clone());
        }
        // A port without a listener is redirected: nothing here could accept a cookie.
        let can_send = can_send && without_cookies.is_none() && !listeners.is_empty();
        let changes = self.maps.listener_changes(port)?;
        let by_cookie = can_send
            && !port_terms.is_bound_to_interface
            && self.readiness.prepare(datapath, listeners, changes, at)?;
        let mut terms = PortChallenge { changes, ..port_terms.terms };
        if let Some(reason) = self.leave_family_alone(port, &mut terms) {
            status.left_alone.insert(port, reason);
            terms.flags |= if since.is_some() { flag_of(self.without_cookies()) } else { 0 };
        }
        let method = if by_cookie { Method::Cookie } else { self.without_cookies() };
        let waits = can_send && !port_terms.is_bound_to_interface && !by_cookie;
        // A listener that is not ready for a moment is no reason to switch to a slower method.
        if since.is_some() && !(waits && self.readiness.may_still_come(port, at)) {
            terms.flags |= flag_of(method);
        }
        let is_flooded = self.strays != PortFilter::Off && self.watchdog.is_mostly_served_here(port);
        if since.is_some() && by_cookie || is_flooded && self.strays == PortFilter::Drops {
            terms.flags |= self.stray_filters(port, port_terms);
        } else if is_flooded {
            terms.flags |= self.stray_filters(port, port_terms) & (port_flag::WATCH_IPV4 | port_flag::WATCH_IPV6);
        }
        if self.options.syn_per_second > 0 {
            terms.flags |= trigger_of(method);
        }
        if let Some(since) = since {
            let (lasts, is_guarded) =
                (at.saturating_sub(since), terms.has(port_flag::STRAY_FILTER_IPV4 | port_flag::STRAY_FILTER_IPV6));
            status.ports.push(ChallengedPort { port, method, lasts, is_guarded });
        }
        Ok(terms.has(ACTIVE).then_some(terms))
    }

    /// Returns the flags by which strays are dropped over the address families in which handshakes complete on this host.
    fn stray_filters(&self, port: u16, terms: &PortTerms) -> u32 {
        if terms.is_bound_to_interface {
            return 0;
        }
        let filters = [
            (Family::Ipv4, port_flag::WATCH_IPV4 | port_flag::STRAY_FILTER_IPV4),
            (Family::Ipv6, port_flag::WATCH_IPV6 | port_flag::STRAY_FILTER_IPV6),
        ];
        let served = filters.into_iter().filter(|(family, _)| self.watchdog.is_served_here(port, *family));
        served.map(|(_, flags)| flags).sum()
    }

    /// Returns why a port must not be challenged with cookies over either address family.
    fn reason_for_no_cookies_at(&self, port: u16) -> Option<String> {
        let [ipv4, ipv6] = Family::ALL.map(|family| self.watchdog.left_alone(port, family));
        ipv4.filter(|_| ipv6.is_some()).map(str::to_owned)
    }

    /// Returns why a port must not be challenged with cookies at all.
    fn reason_to_leave_alone(&self, port: u16) -> Option<String> {
        let elsewhere = || self.watchdog.is_served_elsewhere(port).map(str::to_owned);
        self.reason_for_no_cookies_at(port).or_else(elsewhere)
    }

    /// Removes an address family that must not be challenged with cookies from the port's parameters, and returns the
    /// reason.
    fn leave_family_alone(&self, port: u16, terms: &mut PortChallenge) -> Option<String> {
        let (family, any) = [(Family::Ipv4, port_flag::ANY_IPV4), (Family::Ipv6, port_flag::ANY_IPV6)]
            .into_iter()
            .find(|(family, _)| self.watchdog.left_alone(port, *family).is_some())?;
        // The family of single addresses is not known here.
        terms.flags &= !(any | port_flag::SOME_ADDRESSES);
        self.watchdog.left_alone(port, family).map(str::to_owned)
    }

    fn reason_for_no_cookies(&self, settings: Option<&KernelSettings>, jiffies: u64) -> Option<String> {
        if !self.options.wants_cookies() {
            return Some(format!("challenge.method is {:?}", self.without_cookies().name()));
        }
        if let Some(lacking) = &self.lacking {
            return Some(lacking.clone());
        }
        if !self.knows_local {
            return Some("the datapath does not know all addresses of the host".to_owned());
        }
        let Some(settings) = settings else { return Some("kernel settings cannot be changed".to_owned()) };
        let cookies = settings.number(COOKIES_SETTING);
        // Once listeners were prepared, the lower value suffices while draining.
        let is_prepared = self.cookies.is_draining(jiffies) && self.readiness.has_any();
        let wanted = if is_prepared { COOKIES_FOR_FULL_QUEUES } else { COOKIES_ALWAYS };
        if self.sends_cookies() && !cookies.as_ref().is_ok_and(|cookies| *cookies >= wanted) {
            let what = cookies.map_or_else(|error| error.to_string(), |cookies| format!("it is {cookies}"));
            return Some(format!("{COOKIES_SETTING} must be 2 and could not be changed: {what}"));
        }
        None
    }

    /// Reports that the datapath started to challenge SYNs to a place.
    pub fn note_triggered(&self, place: u32) {
        let what = u16::try_from(place).map_or_else(|_| self.protected.describe(place), |port| format!("port {port}"));
        self.announcer.triggered(&what, self.options.syn_per_second);
    }
}

/// Returns the flags of a port that is challenged.
const fn flag_of(method: Method) -> u32 {
    match method {
        Method::Cookie => port_flag::COOKIE | port_flag::WATCH_IPV4 | port_flag::WATCH_IPV6,
        Method::Reset => port_flag::RESET,
        Method::Retransmit => port_flag::RETRANSMIT,
    }
}

/// Returns the flag of a port that is challenged once its load exceeds the limit.
const fn trigger_of(method: Method) -> u32 {
    match method {
        Method::Cookie => port_flag::TRIGGERS_COOKIE,
        Method::Reset => port_flag::TRIGGERS_RESET,
        Method::Retransmit => port_flag::TRIGGERS_RETRANSMIT,
    }
}

/// The flags that make a port's parameters effective.
const ACTIVE: u32 = port_flag::ON | port_flag::TRIGGERS | port_flag::WATCH_IPV4 | port_flag::WATCH_IPV6;
