//! Events, and the table of their kinds.

use documented::DocumentedVariants;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

macro_rules! event_kinds {
    ($($(#[doc = $doc:literal])+ $kind:ident => $name:literal,)*) => {
        /// The kind of an event.
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema, DocumentedVariants,
        )]
        #[serde(rename_all = "snake_case")]
        pub enum EventKind {
            $($(#[doc = $doc])+ $kind,)*
        }

        impl EventKind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// Returns the name used in the API, the store and the documentation.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }
        }
    };
}

event_kinds! {
    /// The host or a service came under attack.
    AttackStarted => "attack_started",
    /// The attack ended.
    AttackEnded => "attack_ended",
    /// The state of the host or of a service changed.
    StateChanged => "state_changed",
    /// The attack was classified as a different kind.
    KindChanged => "kind_changed",
    /// A source was blocked.
    SourceBlocked => "source_blocked",
    /// A prefix was blocked.
    PrefixBlocked => "prefix_blocked",
    /// An operator lifted a block.
    BlockLifted => "block_lifted",
    /// A SYN of a source was dropped for the first time.
    FirstDrop => "first_drop",
    /// A list changed: an entry was added, removed or expired, or a deny file was loaded.
    ListChanged => "list_changed",
    /// A list entry could not be applied, or a deny file could not be read completely.
    ListProblem => "list_problem",
    /// A kernel setting was changed, or could not be changed.
    KernelSettingChanged => "kernel_setting_changed",
    /// A kernel setting was restored to its original value.
    KernelSettingRestored => "kernel_setting_restored",
    /// An application accepts connections too slowly.
    SlowApplication => "slow_application",
    /// A listener's backlog is too small; the message says how to raise it.
    BacklogAdvice => "backlog_advice",
    /// Many handshakes of a port are half open for its backlog, below the thresholds. No measures are taken.
    BacklogFilling => "backlog_filling",
    /// The datapath started to challenge a port by itself because of its SYN rate.
    ChallengeTriggered => "challenge_triggered",
    /// A port is not challenged, or no longer challenged, although it should be.
    ChallengeEnded => "challenge_ended",
    /// No cookies can be sent; first SYNs are dropped instead.
    ChallengeDegraded => "challenge_degraded",
    /// The key that gateways share changed, or its file cannot be used.
    KeyChanged => "key_changed",
    /// A flood of ports without a listener began or ended. It is no attack, and blocks nobody.
    ClosedPortsFlooded => "closed_ports_flooded",
    /// SYNs of a flood look alike, and hardly any client's do: they are dropped.
    SignatureLearned => "signature_learned",
    /// SYNs that look alike are no longer dropped.
    SignatureEnded => "signature_ended",
    /// A source sent SYNs to many ports. It is no attack, and blocks nobody.
    PortScan => "port_scan",
    /// The daemon uses more of the processor in calm than `limits.cpu_share`, and looks less often.
    LookingLessOften => "looking_less_often",
    /// The configuration was reloaded.
    ConfigReloaded => "config_reloaded",
    /// The HTTP address is in use. The host is guarded, without dashboard and metrics, until it is free.
    HttpUnavailable => "http_unavailable",
    /// The clock was set, or the host was suspended.
    ClockJumped => "clock_jumped",
    /// A notification about an attack could not be delivered.
    NotifyFailed => "notify_failed",
    /// Events of one kind were omitted because there were too many.
    EventsLeftOut => "events_left_out",
}

/// An event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Increases with every event, also across restarts.
    pub id: u64,
    /// When the event occurred.
    pub time: Timestamp,
    /// The kind of event.
    pub kind: EventKind,
    /// What happened, in one sentence.
    pub message: String,
    /// What the event is about: an address, a network, a kernel setting, a port.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub subject: Option<String>,
    /// The kind of attack.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub attack: Option<String>,
    /// The measured values behind the event, one sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub evidence: Vec<String>,
    /// True if the action was only reported and not taken, because `syn_attack_protect` does not allow it.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub watch_only: bool,
}

/// An event that has not been recorded yet.
#[derive(Clone, Debug)]
pub struct Note(pub(super) Event);

impl Note {
    /// Creates an event of the present time, without subject, attack kind or evidence.
    pub fn new(kind: EventKind, message: impl Into<String>) -> Self {
        Self(Event {
            id: 0,
            time: Timestamp::now(),
            kind,
            message: message.into(),
            subject: None,
            attack: None,
            evidence: Vec::new(),
            watch_only: false,
        })
    }

    /// Sets the subject: an address, a network, a kernel setting, a port.
    #[must_use]
    pub fn about(mut self, subject: impl ToString) -> Self {
        self.0.subject = Some(subject.to_string());
        self
    }

    /// Sets the kind of attack.
    #[must_use]
    pub fn attack(mut self, kind: Option<&str>) -> Self {
        self.0.attack = kind.map(str::to_owned);
        self
    }

    /// Sets the evidence.
    #[must_use]
    pub fn evidence(mut self, evidence: Vec<String>) -> Self {
        self.0.evidence = evidence;
        self
    }

    /// Marks the event as only reported: the action was not taken.
    #[must_use]
    pub const fn watch_only(mut self, watch_only: bool) -> Self {
        self.0.watch_only = watch_only;
        self
    }
}
