//! One lab test at a time on this machine, in whichever process, because most tests load both processors or look at what
//! all namespaces share. Those in [`xtask::side_by_side`] run beside each other, but not beside the rest.
//!
//! The lock is a file that is locked (`flock`) for as long as a network namespace of the test exists, shared or
//! exclusively. It holds between the threads of one test binary and between test runs, started by `cargo xtask lab` or by
//! plain `cargo test`.
//!
//! Tests that run beside each other use the same addresses, so each has its own range of client ports: the daemon of one
//! takes a handshake that completes in another namespace of the host for that of a container, if it received the SYN of a
//! client with the same address and port.

use std::{
    cell::{Cell, RefCell},
    fs::File,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    thread,
};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use xtask::side_by_side::runs_side_by_side;

const NAME: &str = "tcpguard-lab.lock";

/// The ports of the first range, the number of ports in each, and the number of ranges.
const FIRST_PORT: u16 = 1024;
const PORTS: u16 = 5_000;
const RANGES: u16 = 12;

thread_local! {
    static HELD: RefCell<Weak<MachineLock>> = const { RefCell::new(Weak::new()) };
    static SHARES: Cell<bool> = const { Cell::new(false) };
}

/// Keeps other lab tests waiting, and from using the same client ports, until the last copy is dropped.
#[derive(Debug)]
pub struct MachineLock {
    /// `None` for a test that shares the machine with all others.
    _machine: Option<Flock<File>>,
    /// `None` for a test that has the machine to itself.
    ports: Option<(RangeInclusive<u16>, Flock<File>)>,
}

impl MachineLock {
    /// Returns the ports that clients of this test may choose from; `None` for the kernel's own range.
    pub fn client_ports(&self) -> Option<RangeInclusive<u16>> {
        self.ports.as_ref().map(|(ports, _)| ports.clone())
    }
}

/// Has the calling test run beside others: it does little but wait, and nothing it measures depends on them.
pub fn share_machine() {
    SHARES.set(true);
}

/// Waits until no other test has the machine. Returns the lock that this test already has where it has one, and `None`
/// for the threads that a test starts, which run under its lock.
///
/// # Errors
/// Returns an error if the file cannot be made or locked.
pub fn lock_machine() -> Result<Option<Arc<MachineLock>>> {
    let thread = thread::current();
    let Some(test) = thread.name() else { return Ok(None) };
    if let Some(held) = HELD.with_borrow(Weak::upgrade) {
        return Ok(Some(held));
    }
    let is_beside_others = SHARES.get() || runs_side_by_side(test);
    let lock = Arc::new(MachineLock {
        _machine: if SHARES.get() { None } else { Some(lock(is_beside_others)?) },
        ports: if is_beside_others { Some(own_ports()?) } else { None },
    });
    HELD.set(Arc::downgrade(&lock));
    Ok(Some(lock))
}

fn lock(is_shared: bool) -> Result<Flock<File>> {
    let (at_once, patiently) = if is_shared {
        (FlockArg::LockSharedNonblock, FlockArg::LockShared)
    } else {
        (FlockArg::LockExclusiveNonblock, FlockArg::LockExclusive)
    };
    let path = in_run(NAME);
    let file = match Flock::lock(open(&path)?, at_once) {
        Ok(locked) => return Ok(locked),
        Err((file, _)) => file,
    };
    eprintln!("waiting for another lab test on this machine ({})", path.display());
    Flock::lock(file, patiently).map_err(|(_, error)| error).context("cannot lock the machine for a lab test")
}

/// Returns a range of ports that no other test uses, and the lock that keeps it so.
fn own_ports() -> Result<(RangeInclusive<u16>, Flock<File>)> {
    for range in 0..RANGES {
        let file = open(&in_run(&format!("tcpguard-lab-ports-{range}.lock")))?;
        if let Ok(locked) = Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            let first = FIRST_PORT + range * PORTS;
            return Ok((first..=first + PORTS - 1, locked));
        }
    }
    bail!("{RANGES} lab tests run at the same time, which are all that there are client ports for")
}

fn in_run(name: &str) -> PathBuf {
    let folder = Some(Path::new("/run")).filter(|folder| folder.is_dir());
    folder.map_or_else(std::env::temp_dir, Path::to_owned).join(name)
}

fn open(path: &Path) -> Result<File> {
    File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .with_context(|| format!("cannot open {}: the lab needs root", path.display()))
}
