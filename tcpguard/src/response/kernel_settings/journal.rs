//! The original values of changed kernel settings, saved where the next daemon finds them, even if its configuration
//! specifies other paths.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use super::ChangedSetting;
use crate::fault;

/// The preferred directory for journals, which does not depend on the configuration.
pub(super) const HOME: &str = "/run/tcpguard";

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
        let owner = |path: &Path| fs::metadata(path).map(|metadata| metadata.uid()).ok();
        let (writer, folder) = (owner(place)?, place.parent().and_then(owner));
        // Root restores what the service's user saved, in a directory of that user.
        if writer != 0 && writer != geteuid().as_raw() && Some(writer) != folder {
            tracing::warn!("the journal {} is ignored: its owner (user {writer}) is not trusted", place.display());
            return None;
        }
        let entry: Entry = serde_json::from_slice(&fs::read(place).ok()?).ok()?;
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

fn write_whole(place: &Path, bytes: &[u8]) -> io::Result<()> {
    // Directories given by the configuration are not created here.
    if place.parent() == Some(Path::new(HOME)) {
        fs::create_dir_all(HOME)?;
    }
    let temporary = place.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes).and_then(|()| file.sync_all())?;
    fault::point("the journal is written beside the old one");
    fs::rename(&temporary, place)
}
