//! Waiting for what will be, instead of for a time.

use std::{
    fmt::Debug,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);

/// Looks again and again until `is_right` of what it sees, for ten seconds; returns that.
///
/// # Errors
/// Returns an error if it never was right: with what was seen last; or where looking failed.
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
            bail!("{what}: after {PATIENCE:?} it still was {seen:#?}");
        }
        sleep(PAUSE);
    }
}
