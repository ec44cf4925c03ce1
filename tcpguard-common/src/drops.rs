//! Drop reasons. Each has one name, which the counters, `/stats` and the documentation share.

use crate::counters::Counter;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident => $name:literal, $drop:ident, $would:ident;)*) => {
        /// The reason why a frame is dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum DropReason {
            $($(#[$doc])* $variant,)*
        }

        impl DropReason {
            /// All reasons.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Returns the name under which the reason is reported.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Returns the counter of frames dropped for this reason.
            #[inline(always)]
            pub const fn counter(self) -> Counter {
                match self { $(Self::$variant => Counter::$drop,)* }
            }

            /// Returns the counter of frames that would have been dropped for this reason, if dropping were
            /// enabled.
            #[inline(always)]
            pub const fn would_counter(self) -> Counter {
                match self { $(Self::$variant => Counter::$would,)* }
            }
        }
    };
}

reasons! {
    /// An invalid combination of flags: SYN with FIN or RST, FIN with RST, or neither SYN, RST nor ACK.
    BadFlags => "bad_flags", DropBadFlags, WouldBadFlags;
    /// A TCP data offset of less than five words.
    BadDataOffset => "bad_data_offset", DropBadDataOffset, WouldBadDataOffset;
    /// A SYN from or to port 0.
    PortZero => "port_zero", DropPortZero, WouldPortZero;
    /// A SYN with data during an attack, where TCP Fast Open is not enabled.
    SynPayload => "syn_payload", DropSynPayload, WouldSynPayload;
    /// A SYN from a network denied by an operator.
    Denied => "denied", DropDenied, WouldDenied;
    /// A SYN from a source that is temporarily blocked.
    Blocked => "blocked", DropBlocked, WouldBlocked;
    /// A SYN from an unproven source in a network that is temporarily blocked.
    BlockedPrefix => "blocked_prefix", DropBlockedPrefix, WouldBlockedPrefix;
    /// A SYN above the rate limit of its source.
    RateLimit => "rate_limit", DropRateLimit, WouldRateLimit;
    /// The first SYN of a connection from an unproven source, where SYNs are challenged by waiting for their
    /// retransmit.
    FirstSyn => "first_syn", DropFirstSyn, WouldFirstSyn;
    /// A segment with ACK that belongs to no connection and returns no valid cookie, while its port is
    /// challenged.
    StrayAck => "stray_ack", DropStrayAck, WouldStrayAck;
    /// A segment with FIN that belongs to no connection and returns no valid cookie, while its port is
    /// challenged.
    StrayFin => "stray_fin", DropStrayFin, WouldStrayFin;
    /// A reset that belongs to no connection, while its port is challenged.
    StrayRst => "stray_rst", DropStrayRst, WouldStrayRst;
    /// A segment that returns a cookie which has already created a connection.
    SpentCookie => "spent_cookie", DropSpentCookie, WouldSpentCookie;
}

impl DropReason {
    /// Returns whether the frames dropped for this reason are SYNs.
    pub const fn is_of_syn(self) -> bool {
        !matches!(
            self,
            Self::BadFlags | Self::BadDataOffset | Self::StrayAck | Self::StrayFin | Self::StrayRst | Self::SpentCookie
        )
    }

    /// Returns whether the reason results from a judgement rather than from a list or an invalid frame.
    pub const fn is_of_attack(self) -> bool {
        matches!(self, Self::SynPayload | Self::Blocked | Self::BlockedPrefix | Self::RateLimit | Self::FirstSyn)
    }
}
