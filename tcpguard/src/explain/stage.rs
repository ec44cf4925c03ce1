//! The stages of the datapath, in the order in which a packet comes by (see `tcpguard-ebpf/src/main.rs`), and which
//! one decided.

use tcpguard_common::{counters::Counter, drops::DropReason, packet::Unread};

macro_rules! stages {
    ($($(#[$doc:meta])* $stage:ident => $name:literal, [$($counter:ident),*];)*) => {
        /// Where it was decided what becomes of a packet.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Stage {
            $($(#[$doc])* $stage,)*
        }

        impl Stage {
            /// Every stage, in order.
            pub const ALL: &[Self] = &[$(Self::$stage,)*];

            /// As it is shown.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$stage => $name,)* }
            }

            /// What a packet is counted as that was decided over here.
            const fn counters(self) -> &'static [Counter] {
                match self { $(Self::$stage => &[$(Counter::$counter),*],)* }
            }
        }
    };
}

stages! {
    /// It holds no TCP segment that can be read.
    Parse => "parse", [NotIp, NotTcp, LaterFragment, Truncated, BadIpHeader, BadDataOffset, TooManyExtensions, DropBadDataOffset];
    /// Its flags.
    Flags => "flags", [BadFlags, DropBadFlags];
    /// It belongs to no connection, while its port is challenged.
    Guard => "guard", [DropStrayAck, DropStrayFin, DropStrayRst, DropSpentCookie, CookiesReturned];
    /// It is no SYN: nothing is decided about it.
    NotASyn => "not_a_syn", [SynAck, Ack, Rst];
    /// Its ports.
    PortZero => "port_zero", [DropPortZero];
    /// The lists.
    Rules => "rules", [DropDenied];
    /// Its data.
    Payload => "payload", [DropSynPayload];
    /// A block of its source, or of its network.
    Block => "block", [DropBlocked, DropBlockedPrefix];
    /// What one source may send.
    Limit => "limit", [DropRateLimit];
    /// It is challenged.
    Challenge => "challenge", [SynChallenged, SynChallengedAgain, DropFirstSyn];
    /// It is not for this host, or nobody listens: it is not judged.
    Destination => "destination", [SynForwarded, SynClosed];
    /// It is accounted to its source, and goes on.
    Account => "account", [SynTracked, SynUntracked, SynRepeated];
}

impl Stage {
    /// Of a packet that was counted as these.
    pub fn of(counted: &[Counter]) -> Self {
        let decided =
            Self::ALL.iter().copied().find(|stage| stage.counters().iter().any(|counter| counted.contains(counter)));
        decided.unwrap_or(Self::NotASyn)
    }
}

/// What it is that could not be read.
pub(super) fn unread(counted: &[Counter]) -> Option<Unread> {
    Unread::ALL.into_iter().find(|reason| counted.contains(&Counter::from(*reason)))
}

/// Why it was dropped.
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
