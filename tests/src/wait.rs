//! Waiting for a condition instead of a fixed time.

use std::{
    fmt::Debug,
    sync::atomic::{AtomicBool, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);

/// Calls `look` until `is_right` accepts its value, for up to ten seconds, and returns that value.
///
/// # Errors
/// Returns an error with the last value if none was accepted in time, or the error of `look`.
pub fn eventually<T: Debug>(
    what: &str,
    mut look: impl FnMut() -> Result<T>,
    is_right: impl Fn(&T) -> bool,
) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = look()?;
        if is_right(&seen) {
            return Ok(seen);
        }
        if Instant::now() > deadline {
            bail!("{what}: not within {PATIENCE:?}; last seen: {seen:#?}");
        }
        sleep(PAUSE);
    }
}

/// Sets a flag when dropped, also by a panic: whoever runs until the flag is set would go on for ever otherwise.
pub struct SetAtEnd<'a>(pub &'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
