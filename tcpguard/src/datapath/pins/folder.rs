//! The folder of bpffs that pins stand in: one for each network namespace, ours alone, and locked by the daemon.

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

/// Where bpffs is mounted, by convention.
const BPFFS: &str = "/sys/fs/bpf";
/// How the folder of a network namespace begins.
pub(super) const PREFIX: &str = "netns-";

/// Why pins cannot be had.
#[derive(Debug, Error)]
pub enum PinError {
    /// A daemon holds them.
    #[error("another tcpguard{} guards this network namespace already; `tcpguard status` asks it, and only one can run", process(*.0))]
    Taken(Option<u32>),
    /// They are of another network namespace, whose interfaces cannot be given back from here.
    #[error("{} is of another network namespace, where tcpguard took another program's place, or made a filter: run `tcpguard detach` there (`ip netns exec` loses bpffs, `nsenter --net=…` keeps it)", .0.display())]
    Elsewhere(PathBuf),
    /// There is no bpffs.
    #[error("{} is not on a BPF file system ({problem}): mount one with `mount -t bpf bpf /sys/fs/bpf`", path.display())]
    NoBpffs {
        /// Where the folder should be.
        path: PathBuf,
        /// Why none could be mounted.
        problem: String,
    },
    /// Others could have put something there.
    #[error("{} {problem}, so what is pinned there cannot be trusted: remove it with `rm -r {}`", path.display(), path.display())]
    Untrusted {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// It cannot be made or read.
    #[error("{}: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The network namespace has no cookie.
    #[error("the kernel does not tell network namespaces apart: {0}")]
    NoCookie(Errno),
}

fn process(id: Option<u32>) -> String {
    id.map_or_else(String::new, |id| format!(" (process {id})"))
}

/// The folder of this network namespace under `root`.
pub(super) fn folder_path(root: &Path) -> Result<PathBuf, PinError> {
    let cookie = network_namespace_cookie().map_err(PinError::NoCookie)?;
    Ok(root.join(format!("{PREFIX}{cookie}")))
}

/// The folder above all of them, locked for a moment: whoever starts, or takes off what others have left, looks through
/// the folders of all network namespaces, and locks those that nobody seems to need. One at a time, so that none of
/// them takes another one's look for a daemon.
#[derive(Debug)]
pub(super) struct Turn {
    _lock: Flock<File>,
}

impl Turn {
    /// Waits for it; makes the folder, where there is none.
    pub fn to_start(root: &Path) -> Result<Self, PinError> {
        ensure_bpffs(root)?;
        make(root)?;
        check_owner(root)?;
        Self::wait(root)
    }

    /// Waits for it.
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

/// A folder, locked for as long as this lives: the kernel unlocks it however the daemon ends.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    lock: Flock<File>,
}

impl Folder {
    /// Makes the folder of this network namespace under `root`, or takes over the one that is there. `root` must be there:
    /// see [`Turn`].
    pub fn open(root: &Path) -> Result<Self, PinError> {
        let path = folder_path(root)?;
        loop {
            make(&path)?;
            check_owner(&path)?;
            let folder = Self::lock(path.clone())?;
            // Whoever had it locked before may have removed it at its end.
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

/// bpffs is there on every host with systemd; elsewhere it is mounted where everybody looks for it.
fn ensure_bpffs(root: &Path) -> Result<(), PinError> {
    let is_bpffs = |path: &Path| {
        let existing = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(path);
        statfs(existing).is_ok_and(|status| status.filesystem_type() == BPF_FS_MAGIC)
    };
    if is_bpffs(root) {
        return Ok(());
    }
    let failed = |problem: String| PinError::NoBpffs { path: root.to_owned(), problem };
    if !root.starts_with(BPFFS) {
        return Err(failed("another file system is there".to_owned()));
    }
    fault::point("mounting bpffs");
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
        .map_err(|error| failed(format!("none could be mounted: {error}")))?;
    info!("mounted a BPF file system on {BPFFS}");
    Ok(())
}

fn make(folder: &Path) -> Result<(), PinError> {
    fault::point("making a folder for pins");
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            Err(PinError::Folder { path: folder.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Only root and this user may have put something there.
fn check_owner(folder: &Path) -> Result<(), PinError> {
    let metadata =
        fs::symlink_metadata(folder).map_err(|source| PinError::Folder { path: folder.to_owned(), source })?;
    let untrusted = |problem: String| Err(PinError::Untrusted { path: folder.to_owned(), problem });
    if !metadata.is_dir() {
        return untrusted("is no folder".to_owned());
    }
    if ![0, geteuid().as_raw()].contains(&metadata.uid()) {
        return untrusted(format!("belongs to the user {}", metadata.uid()));
    }
    if metadata.permissions().mode() & 0o022 != 0 {
        return untrusted("can be written by others".to_owned());
    }
    Ok(())
}

/// The process that has locked the folder, by /proc/locks, where that tells.
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
