//! Why a frame is dropped: one name for each reason, which the counters, `/stats` and the docs share.

use crate::counters::Counter;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident => $name:literal, $drop:ident, $would:ident;)*) => {
        /// Why a frame is dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum DropReason {
            $($(#[$doc])* $variant,)*
        }

        impl DropReason {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name it is shown under.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Counts frames dropped for it.
            #[inline(always)]
            pub const fn counter(self) -> Counter {
                match self { $(Self::$variant => Counter::$drop,)* }
            }

            /// Counts frames that would have been dropped for it, if anything were dropped.
            #[inline(always)]
            pub const fn would_counter(self) -> Counter {
                match self { $(Self::$variant => Counter::$would,)* }
            }
        }
    };
}

reasons! {
    /// Flags that no TCP sends together: SYN with FIN or RST, FIN with RST, or neither SYN, RST nor ACK.
    BadFlags => "bad_flags", DropBadFlags, WouldBadFlags;
    /// A TCP data offset of less than five words.
    BadDataOffset => "bad_data_offset", DropBadDataOffset, WouldBadDataOffset;
    /// A SYN from or to port 0.
    PortZero => "port_zero", DropPortZero, WouldPortZero;
    /// A SYN with data, under attack, where no fast open is enabled.
    SynPayload => "syn_payload", DropSynPayload, WouldSynPayload;
    /// A SYN from a network that an operator denied.
    Denied => "denied", DropDenied, WouldDenied;
    /// A SYN from a source that is blocked for a while.
    Blocked => "blocked", DropBlocked, WouldBlocked;
    /// A SYN from an unproven source of a network that is blocked for a while.
    BlockedPrefix => "blocked_prefix", DropBlockedPrefix, WouldBlockedPrefix;
    /// A SYN beyond what one source may send.
    RateLimit => "rate_limit", DropRateLimit, WouldRateLimit;
    /// The first SYN of a connection, of a source that is not proven, where SYNs are challenged by waiting
    /// for them to be sent again.
    FirstSyn => "first_syn", DropFirstSyn, WouldFirstSyn;
    /// A segment with ACK that belongs to no connection and brings no valid cookie back, while its port is
    /// challenged.
    StrayAck => "stray_ack", DropStrayAck, WouldStrayAck;
    /// The same with FIN.
    StrayFin => "stray_fin", DropStrayFin, WouldStrayFin;
    /// A reset that belongs to no connection, while its port is challenged.
    StrayRst => "stray_rst", DropStrayRst, WouldStrayRst;
    /// A segment that brings a cookie back by which a connection was made already.
    SpentCookie => "spent_cookie", DropSpentCookie, WouldSpentCookie;
}

impl DropReason {
    /// Whether it is SYNs that are dropped for it.
    pub const fn is_of_syn(self) -> bool {
        !matches!(
            self,
            Self::BadFlags | Self::BadDataOffset | Self::StrayAck | Self::StrayFin | Self::StrayRst | Self::SpentCookie
        )
    }

    /// Whether it is a judgement that drops, rather than a list, or the frame's own fault.
    pub const fn is_of_attack(self) -> bool {
        matches!(self, Self::SynPayload | Self::Blocked | Self::BlockedPrefix | Self::RateLimit | Self::FirstSyn)
    }
}
