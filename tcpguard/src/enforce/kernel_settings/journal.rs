//! What kernel settings were before they were changed, written down where the next daemon finds it: also one whose
//! configuration says other paths.

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

/// The first place for journals: one that no configuration moves.
pub(super) const HOME: &str = "/run/tcpguard";

/// What is written down.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Settings belong to a network namespace: its cookie.
    pub namespace: u64,
    /// What is changed.
    pub settings: Vec<ChangedSetting>,
    /// Until when, in jiffies, SYN cookies are good that depend on settings that are changed; 0: none are.
    #[serde(default)]
    pub cookies_until: u64,
}

/// The file.
pub(super) struct Journal {
    /// In order of preference: the first that can be written to is.
    places: Vec<PathBuf>,
    namespace: u64,
}

impl Journal {
    /// One of a network namespace, in the first of these folders that can be written to.
    pub fn new(folders: &[&Path], namespace: u64) -> Self {
        let name = format!("kernel-settings.{namespace}.json");
        let mut places: Vec<PathBuf> = folders.iter().map(|folder| folder.join(&name)).collect();
        places.dedup();
        Self { places, namespace }
    }

    /// Whether there is one.
    pub fn is_there(&self) -> bool {
        self.places.iter().any(|place| place.exists())
    }

    /// What a daemon has left. Where two have, in two places, the last place is that of the older one: what it found counts.
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
        // Root puts back what the service's user has written down, in a folder of that user's.
        if writer != 0 && writer != geteuid().as_raw() && Some(writer) != folder {
            tracing::warn!("{} was written by the user {writer}: it is not believed", place.display());
            return None;
        }
        let entry: Entry = serde_json::from_slice(&fs::read(place).ok()?).ok()?;
        (entry.namespace == self.namespace).then_some(entry)
    }

    /// Written whole, and brought to the disk, before anything is changed.
    ///
    /// # Errors
    /// With the last place that was tried, where none can be written to.
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

    /// Nothing is changed any more.
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
    // A folder of the configuration's is the configuration's to make.
    if place.parent() == Some(Path::new(HOME)) {
        fs::create_dir_all(HOME)?;
    }
    let temporary = place.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes).and_then(|()| file.sync_all())?;
    fault::point("the journal is written beside the old one");
    fs::rename(&temporary, place)
}
