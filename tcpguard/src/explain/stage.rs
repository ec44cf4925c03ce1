//! The stages of the datapath, in the order in which a packet passes them (see `tcpguard-ebpf/src/main.rs`).

use tcpguard_common::{counters::Counter, drops::DropReason, packet::Unread};

macro_rules! stages {
    ($($(#[$doc:meta])* $stage:ident => $name:literal, [$($counter:ident),*];)*) => {
        /// The stage that decided on a packet's verdict.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Stage {
            $($(#[$doc])* $stage,)*
        }

        impl Stage {
            /// Every stage, in order.
            pub const ALL: &[Self] = &[$(Self::$stage,)*];

            /// Returns the name in the HTTP API and in messages.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$stage => $name,)* }
            }

            /// Returns the counters that identify this stage as the one that decided.
            const fn counters(self) -> &'static [Counter] {
                match self { $(Self::$stage => &[$(Counter::$counter),*],)* }
            }
        }
    };
}

stages! {
    /// Parsing: the frame holds no TCP segment that can be parsed.
    Parse => "parse", [NotIp, NotTcp, LaterFragment, Truncated, BadIpHeader, BadDataOffset, TooManyExtensions, DropBadDataOffset];
    /// Check for invalid TCP flags.
    Flags => "flags", [BadFlags, DropBadFlags];
    /// The stray filter, while the port is challenged.
    Guard => "guard", [DropStrayAck, DropStrayFin, DropStrayRst, DropSpentCookie, CookiesReturned];
    /// The segment is not a SYN and passes.
    NotASyn => "not_a_syn", [SynAck, Ack, Rst];
    /// Check for port 0.
    PortZero => "port_zero", [DropPortZero];
    /// The allow and deny lists.
    Rules => "rules", [DropDenied];
    /// Check for a SYN with data.
    Payload => "payload", [DropSynPayload];
    /// Blocks of the source or its prefix.
    Block => "block", [DropBlocked, DropBlockedPrefix];
    /// The rate limit of the source.
    Limit => "limit", [DropRateLimit];
    /// The challenge of unproven sources.
    Challenge => "challenge", [SynChallenged, SynChallengedAgain, DropFirstSyn];
    /// The SYN is for another host or a port that lost its listener, and is not accounted.
    Destination => "destination", [SynForwarded, SynClosed];
    /// The SYN is accounted to its source and passes.
    Account => "account", [SynTracked, SynUntracked, SynRepeated];
}

impl Stage {
    /// Returns the stage that decided on a packet that incremented these counters.
    pub fn of(counted: &[Counter]) -> Self {
        let decided =
            Self::ALL.iter().copied().find(|stage| stage.counters().iter().any(|counter| counted.contains(counter)));
        decided.unwrap_or(Self::NotASyn)
    }
}

/// Returns the reason why the frame could not be parsed, if one was counted.
pub(super) fn unread(counted: &[Counter]) -> Option<Unread> {
    Unread::ALL.into_iter().find(|reason| counted.contains(&Counter::from(*reason)))
}

/// Returns the reason why the packet was dropped, if one was counted.
pub(super) fn dropped(counted: &[Counter]) -> Option<DropReason> {
    DropReason::ALL.iter().copied().find(|reason| counted.contains(&reason.counter()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_to_drop_and_every_unread_frame_has_a_stage() {
        for reason in DropReason::ALL {
            let stages: Vec<_> =
                Stage::ALL.iter().filter(|stage| stage.counters().contains(&reason.counter())).collect();
            assert_eq!(stages.len(), 1, "{}", reason.name());
        }
        for reason in Unread::ALL {
            assert_eq!(Stage::of(&[Counter::from(reason)]), Stage::Parse);
        }
    }

    #[test]
    fn what_came_along_does_not_decide() {
        let counted = [Counter::SynWithPayload, Counter::SourcesAdmitted, Counter::SynTracked];
        assert_eq!(Stage::of(&counted), Stage::Account);
        assert_eq!(Stage::of(&[Counter::Ack, Counter::CookiesReturned]), Stage::Guard);
    }
}
