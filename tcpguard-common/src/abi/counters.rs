//! The table of everything that the datapath counts: the counters, the reasons for which frames are dropped, and the
//! stages that decide.
//!
//! `/stats`, `/metrics`, `tcpguard explain` and docs/reference/drops.md are derived from this table. A new counter or
//! drop reason is a row here and the stage that uses it (docs/howto/add-a-counter.md, add-a-drop-reason.md).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    abi::watch::Watch,
    packet::{SegmentKind, Unread},
};

macro_rules! stages {
    ($($(#[doc = $doc:literal])+ $stage:ident $name:ident;)*) => {
        /// A stage of the packet pipeline (`tcpguard-ebpf/src/pipeline.rs`).
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Stage {
            $($(#[doc = $doc])+ $stage,)*
        }

        impl Stage {
            /// Every stage, in the order in which a packet passes them.
            pub const ALL: &[Self] = &[$(Self::$stage,)*];

            /// Returns the name in the HTTP API and in messages.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$stage => stringify!($name),)* }
            }
        }
    };
}

stages! {
    /// Parsing: the frame holds no TCP segment that can be parsed.
    Parse parse;
    /// Check for invalid TCP flags.
    Flags flags;
    /// The stray filter, while the port is challenged or strays flood the host.
    Stray guard;
    /// The segment is not a SYN and passes.
    NotASyn not_a_syn;
    /// Check for port 0.
    PortZero port_zero;
    /// Check for a source address that no remote host has.
    Source source;
    /// The allow and deny lists.
    Lists rules;
    /// Check for a SYN with data.
    Payload payload;
    /// The SYN is for another host or a port without a listener, and is not judged.
    Destination destination;
    /// The signatures of the flood in progress.
    Signature signature;
    /// Blocks of the source or its prefix.
    Block block;
    /// The rate limit of the source.
    RateLimit limit;
    /// The challenge of unproven sources.
    Challenge challenge;
    /// The SYN is accounted to its source and passes.
    Account account;
}

/// What one count of a counter stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// A frame, whatever it holds. All other counters of frames add up to this one.
    Frame,
    /// A frame without a TCP segment that can be parsed.
    Unparsed,
    /// A segment that is not a SYN.
    Segment,
    /// A SYN that began a handshake to be judged.
    SynBegun,
    /// A SYN that began none: a retransmit, or one that is not judged.
    SynNotBegun,
    /// A frame that was dropped.
    Dropped,
    /// A frame that passed, and would have been dropped if drops were enabled.
    WouldDrop,
    /// An event that is counted in addition to its frame, or without one.
    Event,
}

/// Why frames are dropped for a [`DropReason`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// No TCP implementation sends such a segment.
    Invalid,
    /// An operator's list entry.
    Operator,
    /// The judgement of the host, a service or a source.
    Judgement,
    /// The segment belongs to no connection.
    Stray,
    /// The SYN is for a port without a listener, which is no evidence of anything.
    Closed,
    /// The segment is an answer to tcpguard.
    Answer,
}

macro_rules! table {
    (
        $d:tt
        totals { $($total:ident $field:ident $help:literal, metric $metric:ident, $total_of:ident [$($total_stage:ident)?];)* }
        others { $($(#[doc = $doc:literal])+ $other:ident $name:ident, $other_of:ident [$($other_stage:ident)?];)* }
        drops { $($reason:ident $reason_name:ident $what:literal,
            counters $drop:ident $would:ident, $is_syn:literal $cause:ident [$reason_stage:ident], because $because:literal;)* }
    ) => {
        /// A counter. Its number is its index in the map.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Counter {
            $(#[doc = $help] $total,)*
            $($(#[doc = $doc])+ $other,)*
            $(#[doc = concat!("Frames dropped: ", $what)] $drop,)*
            $(#[doc = concat!("Frames that would be dropped if drops were enabled: ", $what)] $would,)*
        }

        impl Counter {
            /// Every counter, in the order of its index.
            pub const ALL: &[Self] = &[$(Self::$total,)* $(Self::$other,)* $(Self::$drop,)* $(Self::$would,)*];

            /// Returns the name in `tcpguard explain` and in logs.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$total => stringify!($field),)*
                    $(Self::$other => stringify!($name),)*
                    $(Self::$drop => concat!("drop_", stringify!($reason_name)),)*
                    $(Self::$would => concat!("would_", stringify!($reason_name)),)*
                }
            }

            /// Returns what is counted.
            pub const fn counted(self) -> Counted {
                match self {
                    $(Self::$total => Counted::$total_of,)*
                    $(Self::$other => Counted::$other_of,)*
                    $(Self::$drop => Counted::Dropped,)*
                    $(Self::$would => Counted::WouldDrop,)*
                }
            }

            /// Returns the stage that has decided on a frame that was counted here; `None` if the counter does not tell.
            pub const fn stage(self) -> Option<Stage> {
                match self {
                    $($(Self::$total => Some(Stage::$total_stage),)?)*
                    $($(Self::$other => Some(Stage::$other_stage),)?)*
                    $(Self::$drop => Some(Stage::$reason_stage),)*
                    _ => None,
                }
            }
        }

        /// The reason for which a frame is dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum DropReason {
            $(#[doc = $what] $reason,)*
        }

        impl DropReason {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$reason,)*];

            /// Returns the name in `/stats`, metrics and messages.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$reason => stringify!($reason_name),)* }
            }

            /// Returns what is dropped, for the documentation.
            pub const fn what(self) -> &'static str {
                match self { $(Self::$reason => $what,)* }
            }

            /// Returns why this frame is dropped, for `tcpguard explain`.
            pub const fn because(self) -> &'static str {
                match self { $(Self::$reason => $because,)* }
            }

            /// Returns the counter of the frames dropped.
            #[inline(always)]
            pub const fn counter(self) -> Counter {
                match self { $(Self::$reason => Counter::$drop,)* }
            }

            /// Returns the counter of the frames that would be dropped if drops were enabled.
            #[inline(always)]
            pub const fn would_counter(self) -> Counter {
                match self { $(Self::$reason => Counter::$would,)* }
            }

            /// Returns whether the frames dropped are SYNs.
            pub const fn is_syn(self) -> bool {
                match self { $(Self::$reason => $is_syn,)* }
            }

            /// Returns what the drop is based on.
            pub const fn cause(self) -> Cause {
                match self { $(Self::$reason => Cause::$cause,)* }
            }

            /// Returns the stage that drops.
            pub const fn stage(self) -> Stage {
                match self { $(Self::$reason => Stage::$reason_stage,)* }
            }
        }

        /// Calls a macro with the rows of the counters that `/stats` shows under `totals`: counter, field, help text and
        /// name of the metric.
        #[macro_export]
        macro_rules! for_each_total {
            ($d callback:ident) => { $d callback! { $($total $field $help, $metric;)* } };
        }
    };
}

table! {
    $
    // Shown in `/stats` under `totals`, and as metrics.
    totals {
        Packets packets "Frames received on guarded interfaces", metric packets, Frame [];
        SynAck syn_ack "SYN-ACKs received", metric syn_ack, Segment [NotASyn];
        Ack ack "Segments received with ACK and without SYN or RST", metric ack, Segment [NotASyn];
        Rst rst "Resets (RST) received", metric rst, Segment [NotASyn];
        Completed completed "Handshakes completed", metric completed, Event [];
        Retried retried "SYN-ACKs retransmitted by the kernel", metric syn_ack_retried, Event [];
        SynRepeated syn_repeated "SYNs recognised as retransmits", metric syn_repeated, SynNotBegun [Account];
        SynWithPayload syn_with_payload "SYNs that carried data", metric syn_with_payload, Event [];
        HandshakesReset handshakes_reset "Half-open handshakes ended by a reset", metric handshakes_reset, Event [];
        SynForwarded syn_forwarded "SYNs for other hosts; they are not judged",
            metric syn_forwarded, SynNotBegun [Destination];
        SynClosed syn_closed "SYNs to ports without a listener on this host; they are not judged",
            metric syn_closed, SynNotBegun [Destination];
    }
    // Shown elsewhere in `/stats`, or as a part of another number.
    others {
        /// SYNs that began a handshake, of sources with an entry in the source table.
        SynTracked syn_tracked, SynBegun [Account];
        /// SYNs whose source was not admitted to the source table because of a flood of new sources.
        SynUntracked syn_untracked, SynBegun [Account];
        /// SYNs that began a handshake and were answered with a cookie.
        SynChallenged syn_challenged, SynBegun [Challenge];
        /// Retransmitted SYNs that were answered with a cookie again.
        SynChallengedAgain syn_challenged_again, SynNotBegun [Challenge];
        /// SYNs that were answered so that their client resets them.
        SynPrompted syn_prompted, SynNotBegun [Challenge];
        /// Handshakes that began with a SYN that was sent again because the first one was challenged by reset or retransmit.
        SynCameBack syn_came_back, Event [];
        /// Segments with a flag combination that no TCP implementation sends, which passed.
        BadFlags bad_flags, Segment [Flags];
        /// See [`Unread::NotIp`].
        NotIp not_ip, Unparsed [Parse];
        /// See [`Unread::NotTcp`].
        NotTcp not_tcp, Unparsed [Parse];
        /// See [`Unread::LaterFragment`].
        LaterFragment later_fragment, Unparsed [Parse];
        /// See [`Unread::Truncated`].
        Truncated truncated, Unparsed [Parse];
        /// See [`Unread::BadIpHeader`].
        BadIpHeader bad_ip_header, Unparsed [Parse];
        /// See [`Unread::BadDataOffset`].
        BadDataOffset bad_data_offset, Unparsed [Parse];
        /// See [`Unread::TooManyTags`].
        TooManyTags too_many_tags, Unparsed [Parse];
        /// See [`Unread::TooManyExtensions`].
        TooManyExtensions too_many_extensions, Unparsed [Parse];
        /// See [`Unread::TinyFragment`].
        TinyFragment tiny_fragment, Unparsed [Parse];
        /// See [`Unread::FragmentedSyn`].
        FragmentedSyn fragmented_syn, Unparsed [Parse];
        /// Handshakes completed by sources that had not been admitted when their SYN arrived.
        CompletedUntracked completed_untracked, Event [];
        /// Sources admitted to the source table.
        SourcesAdmitted sources_admitted, Event [];
        /// Events lost because the ring buffer was full.
        EventsLost events_lost, Event [];
        /// SYNs that could not be answered with a cookie and passed.
        ChallengeFailed challenge_failed, Event [];
        /// Valid cookies returned.
        CookiesReturned cookies_returned, Event [Stray];
        /// Handshakes completed whose SYN has a signature.
        SignaturesRefuted signatures_refuted, Event [];
        /// Segments found to belong to no connection, dropped or not.
        Strays strays, Event [Stray];
    }
    drops {
        BadFlags bad_flags "SYN with FIN or RST, FIN with RST, or neither SYN, RST nor ACK.",
            counters DropBadFlags WouldBadFlags, false Invalid [Flags],
            because "this combination of flags is invalid in TCP";
        BadDataOffset bad_data_offset "A TCP data offset of less than five words.",
            counters DropBadDataOffset WouldBadDataOffset, false Invalid [Parse],
            because "its data offset is smaller than a TCP header";
        TooManyTags too_many_tags "More than two VLAN tags.",
            counters DropTooManyTags WouldTooManyTags, false Invalid [Parse],
            because "it has more VLAN tags than are read, and the kernel removes any number of tags with VLAN 0";
        TooManyExtensions too_many_extensions "More than six IPv6 extension headers, or more than 384 bytes of them.",
            counters DropTooManyExtensions WouldTooManyExtensions, false Invalid [Parse],
            because "its IPv6 extension headers are too many or too long to be read";
        TinyFragment tiny_fragment "A first fragment without its whole TCP header, or another one that begins within the TCP header.",
            counters DropTinyFragment WouldTinyFragment, false Invalid [Parse],
            because "it is a fragment that divides its TCP header";
        FragmentedSyn fragmented_syn "A SYN in fragments, or in an IPv6 packet of length 0 (a jumbogram).",
            counters DropFragmentedSyn WouldFragmentedSyn, false Invalid [Parse],
            because "it is a SYN in fragments, or in a jumbogram";
        DeniedFragment denied_fragment "A later fragment of a TCP packet, of a network on the deny list or from an address that no remote host has.",
            counters DropDeniedFragment WouldDeniedFragment, false Operator [Lists],
            because "it is a fragment from a network on the deny list, or from an address that no remote host has";
        PortZero port_zero "A SYN from or to port 0.",
            counters DropPortZero WouldPortZero, true Invalid [PortZero],
            because "port 0 is invalid in TCP";
        ImpossibleSource impossible_source "A SYN from an address that no remote host has: 0.0.0.0/8, 127.0.0.0/8, multicast, 240.0.0.0/4, ::/64, or one of the host's own.",
            counters DropImpossibleSource WouldImpossibleSource, true Invalid [Source],
            because "no remote host has its source address";
        SynPayload syn_payload "A SYN with data, during an attack on its port, where the kernel does not accept TCP fast open.",
            counters DropSynPayload WouldSynPayload, true Judgement [Payload],
            because "a SYN with data during an attack, and TCP fast open is not enabled";
        Denied denied "A SYN of a network on the deny list.",
            counters DropDenied WouldDenied, true Operator [Lists],
            because "its network is on the deny list";
        Signature signature "A SYN of the shape that a flood's SYNs have in common and hardly any client's has; one source in 256 is let through, in turn.",
            counters DropSignature WouldSignature, true Judgement [Signature],
            because "its header is that of the flood in progress, and hardly any client's is";
        ClosedPort closed_port "The first SYN of a connection to a port without a listener, while such ports are flooded; its retransmit passes.",
            counters DropClosedPort WouldClosedPort, true Closed [Destination],
            because "ports without a listener are flooded, and this is the first SYN of the connection: its retransmit passes";
        Blocked blocked "The first SYN of a connection from a blocked source; its retransmit passes.",
            counters DropBlocked WouldBlocked, true Judgement [Block],
            because "this is the first SYN of its connection (a retransmit passes), and its source is blocked";
        BlockedPrefix blocked_prefix "The first SYN of a connection from a blocked prefix whose source has not completed a handshake; its retransmit passes.",
            counters DropBlockedPrefix WouldBlockedPrefix, true Judgement [Block],
            because "this is the first SYN of its connection (a retransmit passes), its source is not proven, and its prefix is blocked";
        RateLimit rate_limit "The first SYN of a connection above `source.syn_per_second`; completed handshakes do not count. Its retransmit passes.",
            counters DropRateLimit WouldRateLimit, true Judgement [RateLimit],
            because "this is the first SYN of its connection (a retransmit passes), and its source exceeds source.syn_per_second";
        FirstSyn first_syn "The first SYN of a connection to a port that is challenged by retransmit; its retransmit passes.",
            counters DropFirstSyn WouldFirstSyn, true Judgement [Challenge],
            because "its port is challenged, and this is the first SYN of the connection: its retransmit passes";
        ReturnedReset returned_reset "A reset by which a client answers a challenge; its next SYN passes.",
            counters DropReturnedReset WouldReturnedReset, false Answer [Challenge],
            because "it answers a challenge of tcpguard's, and is not meant for the kernel: the next SYN of its connection passes";
        SignedSyn signed_syn "A SYN with an MD5 signature or authentication option to a challenged port without keys, from a source that is not on the allow list.",
            counters DropSignedSyn WouldSignedSyn, false Judgement [Challenge],
            because "its port is challenged, and it claims to be signed, but no listener of the port has keys";
        StrayAck stray_ack "A segment with ACK that belongs to no connection and returns no valid cookie, to a challenged port or while strays flood the host.",
            counters DropStrayAck WouldStrayAck, false Stray [Stray],
            because "it belongs to no connection and returns no valid cookie, and its port is challenged or strays flood the host";
        StrayFin stray_fin "A segment with FIN that belongs to no connection and returns no valid cookie, likewise.",
            counters DropStrayFin WouldStrayFin, false Stray [Stray],
            because "it belongs to no connection and returns no valid cookie, and its port is challenged or strays flood the host";
        StraySynAck stray_syn_ack "A SYN-ACK that belongs to no connection, likewise.",
            counters DropStraySynAck WouldStraySynAck, false Stray [Stray],
            because "it belongs to no connection, and its port is challenged or strays flood the host";
        StrayRst stray_rst "A reset that belongs to no connection, likewise.",
            counters DropStrayRst WouldStrayRst, false Stray [Stray],
            because "it belongs to no connection and returns no valid cookie, and its port is challenged or strays flood the host";
        SpentCookie spent_cookie "A segment that returns a cookie which has already created a connection.",
            counters DropSpentCookie WouldSpentCookie, false Stray [Stray],
            because "its cookie has already been used for a connection";
    }
}

/// The version of the table, which increases whenever a row is added, removed or moved: a daemon takes over the counters of
/// the previous one only if both have the same.
pub const COUNTS_VERSION: u32 = 7;

/// The number of counters.
pub const COUNTERS: usize = Counter::ALL.len();

/// The counters.
pub type Counts = [u64; COUNTERS];

/// What one CPU counts: the element of the map.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CpuCounts {
    /// The counters.
    pub counts: Counts,
    /// Next to them, because both are written for the same packets.
    pub watch: Watch,
}

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
            Unread::TooManyTags => Self::TooManyTags,
            Unread::TooManyExtensions => Self::TooManyExtensions,
            Unread::TinyFragment => Self::TinyFragment,
            Unread::FragmentedSyn => Self::FragmentedSyn,
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

    #[test]
    fn every_frame_that_is_counted_has_a_stage_that_decided() {
        for counter in Counter::ALL {
            let is_outcome = !matches!(counter.counted(), Counted::Frame | Counted::Event | Counted::WouldDrop);
            assert!(!is_outcome || counter.stage().is_some(), "{}", counter.name());
        }
    }
}
