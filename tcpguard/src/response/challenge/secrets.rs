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
    /// What answers were made with before the key was replaced, and until when they are accepted.
    replaced: Option<(Secret, SystemTime)>,
}

impl Secrets {
    /// Draws a key; `None` if the kernel has no random numbers. It is drawn anew at each start: clients whose reset is under way
    /// then send their SYN once more.
    pub fn draw() -> Option<Self> {
        Some(Self::of([getrandom::u64().ok()?, getrandom::u64().ok()?]))
    }

    const fn of(key: Key) -> Self {
        Self { key, replaced: None }
    }

    /// Replaces the key. What was answered with the present one is accepted for an epoch.
    pub fn replace(&mut self, key: Key, now: SystemTime) {
        if key != self.key {
            self.replaced = Some((Secret { key: self.key, epoch: epoch(now) }, now + EPOCH));
            self.key = key;
        }
    }

    /// Returns the present secret, and the one that resets under way were made with. Epochs follow the wall clock, so that
    /// gateways with the same key accept each other's.
    ///
    /// Two are accepted at most, since each more would make guessing easier: where the key was replaced, that is the one of
    /// before.
    pub fn at(&self, now: SystemTime) -> (Secret, Secret) {
        let present = Secret { key: self.key, epoch: epoch(now) };
        if let Some((replaced, _)) = self.replaced.filter(|(_, until)| now < *until) {
            return (present, replaced);
        }
        let is_new = since_epoch(now).as_secs() % EPOCH.as_secs() < UNDER_WAY.as_secs();
        let before = if is_new { present.epoch.saturating_sub(1) } else { present.epoch };
        (present, Secret { epoch: before, ..present })
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
    fn the_epoch_before_is_accepted_for_a_moment() {
        let secrets = Secrets::of([3, 4]);
        let epochs = |seconds: u64| {
            let (now, before) = secrets.at(at(seconds));
            assert_eq!((now.key, before.key), (secrets.key, secrets.key));
            (now.epoch, before.epoch)
        };
        assert_eq!([0, 63, 64, 71, 72, 127, 128].map(epochs), [(0, 0), (0, 0), (1, 0), (1, 0), (1, 1), (1, 1), (2, 1)]);
    }

    #[test]
    fn a_key_that_was_replaced_is_accepted_for_an_epoch() {
        let mut secrets = Secrets::of([3, 4]);
        secrets.replace([5, 6], at(100));
        let old = Secret { key: [3, 4], epoch: 1 };
        assert_eq!(secrets.at(at(100)), (Secret { key: [5, 6], epoch: 1 }, old));
        assert_eq!(secrets.at(at(163)), (Secret { key: [5, 6], epoch: 2 }, old));
        let new = Secret { key: [5, 6], epoch: 2 };
        assert_eq!(secrets.at(at(164)), (new, new));
        secrets.replace([5, 6], at(164));
        assert_eq!(secrets.at(at(164)), (new, new), "it is the same");
    }

    #[test]
    fn keys_differ() {
        let keys = [Secrets::draw(), Secrets::draw()].map(|secrets| secrets.expect("random numbers").key);
        assert!(keys[0] != keys[1] && keys[0][0] != keys[0][1]);
    }
}
