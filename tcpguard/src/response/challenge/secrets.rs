//! The secrets of answers that clients reset ([`tcpguard_common::challenge::safe_reset`]): the key, and the epoch in which an
//! answer was made.

use std::time::{Duration, SystemTime};

use tcpguard_common::challenge::safe_reset::Secret;

/// How long an epoch lasts. Within it, an answer to the same SYN is the same.
const EPOCH: Duration = Duration::from_secs(64);
/// How long answers of the epoch before are accepted: longer than an answer and its reset take.
const UNDER_WAY: Duration = Duration::from_secs(8);

/// The key of [`Secret`].
pub type Key = [u64; 2];

/// The key, and the one before.
pub struct Secrets {
    key: Key,
    /// Nobody else has the key.
    is_own: bool,
    /// The key of before, and until when what was made with it is accepted.
    replaced: Option<(Key, SystemTime)>,
}

impl Secrets {
    /// Draws a key; `None` if the kernel has no random numbers. It is drawn anew at each start: clients whose reset is under way
    /// then send their SYN once more.
    pub fn draw() -> Option<Self> {
        let key = [getrandom::u64().ok()?, getrandom::u64().ok()?];
        Some(Self { is_own: true, ..Self::of(key) })
    }

    const fn of(key: Key) -> Self {
        Self { key, is_own: false, replaced: None }
    }

    /// Replaces the key. What is answered with the present one, by this gateway before and by others that have not replaced it
    /// yet, is accepted for an epoch.
    pub fn replace(&mut self, key: Key, now: SystemTime) {
        if key != self.key {
            // The key drawn at the start is not worth more than the epoch before of the shared one.
            self.replaced = (!self.is_own).then_some((self.key, now + EPOCH));
            (self.key, self.is_own) = (key, false);
        }
    }

    /// Returns the present secret, and another one that is accepted: resets under way were made with it. Epochs follow the wall clock, so that
    /// gateways with the same key accept each other's.
    ///
    /// Two are accepted at most, since each more would make guessing easier: where the key was replaced, that is the one of
    /// before.
    pub fn at(&self, now: SystemTime) -> (Secret, Secret) {
        let present = Secret { key: self.key, epoch: epoch(now) };
        if let Some((replaced, _)) = self.replaced.filter(|(_, until)| now < *until) {
            return (present, Secret { key: replaced, ..present });
        }
        let seconds = since_epoch(now).as_secs() % EPOCH.as_secs();
        let other = if seconds < UNDER_WAY.as_secs() {
            present.epoch.saturating_sub(1)
        } else if seconds >= (EPOCH - UNDER_WAY).as_secs() {
            // Of a gateway whose clock is ahead.
            present.epoch + 1
        } else {
            present.epoch
        };
        (present, Secret { epoch: other, ..present })
    }
}

fn epoch(now: SystemTime) -> u64 {
    since_epoch(now).as_secs() / EPOCH.as_secs()
}

fn since_epoch(now: SystemTime) -> Duration {
    now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn the_epoch_before_and_the_next_are_accepted_for_a_moment() {
        let secrets = Secrets::of([3, 4]);
        let epochs = |seconds: u64| {
            let (now, before) = secrets.at(at(seconds));
            assert_eq!((now.key, before.key), (secrets.key, secrets.key));
            (now.epoch, before.epoch)
        };
        let expected = [(0, 0), (0, 0), (0, 1), (0, 1), (1, 0), (1, 0), (1, 1), (1, 1), (1, 2), (2, 1)];
        assert_eq!([0, 55, 56, 63, 64, 71, 72, 119, 127, 128].map(epochs), expected);
    }

    #[test]
    fn a_key_that_was_replaced_is_accepted_for_an_epoch() {
        let mut secrets = Secrets::of([3, 4]);
        secrets.replace([5, 6], at(100));
        let both = |epoch| (Secret { key: [5, 6], epoch }, Secret { key: [3, 4], epoch });
        assert_eq!([100, 163].map(|seconds| secrets.at(at(seconds))), [both(1), both(2)]);
        let new = Secret { key: [5, 6], epoch: 2 };
        assert_eq!(secrets.at(at(164)), (new, new));
        secrets.replace([5, 6], at(164));
        assert_eq!(secrets.at(at(164)), (new, new), "it is the same");
    }

    #[test]
    fn the_key_drawn_at_the_start_gives_way_at_once() {
        let mut secrets = Secrets::draw().expect("random numbers");
        secrets.replace([5, 6], at(130));
        let shared = |epoch| Secret { key: [5, 6], epoch };
        assert_eq!(secrets.at(at(130)), (shared(2), shared(1)));
    }

    #[test]
    fn keys_differ() {
        let keys = [Secrets::draw(), Secrets::draw()].map(|secrets| secrets.expect("random numbers").key);
        assert!(keys[0] != keys[1] && keys[0][0] != keys[0][1]);
    }
}
