//! Which stage of the packet pipeline decided on a packet, by what was counted.

use tcpguard_common::{
    abi::counters::{Counter, DropReason, Stage},
    packet::Unread,
};

/// Returns the stage that decided on a packet that incremented these counters.
pub fn decided_by(counted: &[Counter]) -> Stage {
    let decides = |stage: &Stage| counted.iter().any(|counter| counter.stage() == Some(*stage));
    Stage::ALL.iter().copied().find(decides).unwrap_or(Stage::NotASyn)
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
            assert_eq!(decided_by(&[reason.counter()]), reason.stage(), "{}", reason.name());
        }
        for reason in Unread::ALL {
            assert_eq!(decided_by(&[Counter::from(reason)]), Stage::Parse);
        }
    }

    #[test]
    fn what_came_along_does_not_decide() {
        let counted = [Counter::SynWithPayload, Counter::SourcesAdmitted, Counter::SynTracked];
        assert_eq!(decided_by(&counted), Stage::Account);
        assert_eq!(decided_by(&[Counter::Ack, Counter::CookiesReturned]), Stage::Stray);
    }
}
