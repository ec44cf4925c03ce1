//! Points at which tests kill the daemon: at each step that changes something. Only binaries with debug assertions
//! have them.

/// What the number of the point to be killed at is named in the environment.
#[cfg(debug_assertions)]
pub const VARIABLE: &str = "TCPGUARD_KILL_AT";

/// Where the daemon is about to do what `step` says. It is killed here, as by `kill -9`, where the environment names
/// the number of this point, in the order in which points are reached; every point is written to the file that
/// `TCPGUARD_KILL_LOG` names.
#[cfg(debug_assertions)]
pub fn point(step: &str) {
    use std::{
        io::Write,
        sync::{
            LazyLock,
            atomic::{AtomicU64, Ordering},
        },
    };

    static AT: LazyLock<Option<u64>> = LazyLock::new(|| std::env::var(VARIABLE).ok()?.parse().ok());
    static LOG: LazyLock<Option<std::ffi::OsString>> = LazyLock::new(|| std::env::var_os("TCPGUARD_KILL_LOG"));
    static REACHED: AtomicU64 = AtomicU64::new(0);
    let number = REACHED.fetch_add(1, Ordering::Relaxed) + 1;
    if let Some(log) = &*LOG
        && let Ok(mut file) = std::fs::File::options().append(true).create(true).open(log)
    {
        // A test that gets no list of points fails by that.
        writeln!(file, "{number} {step}").ok();
    }
    if *AT == Some(number) {
        nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL).ok();
        // The signal arrives before this returns, or a moment later.
        std::thread::park();
    }
}

/// Nothing, in a binary for users.
#[cfg(not(debug_assertions))]
pub const fn point(_: &str) {}
