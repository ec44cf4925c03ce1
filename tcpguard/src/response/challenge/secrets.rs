//! The secrets of answers that clients reset ([`tcpguard_common::challenge::safe_reset`]): the key, and the epoch in which an
//! answer was made.

use std::time::{Duration, SystemTime};

use tcpguard_common::challenge::safe_reset::Secret;

/// How long an epoch lasts. Within it, an answer to the same SYN is the same.
const EPOCH: Duration = Duration::from_secs(64);
/// How long answers of the epoch before are accepted: longer than an answer and its reset take.
const UNDER_WAY: Duration = Duration::from_secs(8);

/// The key. It is drawn anew at each start: clients whose reset is under way then send their SYN once more.
pub struct Secrets {
    key: [u64; 2],
}

impl Secrets {
    /// Draws a key; `None` if the kernel has no random numbers.
    pub fn draw() -> Option<Self> {
        Some(Self { key: [getrandom::u64().ok()?, getrandom::u64().ok()?] })
    }

    /// Returns the present secret, and the one that resets under way were made with. Epochs follow the wall clock, so that
    /// gateways with the same key accept each other's.
    pub fn at(&self, now: SystemTime) -> (Secret, Secret) {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let epoch = since.as_secs() / EPOCH.as_secs();
        let is_new = since.as_secs() % EPOCH.as_secs() < UNDER_WAY.as_secs();
        let secret = |epoch| Secret { key: self.key, epoch };
        (secret(epoch), secret(if is_new { epoch.saturating_sub(1) } else { epoch }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epoch_before_is_accepted_for_a_moment() {
        let secrets = Secrets { key: [3, 4] };
        let epochs = |seconds: u64| {
            let (now, before) = secrets.at(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
            assert_eq!((now.key, before.key), (secrets.key, secrets.key));
            (now.epoch, before.epoch)
        };
        assert_eq!([0, 63, 64, 71, 72, 127, 128].map(epochs), [(0, 0), (0, 0), (1, 0), (1, 0), (1, 1), (1, 1), (2, 1)]);
    }

    #[test]
    fn keys_differ() {
        let keys = [Secrets::draw(), Secrets::draw()].map(|secrets| secrets.expect("random numbers").key);
        assert!(keys[0] != keys[1] && keys[0][0] != keys[0][1]);
    }
}
