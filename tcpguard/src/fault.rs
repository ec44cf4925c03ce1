//! Kill points: the steps that change something, at each of which tests kill the daemon, or have one of its threads hang.
//! Only binaries with debug assertions have them.

/// The environment variable with the number of the kill point at which the daemon is killed.
#[cfg(debug_assertions)]
pub const VARIABLE: &str = "TCPGUARD_KILL_AT";

/// Marks the place where the daemon is about to do `step`. The daemon is killed here, as by `kill -9`, if the
/// environment specifies the number of this point, counted in the order in which points are reached. Every point
/// reached is appended to the file named by `TCPGUARD_KILL_LOG`. The thread hangs here if `TCPGUARD_HANG_AT` is this step.
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
    static HANGS: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("TCPGUARD_HANG_AT").ok());
    static REACHED: AtomicU64 = AtomicU64::new(0);
    let number = REACHED.fetch_add(1, Ordering::Relaxed) + 1;
    if let Some(log) = &*LOG
        && let Ok(mut file) = std::fs::File::options().append(true).create(true).open(log)
    {
        // A failed write is not reported: a test that gets no list of points fails because of that.
        writeln!(file, "{number} {step}").ok();
    }
    while HANGS.as_deref() == Some(step) {
        std::thread::park();
    }
    if *AT == Some(number) {
        nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL).ok();
        // The signal may arrive a moment after `kill` returns.
        std::thread::park();
    }
}

/// Does nothing in a release binary.
#[cfg(not(debug_assertions))]
pub const fn point(_: &str) {}
