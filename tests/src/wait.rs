//! Waiting for a condition instead of a fixed time.

use std::{
    fmt::Debug,
    panic::resume_unwind,
    sync::atomic::{AtomicBool, Ordering},
    thread::{self, sleep},
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

/// Tells what runs beside something else whether to go on.
pub type GoesOn<'a> = &'a (dyn Fn() -> bool + Sync);

/// Runs `work`, and `other` beside it until `work` ends or panics: what `other` is called with then returns false.
///
/// # Errors
/// Returns the error of `work`, or else that of `other`.
pub fn beside<T, U: Send>(
    other: impl FnOnce(GoesOn<'_>) -> Result<U> + Send,
    work: impl FnOnce() -> Result<T>,
) -> Result<(T, U)> {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let other = scope.spawn(|| other(&|| !is_over.load(Ordering::Relaxed)));
        let end = SetAtEnd(&is_over);
        let result = work();
        drop(end);
        let other = other.join().unwrap_or_else(|panic| resume_unwind(panic));
        Ok((result?, other?))
    })
}

/// Sets a flag when dropped, also by a panic: whoever runs until the flag is set would go on for ever otherwise.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
