//! The original values of changed kernel settings, saved where the next daemon finds them, even if its configuration
//! specifies other paths.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::{fcntl::OFlag, unistd::geteuid};
use serde::{Deserialize, Serialize};

use super::ChangedSetting;
use crate::fault;

/// The preferred directory for journals, which does not depend on the configuration.
pub(super) const HOME: &str = "/run/tcpguard";

/// The maximum size of a journal in bytes; five settings take less than a thousand.
const MAX_BYTES: u64 = 65_536;

/// The contents of a journal.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Entry {
    /// The cookie of the network namespace that the settings belong to.
    pub namespace: u64,
    /// The changed settings.
    pub settings: Vec<ChangedSetting>,
    /// When the last SYN cookie that depends on the changed settings expires, in jiffies; 0 if there is none.
    #[serde(default)]
    pub cookies_until: u64,
}

/// The journal file of one network namespace.
pub(super) struct Journal {
    /// Paths in order of preference; the first writable one is used.
    places: Vec<PathBuf>,
    namespace: u64,
}

impl Journal {
    /// Creates the journal of a network namespace, to be kept in the first writable directory of `folders`.
    pub fn new(folders: &[&Path], namespace: u64) -> Self {
        let name = format!("kernel-settings.{namespace}.json");
        let mut places: Vec<PathBuf> = folders.iter().map(|folder| folder.join(&name)).collect();
        places.dedup();
        Self { places, namespace }
    }

    /// Returns `true` if the journal exists in one of its places.
    pub fn is_there(&self) -> bool {
        self.places.iter().any(|place| place.exists())
    }

    /// Returns what a daemon left behind. If there are journals in two places, the last place is that of the older one,
    /// and its values take precedence.
    pub fn read(&self) -> Entry {
        let mut entries: Vec<Entry> = self.places.iter().filter_map(|place| self.read_at(place)).collect();
        let Some(mut entry) = entries.pop() else { return Entry::default() };
        for other in entries {
            entry.cookies_until = entry.cookies_until.max(other.cookies_until);
            let is_new = |setting: &ChangedSetting| !entry.settings.iter().any(|known| known.name == setting.name);
            let new: Vec<ChangedSetting> = other.settings.into_iter().filter(is_new).collect();
            entry.settings.extend(new);
        }
        entry
    }

    fn read_at(&self, place: &Path) -> Option<Entry> {
        let ignored = |why: String| tracing::warn!("the journal {} is ignored: {why}", place.display());
        let file = match open(place) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                ignored(error.to_string());
                return None;
            }
        };
        let metadata = file.metadata().ok()?;
        let folder = place.parent().and_then(|folder| fs::symlink_metadata(folder).ok()).filter(fs::Metadata::is_dir);
        // Root restores what the service's user saved, in a directory of that user.
        let writer = metadata.uid();
        let is_trusted =
            writer == 0 || writer == geteuid().as_raw() || folder.is_some_and(|folder| folder.uid() == writer);
        if !metadata.is_file() || metadata.nlink() != 1 || !is_trusted {
            ignored(format!("its owner (user {writer}) is not trusted, or it is no regular file"));
            return None;
        }
        let mut bytes = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
        let entry: Entry = serde_json::from_slice(&bytes).ok()?;
        if let Some(other) = entry.settings.iter().find(|setting| !setting.is_known()) {
            ignored(format!("{} with the values {} and {} is not tcpguard's", other.name, other.original, other.value));
            return None;
        }
        (entry.namespace == self.namespace).then_some(entry)
    }

    /// Writes the journal atomically and syncs it to disk. This is done before any setting is changed.
    ///
    /// # Errors
    /// Returns the last path tried and its error if no place is writable.
    pub fn write(&self, settings: &[ChangedSetting], cookies_until: u64) -> Result<(), (PathBuf, io::Error)> {
        let entry = Entry { namespace: self.namespace, settings: settings.to_vec(), cookies_until };
        fault::point("writing the journal");
        let bytes = serde_json::to_vec_pretty(&entry).unwrap_or_default();
        let mut problem = (PathBuf::new(), io::Error::from(io::ErrorKind::NotFound));
        for place in &self.places {
            match write_whole(place, &bytes) {
                Ok(()) => {
                    self.remove_where(|other| other != place);
                    return Ok(());
                }
                Err(error) => problem = (place.clone(), error),
            }
        }
        Err(problem)
    }

    /// Removes the journal, because no setting is changed any more.
    pub fn remove(&self) {
        self.remove_where(|_| true);
    }

    fn remove_where(&self, is_due: impl Fn(&Path) -> bool) {
        for place in self.places.iter().filter(|place| is_due(place)) {
            if let Err(error) = fs::remove_file(place)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!("the journal {} cannot be removed: {error}", place.display());
            }
        }
    }
}

/// Opens a journal, but not what a symbolic link in its place points to. It does not wait for the writer of a pipe.
fn open(place: &Path) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    File::options().read(true).custom_flags(flags.bits()).open(place)
}

fn write_whole(place: &Path, bytes: &[u8]) -> io::Result<()> {
    // Directories given by the configuration are not created here.
    if place.parent() == Some(Path::new(HOME)) {
        fs::create_dir_all(HOME)?;
    }
    let temporary = place.with_extension("new");
    // Of a daemon that was killed, or somebody else's link.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options().write(true).create_new(true).open(&temporary)?;
    file.write_all(bytes).and_then(|()| file.sync_all())?;
    fault::point("the journal is written beside the old one");
    fs::rename(&temporary, place)
}
