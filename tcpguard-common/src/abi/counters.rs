//! The counters of the datapath, kept per CPU, and their names. The names are those of `/stats`.

#[cfg(doc)]
use crate::drops::DropReason;
use crate::packet::{SegmentKind, Unread};

macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident => $name:literal,)*) => {
        /// A counter; its number is its index in the map.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Counter {
            $($(#[$doc])* $variant,)*
        }

        impl Counter {
            /// All counters, in the order of their indices.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Returns the name under which the counter is reported.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

counters! {
    /// Frames received.
    Packets => "packets",
    /// SYNs that began a handshake, from sources that have an entry in the source table.
    SynTracked => "syn_tracked",
    /// SYNs whose source got no entry because of a flood of new sources.
    SynUntracked => "syn_untracked",
    /// SYN-ACKs: answers to connections opened by this host.
    SynAck => "syn_ack",
    /// Segments with ACK and neither SYN nor RST.
    Ack => "ack",
    /// Resets.
    Rst => "rst",
    /// Segments with an invalid combination of flags.
    BadFlags => "bad_flags",
    /// See [`Unread::NotIp`].
    NotIp => "not_ip",
    /// See [`Unread::NotTcp`].
    NotTcp => "not_tcp",
    /// See [`Unread::LaterFragment`].
    LaterFragment => "later_fragment",
    /// See [`Unread::Truncated`].
    Truncated => "truncated",
    /// See [`Unread::BadIpHeader`].
    BadIpHeader => "bad_ip_header",
    /// See [`Unread::BadDataOffset`].
    BadDataOffset => "bad_data_offset",
    /// See [`Unread::TooManyExtensions`].
    TooManyExtensions => "too_many_extensions",
    /// SYNs that carried data.
    SynWithPayload => "syn_with_payload",
    /// SYNs recognised as retransmits, which began no handshake.
    SynRepeated => "syn_repeated",
    /// Resets that ended a half-open handshake.
    HandshakesReset => "handshakes_reset",
    /// Handshakes completed.
    Completed => "completed",
    /// The subset of `completed` whose source had no entry because of a flood of new sources.
    CompletedUntracked => "completed_untracked",
    /// SYN-ACKs that the kernel retransmitted.
    Retried => "retried",
    /// Entries added to the source table.
    SourcesAdmitted => "sources_admitted",
    /// Events lost because the ring buffer was full.
    EventsLost => "events_lost",
    /// SYNs addressed to another host, which are not judged.
    SynForwarded => "syn_forwarded",
    /// SYNs to a port whose listener closed recently (most likely a restart), which are not judged.
    SynClosed => "syn_closed",
    /// SYNs that began a handshake and were answered with a cookie.
    SynChallenged => "syn_challenged",
    /// SYNs recognised as retransmits and answered with a cookie again.
    SynChallengedAgain => "syn_challenged_again",
    /// The subset of `syn_challenged` and `syn_challenged_again` that could not be answered and passed.
    ChallengeFailed => "challenge_failed",
    /// Segments of no connection that returned a valid cookie for the first time.
    CookiesReturned => "cookies_returned",
    /// See [`DropReason::BadFlags`].
    DropBadFlags => "drop_bad_flags",
    /// See [`DropReason::BadDataOffset`].
    DropBadDataOffset => "drop_bad_data_offset",
    /// See [`DropReason::PortZero`].
    DropPortZero => "drop_port_zero",
    /// See [`DropReason::SynPayload`].
    DropSynPayload => "drop_syn_payload",
    /// See [`DropReason::Denied`].
    DropDenied => "drop_denied",
    /// See [`DropReason::Blocked`].
    DropBlocked => "drop_blocked",
    /// See [`DropReason::BlockedPrefix`].
    DropBlockedPrefix => "drop_blocked_prefix",
    /// See [`DropReason::RateLimit`].
    DropRateLimit => "drop_rate_limit",
    /// See [`DropReason::FirstSyn`].
    DropFirstSyn => "drop_first_syn",
    /// See [`DropReason::StrayAck`].
    DropStrayAck => "drop_stray_ack",
    /// See [`DropReason::StrayFin`].
    DropStrayFin => "drop_stray_fin",
    /// See [`DropReason::StrayRst`].
    DropStrayRst => "drop_stray_rst",
    /// See [`DropReason::SpentCookie`].
    DropSpentCookie => "drop_spent_cookie",
    /// Would have been dropped: see [`DropReason::BadFlags`].
    WouldBadFlags => "would_bad_flags",
    /// Would have been dropped: see [`DropReason::BadDataOffset`].
    WouldBadDataOffset => "would_bad_data_offset",
    /// Would have been dropped: see [`DropReason::PortZero`].
    WouldPortZero => "would_port_zero",
    /// Would have been dropped: see [`DropReason::SynPayload`].
    WouldSynPayload => "would_syn_payload",
    /// Would have been dropped: see [`DropReason::Denied`].
    WouldDenied => "would_denied",
    /// Would have been dropped: see [`DropReason::Blocked`].
    WouldBlocked => "would_blocked",
    /// Would have been dropped: see [`DropReason::BlockedPrefix`].
    WouldBlockedPrefix => "would_blocked_prefix",
    /// Would have been dropped: see [`DropReason::RateLimit`].
    WouldRateLimit => "would_rate_limit",
    /// Would have been dropped: see [`DropReason::FirstSyn`].
    WouldFirstSyn => "would_first_syn",
    /// Would have been dropped: see [`DropReason::StrayAck`].
    WouldStrayAck => "would_stray_ack",
    /// Would have been dropped: see [`DropReason::StrayFin`].
    WouldStrayFin => "would_stray_fin",
    /// Would have been dropped: see [`DropReason::StrayRst`].
    WouldStrayRst => "would_stray_rst",
    /// Would have been dropped: see [`DropReason::SpentCookie`].
    WouldSpentCookie => "would_spent_cookie",
}

/// The number of counters.
pub const COUNTERS: usize = Counter::ALL.len();

/// The counters of one CPU as stored in the map.
pub type Counts = [u64; COUNTERS];

impl From<Unread> for Counter {
    #[inline(always)]
    fn from(reason: Unread) -> Self {
        match reason {
            Unread::NotIp => Self::NotIp,
            Unread::NotTcp => Self::NotTcp,
            Unread::LaterFragment => Self::LaterFragment,
            Unread::Truncated => Self::Truncated,
            Unread::BadIpHeader => Self::BadIpHeader,
            Unread::BadDataOffset => Self::BadDataOffset,
            Unread::TooManyExtensions => Self::TooManyExtensions,
        }
    }
}

impl From<SegmentKind> for Counter {
    #[inline(always)]
    fn from(kind: SegmentKind) -> Self {
        match kind {
            SegmentKind::Syn => Self::SynTracked,
            SegmentKind::SynAck => Self::SynAck,
            SegmentKind::Ack => Self::Ack,
            SegmentKind::Rst => Self::Rst,
            SegmentKind::BadFlags => Self::BadFlags,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_counters_number_is_its_place() {
        for (place, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, place);
        }
    }

    #[test]
    fn names_are_unique() {
        let names: HashSet<_> = Counter::ALL.iter().map(|counter| counter.name()).collect();
        assert_eq!(names.len(), COUNTERS);
    }
}
