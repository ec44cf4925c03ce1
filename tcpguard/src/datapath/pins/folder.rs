//! The bpffs folder with the pins: one per network namespace, private to its owner, and locked by the daemon.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
    unistd::geteuid,
};
use thiserror::Error;
use tracing::info;

use crate::{datapath::network_namespace_cookie, fault};

/// The conventional mount point of bpffs.
const BPFFS: &str = "/sys/fs/bpf";
/// The prefix of the names of network namespaces' folders.
pub(super) const PREFIX: &str = "netns-";

/// Why the pins cannot be used.
#[derive(Debug, Error)]
pub enum PinError {
    /// A daemon, with this process id if known, has locked the folder.
    #[error("another tcpguard{} guards this network namespace already, and only one can run: `tcpguard status` shows its state", process(*.0))]
    Taken(Option<u32>),
    /// The folder belongs to another network namespace, whose chained programs and filters cannot be restored from
    /// here.
    #[error("{} belongs to another network namespace, where tcpguard replaced an XDP program or added a filter: run `tcpguard detach` there (`ip netns exec` loses bpffs, `nsenter --net=…` keeps it)", .0.display())]
    Elsewhere(PathBuf),
    /// The folder is not on bpffs.
    #[error("{} is not on a BPF file system ({problem}): mount one with `mount -t bpf bpf /sys/fs/bpf`", path.display())]
    NoBpffs {
        /// The path of the folder.
        path: PathBuf,
        /// Why bpffs was not mounted.
        problem: String,
    },
    /// Other users could have created pins in the folder.
    #[error("{} {problem}, so what is pinned there cannot be trusted: remove it with `rm -r {}`", path.display(), path.display())]
    Untrusted {
        /// The path of the folder.
        path: PathBuf,
        /// Why the folder cannot be trusted, as the predicate of a sentence.
        problem: String,
    },
    /// A file or folder for pins cannot be created or read.
    #[error("cannot use {}: {source}", path.display())]
    Folder {
        /// The path of the folder.
        path: PathBuf,
        /// The underlying error.
        source: io::Error,
    },
    /// The cookie of the network namespace cannot be read.
    #[error("cannot read the cookie of the network namespace: {0}")]
    NoCookie(Errno),
}

fn process(id: Option<u32>) -> String {
    id.map_or_else(String::new, |id| format!(" (process {id})"))
}

/// Returns the path of the current network namespace's folder under `root`.
pub(super) fn folder_path(root: &Path) -> Result<PathBuf, PinError> {
    let cookie = network_namespace_cookie().map_err(PinError::NoCookie)?;
    Ok(root.join(format!("{PREFIX}{cookie}")))
}

/// A short-lived lock of the parent folder. A starting daemon and `tcpguard detach` examine the folders of all network
/// namespaces and lock those that seem unused. They do so one at a time, so that none mistakes another's lock for a
/// running daemon's.
#[derive(Debug)]
pub(super) struct StartLock {
    _lock: Flock<File>,
}

impl StartLock {
    /// Creates the parent folder if it is missing, and waits for its lock.
    pub fn create(root: &Path) -> Result<Self, PinError> {
        ensure_bpffs(root)?;
        make(root)?;
        check_owner(root)?;
        Self::wait(root)
    }

    /// Waits for the lock.
    pub fn wait(root: &Path) -> Result<Self, PinError> {
        let failed = |source: io::Error| PinError::Folder { path: root.to_owned(), source };
        let mut file = File::open(root).map_err(failed)?;
        loop {
            match Flock::lock(file, FlockArg::LockExclusive) {
                Ok(lock) => return Ok(Self { _lock: lock }),
                Err((unlocked, Errno::EINTR)) => file = unlocked,
                Err((_, error)) => return Err(failed(error.into())),
            }
        }
    }
}

/// A folder that is locked while this exists. The kernel releases the lock however the daemon ends.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    lock: Flock<File>,
}

impl Folder {
    /// Creates the folder of the current network namespace under `root`, or takes over an existing one. `root` must
    /// exist, see [`StartLock`].
    pub fn open(root: &Path) -> Result<Self, PinError> {
        let path = folder_path(root)?;
        loop {
            make(&path)?;
            check_owner(&path)?;
            let folder = Self::lock(path.clone())?;
            // The previous holder of the lock may have removed the folder when it ended.
            if folder.is_still_there() {
                return Ok(folder);
            }
        }
    }

    /// Locks the folder at `path`.
    pub fn lock(path: PathBuf) -> Result<Self, PinError> {
        let file = File::open(&path).map_err(|source| PinError::Folder { path: path.clone(), source })?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { path, lock }),
            Err((_, Errno::EWOULDBLOCK)) => Err(PinError::Taken(holder(&path))),
            Err((_, error)) => Err(PinError::Folder { path, source: error.into() }),
        }
    }

    fn is_still_there(&self) -> bool {
        let inode = |metadata: io::Result<fs::Metadata>| metadata.map(|metadata| metadata.ino()).ok();
        inode(fs::metadata(&self.path)) == inode(self.lock.metadata())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Mounts bpffs at its conventional mount point if `root` needs it. systemd mounts it on its hosts.
///
/// # Errors
/// Returns an error if it cannot be mounted, or `root` is on another file system.
pub fn ensure_bpffs(root: &Path) -> Result<(), PinError> {
    let is_bpffs = |path: &Path| {
        let existing = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(path);
        statfs(existing).is_ok_and(|status| status.filesystem_type() == BPF_FS_MAGIC)
    };
    if is_bpffs(root) {
        return Ok(());
    }
    let failed = |problem: String| PinError::NoBpffs { path: root.to_owned(), problem };
    if !root.starts_with(BPFFS) {
        return Err(failed("it is on another file system".to_owned()));
    }
    fault::point("mounting bpffs");
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
        .map_err(|error| failed(format!("mounting failed: {error}")))?;
    info!("mounted a BPF file system on {BPFFS}");
    Ok(())
}

fn make(folder: &Path) -> Result<(), PinError> {
    fault::point("creating a folder for pins");
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            Err(PinError::Folder { path: folder.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Checks that only root and this user can have created files in the folder.
fn check_owner(folder: &Path) -> Result<(), PinError> {
    let metadata =
        fs::symlink_metadata(folder).map_err(|source| PinError::Folder { path: folder.to_owned(), source })?;
    let untrusted = |problem: String| Err(PinError::Untrusted { path: folder.to_owned(), problem });
    if !metadata.is_dir() {
        return untrusted("is not a folder".to_owned());
    }
    if ![0, geteuid().as_raw()].contains(&metadata.uid()) {
        return untrusted(format!("belongs to user {}", metadata.uid()));
    }
    if metadata.permissions().mode() & 0o022 != 0 {
        return untrusted("can be written by others".to_owned());
    }
    Ok(())
}

/// Returns the id of the process that has locked the folder, if /proc/locks lists it.
fn holder(folder: &Path) -> Option<u32> {
    let inode = fs::metadata(folder).ok()?.ino();
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let kind = words.next()?;
        let process = words.nth(2)?;
        let place = words.next()?;
        let is_ours = kind == "FLOCK" && place.rsplit(':').next()?.parse() == Ok(inode);
        is_ours.then(|| process.parse().ok()).flatten()
    })
}
