//! One lab test at a time on this machine, in whichever process, because most tests load both processors or look at what
//! all namespaces share. Those in [`xtask::side_by_side`] run beside each other, but not beside the rest.
//!
//! The lock is a file that is locked (`flock`) for as long as a network namespace of the test exists, shared or
//! exclusively. It holds between the threads of one test binary and between test runs, started by `cargo xtask lab` or by
//! plain `cargo test`.

use std::{
    cell::{Cell, RefCell},
    fs::File,
    path::Path,
    sync::{Arc, Weak},
    thread,
};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use xtask::side_by_side::runs_side_by_side;

const NAME: &str = "tcpguard-lab.lock";

thread_local! {
    static HELD: RefCell<Weak<MachineLock>> = const { RefCell::new(Weak::new()) };
    static SHARES: Cell<bool> = const { Cell::new(false) };
}

/// Keeps other lab tests waiting until the last copy is dropped.
#[derive(Debug)]
pub struct MachineLock(#[expect(dead_code, reason = "it unlocks the file when it is dropped")] Flock<File>);

/// Has the calling test run beside others: it does little but wait, and nothing it measures depends on them.
pub fn share_machine() {
    SHARES.set(true);
}

/// Waits until no other test has the machine. Returns the lock that this test already has where it has one, and `None`
/// for tests that share the machine and for the threads that a test starts, which run under its lock.
///
/// # Errors
/// Returns an error if the file cannot be made or locked.
pub fn lock_machine() -> Result<Option<Arc<MachineLock>>> {
    let thread = thread::current();
    let Some(test) = thread.name().filter(|_| !SHARES.get()) else { return Ok(None) };
    if let Some(held) = HELD.with_borrow(Weak::upgrade) {
        return Ok(Some(held));
    }
    let lock = Arc::new(lock(runs_side_by_side(test))?);
    HELD.set(Arc::downgrade(&lock));
    Ok(Some(lock))
}

fn lock(is_shared: bool) -> Result<MachineLock> {
    let (at_once, patiently) = if is_shared {
        (FlockArg::LockSharedNonblock, FlockArg::LockShared)
    } else {
        (FlockArg::LockExclusiveNonblock, FlockArg::LockExclusive)
    };
    let folder = Some(Path::new("/run")).filter(|folder| folder.is_dir());
    let path = folder.map_or_else(std::env::temp_dir, Path::to_owned).join(NAME);
    let open = || {
        File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("cannot open {}: the lab needs root", path.display()))
    };
    let file = match Flock::lock(open()?, at_once) {
        Ok(locked) => return Ok(MachineLock(locked)),
        Err((file, _)) => file,
    };
    eprintln!("waiting for another lab test on this machine ({})", path.display());
    let locked = Flock::lock(file, patiently);
    locked.map(MachineLock).map_err(|(_, error)| error).context("cannot lock the machine for a lab test")
}
