//! Privileges that a process gives up before it does something for which it does not need them.

use std::{
    fs::{File, Metadata, OpenOptions},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use nix::unistd::{Gid, Uid, geteuid, setgroups, setresgid, setresuid};
use rustix::thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets};
use tracing::debug;

/// What attachments and kernel settings need; `SYS_ADMIN` is for other programs' XDP programs (docs/coexistence.md).
const NEEDED: CapabilitySet =
    CapabilitySet::BPF.union(CapabilitySet::NET_ADMIN).union(CapabilitySet::PERFMON).union(CapabilitySet::SYS_ADMIN);

/// Keeps the commands that this process runs from having its capabilities. Must be called before there are other threads,
/// which inherit it.
pub(super) fn keep_from_commands() -> Result<()> {
    // A user's programs have those that are ambient, and root's all, unless it is told not to be special.
    rustix::thread::clear_ambient_capability_set().context("cannot clear the ambient capabilities")?;
    if geteuid().is_root() {
        let bits = CapabilitiesSecureBits::NO_ROOT | CapabilitiesSecureBits::NO_ROOT_LOCKED;
        // In a container without CAP_SETPCAP, root has no more than the container.
        if let Err(error) = rustix::thread::set_capabilities_secure_bits(bits) {
            debug!("commands of [notify] run with root's capabilities: {error}");
        }
    }
    Ok(())
}

/// A folder that is used by descriptor, whoever may rename it or look into the folders above it.
pub(super) struct Opened {
    file: File,
}

impl Opened {
    /// Returns a path that leads to the folder while this exists.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }
}

/// If this process is root, becomes the user that owns `folder`, and keeps the capabilities that undoing a daemon's work
/// takes. Whatever that user put in place of its files, this process can then do no more to them than the user itself.
///
/// Returns the folder, opened before, if the user has changed: only root may enter the folders above it.
///
/// # Errors
/// Returns an error if `folder` is a link, or the user cannot be changed.
pub(super) fn become_owner(folder: &Path) -> Result<Option<Opened>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_DIRECTORY;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.with_context(|| format!("cannot open {}", folder.display()))?,
    };
    let metadata = file.metadata().with_context(|| format!("cannot examine {}", folder.display()))?;
    if metadata.uid() == 0 {
        return Ok(None);
    }
    become_user(&metadata).with_context(|| format!("cannot become the owner of {}", folder.display()))?;
    Ok(Some(Opened { file }))
}

fn become_user(metadata: &Metadata) -> Result<()> {
    let (user, group) = (Uid::from_raw(metadata.uid()), Gid::from_raw(metadata.gid()));
    let present = rustix::thread::capabilities(None)?.permitted;
    setgroups(&[])?;
    setresgid(group, group, group)?;
    rustix::thread::set_keep_capabilities(true)?;
    setresuid(user, user, user)?;
    let kept = present & NEEDED;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets)?;
    Ok(())
}
