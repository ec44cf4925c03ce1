//! The state that outlives the daemon: its attachments and the datapath's maps, pinned in a folder of bpffs. They stay
//! when the daemon dies, and the next daemon takes them over.
//!
//! ```text
//! /sys/fs/bpf/tcpguard/netns-4026531840/          one folder per network namespace, locked by its daemon
//!     maps/COUNTS-1                               a map, with the version of its content
//!     links/xdp-2                                 an attachment to the interface with this index
//!     links/handshake_completed                   an attachment to a tracepoint
//! ```

mod folder;
mod maps;
mod name;
mod object;

use std::{
    fs, io,
    os::{fd::BorrowedFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
};

use aya::{
    maps::MapData,
    programs::links::{FdLink, PinnedLink},
};
use tcpguard_common::abi::takeover::CarriedMap;
use tracing::{debug, info, warn};

use crate::fault;
use folder::{Folder, PREFIX, StartLock};
pub use folder::{PinError, ensure_bpffs};
pub(super) use maps::{Expected, TakenOver, read_instance};
pub(super) use name::LinkName;
use name::{LINKS, MAPS, NEW, NEXT, OF, outlasts_pin};
pub(super) use object::PinnedObject;

/// The pins of the current network namespace, locked against other daemons while this exists.
#[derive(Debug)]
pub struct Pins {
    folder: Folder,
}

impl Pins {
    /// Opens the pins under `root`, creating the folders if necessary. Also removes the pins of network namespaces that
    /// no longer exist.
    ///
    /// # Errors
    /// Returns an error if another daemon holds the pins, or the folder is unusable.
    pub fn open(root: &Path) -> Result<Self, PinError> {
        let _lock = StartLock::create(root)?;
        let pins = Self { folder: Folder::open(root)? };
        for name in [MAPS, LINKS] {
            let path = pins.folder.path().join(name);
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(PinError::Folder { path, source });
                }
                _ => {}
            }
        }
        remove_next(&pins.links_folder());
        sweep(root, pins.folder.path());
        Ok(pins)
    }

    /// Returns the path at which a map is pinned.
    pub(super) fn map_path(&self, carried: CarriedMap) -> PathBuf {
        self.maps_folder().join(name::of_map(carried))
    }

    /// Pins a map that belongs to a single datapath. The kernel clears a program array when its last descriptor and pin
    /// are gone, even if programs still use it: without the pin, tail calls of programs left attached would fail.
    pub(super) fn add_map_of(&self, generation: u64, name: &str, map: &MapData) -> Result<(), PinError> {
        let path = self.maps_folder().join(format!("{name}{OF}{generation}"));
        unpin(&path);
        fault::point("pinning a map of one datapath");
        map.pin(&path).map_err(|error| PinError::Folder { path, source: io::Error::other(error) })
    }

    /// Removes the pins of maps that belong to replaced datapaths.
    pub(super) fn keep_only_maps_of(&self, generation: u64) {
        let ours = format!("{OF}{generation}");
        for name in names(&self.maps_folder()).iter().filter(|name| name.contains(OF) && !name.ends_with(&ours)) {
            fault::point("removing a map of a replaced datapath");
            unpin(&self.maps_folder().join(name));
        }
    }

    /// Returns whether the previous daemon left attachments.
    pub fn has_links(&self) -> bool {
        !names(&self.links_folder()).is_empty()
    }

    /// Returns the pinned link with this name and type (`link_type` in fdinfo). A pin of another type, or of a link
    /// whose interface is gone, is removed, and `None` is returned.
    pub(super) fn link(&self, name: &str, kind: &str) -> Option<PinnedAttachment> {
        let path = self.link_path(name);
        let object = match PinnedObject::open(&path) {
            Ok(object) => object,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => return self.reject(name, &error.to_string()),
        };
        match (object.link_type(), object.number("prog_id"), object.number("ifindex")) {
            (Some(found), Some(program), Some(index)) if found == kind && index != 0 => {
                let link = PinnedLink::from_pin(&path).map(FdLink::from);
                link.map(|link| PinnedAttachment { link, program, index })
                    .or_else(|error| self.reject(name, &error.to_string()).ok_or(error))
                    .ok()
            }
            _ => self.reject(name, "it is not an attachment to an existing interface"),
        }
    }

    fn reject(&self, name: &str, problem: &str) -> Option<PinnedAttachment> {
        warn!("the object pinned as {} is not taken over: {problem}", self.link_path(name).display());
        self.remove_link(name);
        None
    }

    /// Pins a link, so that it outlives the daemon.
    pub(super) fn add_link(&self, name: &str, link: FdLink) -> Result<FdLink, PinError> {
        self.pin(&self.link_path(name), link)
    }

    /// Pins a link that is not in force yet. The next start removes it unless [`Pins::put_in_force`] was called.
    pub(super) fn add_next_link(&self, name: &str, link: FdLink) -> Result<FdLink, PinError> {
        self.pin(&self.link_path(&format!("{name}{NEXT}")), link)
    }

    /// Renames a link's pin over the previous daemon's, which is thereby detached.
    pub(super) fn put_in_force(&self, name: &str) -> Result<(), PinError> {
        fault::point("putting a link in force");
        let path = self.link_path(name);
        fs::rename(self.link_path(&format!("{name}{NEXT}")), &path).map_err(|source| PinError::Folder { path, source })
    }

    fn pin(&self, path: &Path, link: FdLink) -> Result<FdLink, PinError> {
        fault::point("pinning a link");
        let failed = |source: io::Error| PinError::Folder { path: path.to_owned(), source };
        let pinned = link.pin(path).map(Into::into).map_err(|error| failed(io::Error::other(error)))?;
        fault::point("a link is pinned");
        Ok(pinned)
    }

    /// Returns the program pinned with this name.
    pub(super) fn program(&self, name: &str) -> Option<PinnedObject> {
        PinnedObject::open(&self.link_path(name))
            .ok()
            .filter(|object| object.number("prog_id").is_some() && object.link_type().is_none())
    }

    /// Pins a program, replacing an existing pin. Returns false if the same program was already pinned.
    pub(super) fn add_program(&self, name: &str, program: BorrowedFd<'_>) -> Result<bool, PinError> {
        let path = self.link_path(name);
        let failed = |source| PinError::Folder { path: path.clone(), source };
        let object = program.try_clone_to_owned().and_then(PinnedObject::of).map_err(failed)?;
        let pinned = self.program(name);
        if pinned.is_some_and(|pinned| pinned.number("prog_id") == object.number("prog_id")) {
            return Ok(false);
        }
        // Renaming keeps one of both pinned at every moment.
        let new = self.link_path(&format!("{name}{NEW}"));
        unpin(&new);
        fault::point("pinning a program");
        object::pin(program, &new).map_err(failed)?;
        fault::point("a program is pinned beside the old one");
        fs::rename(&new, &path).map_err(failed)?;
        Ok(true)
    }

    /// Returns the names of the pins of links and programs.
    pub(super) fn link_names(&self) -> Vec<String> {
        names(&self.links_folder())
    }

    /// Removes the pin of a link, if it exists.
    pub(super) fn remove_link(&self, name: &str) {
        fault::point("removing the pin of a link");
        unpin(&self.link_path(name));
    }

    /// Removes the pins of all links except `kept`.
    pub(super) fn keep_only_links(&self, kept: &[String]) {
        for name in names(&self.links_folder()).iter().filter(|name| !kept.contains(name) && !outlasts_pin(name)) {
            info!("{name}, an attachment of the previous daemon, is no longer used: removed");
            self.remove_link(name);
        }
    }

    /// Removes all pins, attachments first, so that a partial removal leaves nothing in effect.
    ///
    /// If an interface could not be restored, its pins and the maps are kept for another attempt.
    pub fn remove_all(self) {
        if self.link_names().iter().any(|name| outlasts_pin(name)) {
            self.keep_only_links(&[]);
            return;
        }
        clear(self.folder.path());
    }

    fn maps_folder(&self) -> PathBuf {
        self.folder.path().join(MAPS)
    }

    fn links_folder(&self) -> PathBuf {
        self.folder.path().join(LINKS)
    }

    pub(super) fn link_path(&self, name: &str) -> PathBuf {
        self.links_folder().join(name)
    }
}

/// An attachment of the previous daemon.
pub(super) struct PinnedAttachment {
    pub link: FdLink,
    /// The kernel's id of the attached program.
    pub program: u32,
    /// The index of the interface.
    pub index: u32,
}

/// The pins of one network namespace that no daemon holds.
pub(super) struct UnusedPins {
    pub pins: Pins,
    /// Whether they belong to the current network namespace.
    pub is_ours: bool,
}

impl UnusedPins {
    /// Returns whether interfaces have to be restored, which is possible only from within their namespace.
    pub fn needs_restoring(&self) -> bool {
        self.pins.link_names().iter().any(|name| outlasts_pin(name))
    }

    pub fn path(&self) -> &Path {
        self.pins.folder.path()
    }
}

/// Locks the pins under `root` of the current network namespace, or of every one, and calls `with` for each. A folder that
/// a daemon holds is passed as an error.
///
/// # Errors
/// Returns an error if the folder cannot be locked.
pub(super) fn for_each_unused(
    root: &Path,
    every_namespace: bool,
    mut with: impl FnMut(Result<UnusedPins, PinError>),
) -> Result<(), PinError> {
    let ours = folder::folder_path(root)?;
    let _lock = match StartLock::wait(root) {
        // Nothing was ever pinned.
        Err(PinError::Folder { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
        lock => lock?,
    };
    for path in namespaces(root).into_iter().filter(|path| every_namespace || *path == ours) {
        let is_ours = path == ours;
        with(Folder::lock(path).map(|folder| UnusedPins { pins: Pins { folder }, is_ours }));
    }
    Ok(())
}

fn clear(folder: &Path) {
    for inner in [LINKS, MAPS] {
        let inner = folder.join(inner);
        for name in names(&inner) {
            fault::point("removing a pin");
            unpin(&inner.join(name));
        }
        remove_folder(&inner);
    }
    remove_folder(folder);
}

/// Removes the pins left by a daemon that died during a takeover. Its tracepoints may be the ones that count already:
/// handshakes that complete before this daemon's take effect are missed.
fn remove_next(links: &Path) {
    let is_over = |name: &str| name.ends_with(NEW) || name.ends_with(NEXT) && !outlasts_pin(name);
    for name in names(links).iter().filter(|name| is_over(name)) {
        unpin(&links.join(name));
    }
}

/// Removes the pins of network namespaces that no longer exist. They are recognized by having no attachment to an
/// existing interface, since the interfaces went with the namespace.
fn sweep(root: &Path, ours: &Path) {
    for path in namespaces(root).into_iter().filter(|path| path != ours) {
        let links = path.join(LINKS);
        let is_attached = |name: &String| outlasts_pin(name) || maps::is_attached(&links.join(name));
        if names(&links).iter().any(is_attached) {
            continue;
        }
        let Ok(folder) = Folder::lock(path) else { continue };
        if !names(&links).iter().any(is_attached) {
            debug!("{} belongs to a network namespace that is gone, or was never used", folder.path().display());
            clear(folder.path());
        }
    }
}

fn namespaces(root: &Path) -> Vec<PathBuf> {
    names(root).iter().filter(|name| name.starts_with(PREFIX)).map(|name| root.join(name)).collect()
}

/// Returns the names of a folder's entries; none if the folder does not exist.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn unpin(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        warn!("{} cannot be removed: {error}", path.display());
    }
}

fn remove_folder(path: &Path) {
    if let Err(error) = fs::remove_dir(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        warn!("{} cannot be removed: {error}", path.display());
    }
}
