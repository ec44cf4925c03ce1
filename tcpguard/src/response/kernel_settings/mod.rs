//! Kernel settings (sysctl) that are changed while an attack lasts. Their original values are saved first, so that they
//! can always be restored: after the attack, when the daemon ends, or at its next start.

mod journal;

use std::{
    collections::BTreeMap,
    fs, io,
    ops::{Range, RangeInclusive},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use self::journal::Journal;
use crate::{datapath::network_namespace_cookie, fault};

/// The setting that lets the kernel accept cookies no matter which program sent them, with the value 2.
pub const COOKIES_SETTING: &str = "net.ipv4.tcp_syncookies";
/// With the value 2, timestamps have no random offset per connection, so that the kernel can read the negotiated
/// options from them.
pub const TIMESTAMPS_SETTING: &str = "net.ipv4.tcp_timestamps";

const SYSCTL: &str = "/proc/sys";

/// A setting that was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedSetting {
    /// Its name, with dots, as for `sysctl`.
    pub name: String,
    /// Its original value.
    pub original: String,
    /// Its present value.
    pub value: String,
}

/// The settings that tcpguard changes, and the values that the kernel permits. No other is restored, whatever a journal
/// says: root restores, and the journal belongs to the service's user.
const KNOWN: [(&str, RangeInclusive<u64>); 5] = [
    (COOKIES_SETTING, 0..=2),
    (TIMESTAMPS_SETTING, 0..=2),
    ("net.ipv4.tcp_synack_retries", 0..=255),
    ("net.ipv4.tcp_max_syn_backlog", 0..=i32::MAX as u64),
    ("net.core.somaxconn", 0..=i32::MAX as u64),
];

impl ChangedSetting {
    /// Returns whether tcpguard changes this setting, and both values are decimal numbers that the kernel permits.
    fn is_known(&self) -> bool {
        let is_number = |value: &str| !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
        let range = KNOWN.iter().find(|(name, _)| *name == self.name).map(|(_, range)| range);
        range.is_some_and(|range| {
            [&self.original, &self.value]
                .into_iter()
                .all(|value| is_number(value) && value.parse().is_ok_and(|number| range.contains(&number)))
        })
    }
}

/// The reason a setting was not changed.
#[derive(Debug, Error)]
pub enum SettingError {
    /// It cannot be read.
    #[error("the kernel setting {0} cannot be read: {1}")]
    Read(String, io::Error),
    /// It cannot be written.
    #[error("the kernel setting {0} cannot be changed: {1}")]
    Write(String, io::Error),
    /// The original value cannot be saved, so the setting is not changed.
    #[error("kernel settings are not changed, because the journal {0} cannot be written: {1}")]
    Journal(PathBuf, io::Error),
}

/// The settings that have to stay changed until the last SYN cookie expires.
const KEPT_FOR_COOKIES: [&str; 2] = [COOKIES_SETTING, TIMESTAMPS_SETTING];

/// The outcome for one setting.
#[derive(Debug)]
pub enum SettingOutcome {
    /// It was changed.
    Changed(ChangedSetting),
    /// It could not be changed.
    Failed(&'static str, SettingError),
    /// It was to be restored.
    Restored(Restored),
}

/// The outcome of restoring a setting.
#[derive(Debug, PartialEq, Eq)]
pub enum Restored {
    /// It has its original value again.
    Back(ChangedSetting),
    /// It was changed by another program in the meantime, and is left alone.
    LeftAlone(ChangedSetting),
    /// It could not be restored.
    Failed(ChangedSetting, String),
}

/// Changes kernel settings and restores them.
pub struct KernelSettings {
    root: PathBuf,
    journal: Journal,
    changed: Vec<ChangedSetting>,
    cookies_until: u64,
}

impl KernelSettings {
    /// Opens the journal, which is in a fixed directory or, if that is not writable, next to `socket`. Restores the
    /// settings left behind by a daemon that crashed, except those needed by SYN cookies that are still valid at
    /// `jiffies`. No cookie is valid for more than `most_jiffies`.
    ///
    /// # Errors
    /// Returns an error if the network namespace cannot be determined.
    pub fn open(socket: &Path, jiffies: u64, most_jiffies: u64) -> io::Result<(Self, Vec<Restored>)> {
        Ok(Self::open_at(Path::new(SYSCTL), journal_beside(socket)?, jiffies..jiffies + most_jiffies))
    }

    /// Restores the settings left behind by a daemon that no longer runs.
    ///
    /// # Errors
    /// Returns an error if the network namespace cannot be determined.
    pub fn put_back(socket: &Path) -> io::Result<Vec<Restored>> {
        // No valid cookie depends on the settings any more.
        Self::open(socket, 0, 0).map(|(_, restored)| restored)
    }

    /// Returns `true` if a daemon left settings of this network namespace changed.
    pub fn has_left(socket: &Path) -> bool {
        journal_beside(socket).is_ok_and(|journal| journal.is_there())
    }

    fn open_at(root: &Path, journal: Journal, still_good: Range<u64>) -> (Self, Vec<Restored>) {
        let left = journal.read();
        let mut settings =
            Self { root: root.to_owned(), journal, changed: left.settings, cookies_until: left.cookies_until };
        let keeps = settings.cookies_until != 0 && still_good.contains(&settings.cookies_until);
        if !keeps {
            settings.cookies_until = 0;
        }
        let restored = settings.restore_where(|name| !(keeps && KEPT_FOR_COOKIES.contains(&name)));
        (settings, restored)
    }

    /// Returns the settings that are changed at present.
    pub fn changed(&self) -> &[ChangedSetting] {
        &self.changed
    }

    /// Returns the present value of a setting.
    ///
    /// # Errors
    /// Returns an error if it cannot be read.
    pub fn read(&self, name: &str) -> Result<String, SettingError> {
        let text = fs::read_to_string(self.path(name)).map_err(|error| SettingError::Read(name.to_owned(), error))?;
        Ok(text.trim().to_owned())
    }

    /// Returns the present value of a numeric setting.
    ///
    /// # Errors
    /// Returns an error if it cannot be read or is not a number.
    pub fn number(&self, name: &str) -> Result<u64, SettingError> {
        let text = self.read(name)?;
        text.parse().map_err(|_| {
            SettingError::Read(name.to_owned(), io::Error::new(io::ErrorKind::InvalidData, format!("\"{text}\"")))
        })
    }

    /// Changes a setting until it is restored. Returns `None` if it already has this value, or was already changed to
    /// it (and possibly by another program since, which is respected).
    ///
    /// # Errors
    /// Returns an error if it cannot be read or written, or its original value cannot be saved. It then keeps its
    /// previous value.
    pub fn change(&mut self, name: &str, value: &str) -> Result<Option<ChangedSetting>, SettingError> {
        let before =
            self.changed.iter().position(|changed| changed.name == name).map(|place| self.changed.remove(place));
        let original = match &before {
            Some(changed) if changed.value == value => {
                self.changed.extend(before);
                return Ok(None);
            }
            Some(changed) => changed.original.clone(),
            None => self.read(name)?,
        };
        if before.is_none() && original == value {
            return Ok(None);
        }
        let changed = ChangedSetting { name: name.to_owned(), original, value: value.to_owned() };
        self.changed.push(changed.clone());
        let result = self.write_journal().and_then(|()| {
            fault::point("changing a kernel setting");
            fs::write(self.path(name), value).map_err(|error| SettingError::Write(name.to_owned(), error))
        });
        fault::point("a kernel setting is changed");
        match result {
            Ok(()) => Ok(Some(changed)),
            Err(error) => {
                self.changed.pop();
                self.changed.extend(before);
                // Superfluous entries of the journal do no harm: a setting that does not have the recorded value is
                // left alone.
                self.write_journal().ok();
                Err(error)
            }
        }
    }

    /// Changes the `wanted` settings to their values, and restores all others.
    ///
    /// [`TIMESTAMPS_SETTING`] is changed before [`COOKIES_SETTING`]: cookies that the kernel sends in between would carry
    /// timestamps of the old setting, and return under the new one. Their clients would discard all that follows.
    pub fn bring_to(&mut self, wanted: &BTreeMap<&'static str, u64>) -> Vec<SettingOutcome> {
        let unwanted = |name: &str| !wanted.contains_key(name);
        let mut outcomes = Vec::new();
        if self.changed.iter().any(|changed| unwanted(&changed.name)) {
            outcomes.extend(self.restore_where(unwanted).into_iter().map(SettingOutcome::Restored));
        }
        let (first, then): (Vec<_>, Vec<_>) = wanted.iter().partition(|(name, _)| **name == TIMESTAMPS_SETTING);
        for (name, value) in first.into_iter().chain(then) {
            match self.change(name, &value.to_string()) {
                Ok(Some(changed)) => outcomes.push(SettingOutcome::Changed(changed)),
                Ok(None) => {}
                Err(error) => outcomes.push(SettingOutcome::Failed(name, error)),
            }
        }
        outcomes
    }

    /// Returns the operator's value of a setting: its original value, if it is changed.
    ///
    /// # Errors
    /// Returns an error if it cannot be read or is not a number.
    pub fn operators_number(&self, name: &str) -> Result<u64, SettingError> {
        match self.changed.iter().find(|changed| changed.name == name).and_then(|changed| changed.original.parse().ok())
        {
            Some(original) => Ok(original),
            None => self.number(name),
        }
    }

    /// Saves for the next daemon when the last cookie expires, in jiffies.
    pub fn note_cookies(&mut self, until: u64) {
        if std::mem::replace(&mut self.cookies_until, until) == until || self.changed.is_empty() {
            return;
        }
        if let Err(error) = self.write_journal() {
            tracing::warn!("{error}");
        }
    }

    /// Returns when the last cookie sent by the previous daemon expires, in jiffies.
    pub const fn cookies_until(&self) -> u64 {
        self.cookies_until
    }

    /// Restores all settings.
    pub fn restore(&mut self) -> Vec<Restored> {
        self.restore_where(|_| true)
    }

    /// Restores one setting.
    pub fn restore_only(&mut self, name: &str) -> Vec<Restored> {
        self.restore_where(|changed| changed == name)
    }

    fn restore_where(&mut self, is_due: impl Fn(&str) -> bool) -> Vec<Restored> {
        let (due, kept): (Vec<_>, Vec<_>) = self.changed.drain(..).partition(|changed| is_due(&changed.name));
        let restored: Vec<Restored> = due.into_iter().rev().map(|changed| restore(&self.root, changed)).collect();
        fault::point("kernel settings are put back");
        let failed = restored.iter().filter_map(|outcome| match outcome {
            Restored::Failed(changed, _) => Some(changed.clone()),
            Restored::Back(_) | Restored::LeftAlone(_) => None,
        });
        self.changed = kept.into_iter().chain(failed).collect();
        // Settings that could not be restored stay in the journal for the next attempt.
        if self.changed.is_empty() {
            self.journal.remove();
        } else if let Err(error) = self.write_journal() {
            tracing::warn!("{error}");
        }
        restored
    }

    fn path(&self, name: &str) -> PathBuf {
        path(&self.root, name)
    }

    fn write_journal(&self) -> Result<(), SettingError> {
        let written = self.journal.write(&self.changed, self.cookies_until);
        written.map_err(|(path, error)| SettingError::Journal(path, error))
    }
}

fn journal_beside(socket: &Path) -> io::Result<Journal> {
    let folder = socket.parent().unwrap_or(Path::new("/"));
    Ok(Journal::new(&[Path::new(journal::HOME), folder], network_namespace_cookie()?))
}

fn path(root: &Path, name: &str) -> PathBuf {
    root.join(name.replace('.', "/"))
}

fn restore(root: &Path, changed: ChangedSetting) -> Restored {
    fault::point("putting a kernel setting back");
    let path = path(root, &changed.name);
    match fs::read_to_string(&path) {
        Ok(current) if current.trim() != changed.value => Restored::LeftAlone(changed),
        Ok(_) => match fs::write(&path, &changed.original) {
            Ok(()) => Restored::Back(changed),
            Err(error) => Restored::Failed(changed, error.to_string()),
        },
        Err(error) => Restored::Failed(changed, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixture {
        folder: tempfile::TempDir,
    }

    impl Fixture {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            fs::create_dir_all(folder.path().join("sys/net/ipv4")).expect("a folder");
            let fixture = Self { folder };
            fixture.set("net.ipv4.tcp_synack_retries", "5\n");
            fixture.set("net.ipv4.tcp_syncookies", "0\n");
            fixture
        }

        fn root(&self) -> PathBuf {
            self.folder.path().join("sys")
        }

        fn open(&self) -> (KernelSettings, Vec<Restored>) {
            self.open_when(0)
        }

        fn open_when(&self, jiffies: u64) -> (KernelSettings, Vec<Restored>) {
            self.open_in(&[""], 7, jiffies)
        }

        fn open_in(&self, folders: &[&str], namespace: u64, jiffies: u64) -> (KernelSettings, Vec<Restored>) {
            let folders: Vec<PathBuf> = folders.iter().map(|folder| self.folder.path().join(folder)).collect();
            let folders: Vec<&Path> = folders.iter().map(PathBuf::as_path).collect();
            KernelSettings::open_at(&self.root(), Journal::new(&folders, namespace), jiffies..jiffies + 1000)
        }

        fn set(&self, name: &str, value: &str) {
            fs::write(path(&self.root(), name), value).expect("written");
        }

        fn get(&self, name: &str) -> String {
            fs::read_to_string(path(&self.root(), name)).expect("read").trim().to_owned()
        }
    }

    #[test]
    fn what_was_changed_comes_back() {
        let fixture = Fixture::new();
        let (mut settings, restored) = fixture.open();
        assert!(restored.is_empty());
        let changed = settings.change("net.ipv4.tcp_synack_retries", "1").expect("changed");
        assert_eq!(changed.map(|changed| changed.original).as_deref(), Some("5"));
        assert_eq!(settings.change("net.ipv4.tcp_syncookies", "0").expect("the same"), None);
        assert_eq!(fixture.get("net.ipv4.tcp_synack_retries"), "1");
        assert_eq!(settings.restore().len(), 1);
        assert_eq!(fixture.get("net.ipv4.tcp_synack_retries"), "5");
        assert!(!settings.journal.is_there());
    }

    #[test]
    fn timestamps_change_before_cookies() {
        let fixture = Fixture::new();
        fixture.set(TIMESTAMPS_SETTING, "1");
        let (mut settings, _) = fixture.open();
        let outcomes = settings.bring_to(&[(COOKIES_SETTING, 2), (TIMESTAMPS_SETTING, 2)].into());
        let changed = outcomes.iter().map(|outcome| match outcome {
            SettingOutcome::Changed(changed) => changed.name.as_str(),
            SettingOutcome::Failed(..) | SettingOutcome::Restored(_) => "",
        });
        assert_eq!(changed.collect::<Vec<_>>(), [TIMESTAMPS_SETTING, COOKIES_SETTING]);
    }

    #[test]
    fn after_a_crash_the_next_start_puts_it_back() {
        let fixture = Fixture::new();
        let (mut settings, _) = fixture.open();
        settings.change("net.ipv4.tcp_synack_retries", "1").expect("changed");
        settings.change("net.ipv4.tcp_syncookies", "1").expect("changed");
        drop(settings);
        let (settings, restored) = fixture.open();
        assert_eq!(restored.len(), 2);
        assert_eq!(
            (fixture.get("net.ipv4.tcp_synack_retries"), fixture.get("net.ipv4.tcp_syncookies")),
            ("5".into(), "0".into())
        );
        assert!(settings.changed().is_empty());
    }

    #[test]
    fn what_somebody_else_has_set_is_left_alone() {
        let fixture = Fixture::new();
        let (mut settings, _) = fixture.open();
        settings.change("net.ipv4.tcp_synack_retries", "1").expect("changed");
        fixture.set("net.ipv4.tcp_synack_retries", "3");
        assert!(matches!(settings.restore()[..], [Restored::LeftAlone(_)]));
        assert_eq!(fixture.get("net.ipv4.tcp_synack_retries"), "3");
    }

    #[test]
    fn a_journal_of_another_namespace_is_not_ours() {
        let fixture = Fixture::new();
        let (mut settings, _) = fixture.open();
        settings.change("net.ipv4.tcp_synack_retries", "1").expect("changed");
        let (_, restored) = fixture.open_in(&[""], 8, 0);
        assert!(restored.is_empty());
        assert_eq!(fixture.get("net.ipv4.tcp_synack_retries"), "1");
    }

    #[test]
    fn a_daemon_with_other_folders_finds_what_was_left() {
        let fixture = Fixture::new();
        let (retries, cookies) = ("net.ipv4.tcp_synack_retries", COOKIES_SETTING);
        fs::create_dir(fixture.folder.path().join("home")).expect("a folder");
        // A daemon that cannot write to the first place writes to the second; the next one reads both and writes to the
        // first.
        let (mut settings, _) = fixture.open_in(&["missing", ""], 7, 0);
        settings.bring_to(&[(retries, 1), (cookies, 2)].into());
        settings.note_cookies(500);
        drop(settings);
        let (settings, restored) = fixture.open_in(&["home", ""], 7, 400);
        assert_eq!((restored.len(), fixture.get(retries)), (1, "5".into()));
        drop(settings);
        let (settings, restored) = fixture.open_in(&["home", "elsewhere"], 7, 501);
        assert_eq!((restored.len(), fixture.get(cookies)), (1, "0".into()));
        assert!(!settings.journal.is_there());
        assert!(!Journal::new(&[fixture.folder.path()], 7).is_there());
    }

    #[test]
    fn whoever_may_only_put_files_into_the_folder_is_not_believed() {
        use std::os::unix::fs::chown;
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: only root can give files away");
            return;
        }
        let fixture = Fixture::new();
        let retries = "net.ipv4.tcp_synack_retries";
        let give = |path: &Path| chown(path, Some(23_456), None).expect("given away");
        let (mut settings, _) = fixture.open();
        settings.change(retries, "1").expect("changed");
        give(&fixture.folder.path().join("kernel-settings.7.json"));
        let journal = Journal::new(&[fixture.folder.path()], 7);
        assert!(journal.read().settings.is_empty());
        // The directory belongs to the service's user, and root restores what that user changed.
        give(fixture.folder.path());
        let (_, restored) = fixture.open();
        assert_eq!((restored.len(), fixture.get(retries)), (1, "5".into()));
    }

    #[test]
    fn a_journal_restores_nothing_but_the_settings_that_tcpguard_changes() {
        let fixture = Fixture::new();
        fixture.set("net.ipv4.ip_forward", "1");
        let victim = fixture.folder.path().join("victim");
        fs::write(&victim, "1").expect("written");
        let place = fixture.folder.path().join("kernel-settings.7.json");
        let retries = "net.ipv4.tcp_synack_retries";
        fixture.set(retries, "1");
        let journal = |name: &str, original: &str| {
            let setting = ChangedSetting { name: name.into(), original: original.into(), value: "1".into() };
            let entry = journal::Entry { namespace: 7, settings: vec![setting], cookies_until: 0 };
            serde_json::to_vec(&entry).expect("JSON")
        };
        for (name, original) in [
            (victim.to_str().expect("text"), "0"),
            ("net.ipv4.ip_forward", "0"),
            ("net.ipv4.tcp_synack_retries/../ip_forward", "0"),
            (retries, "256"),
            (retries, "-1"),
            (retries, "+5"),
            (retries, ""),
            (retries, "5\n6"),
        ] {
            fs::write(&place, journal(name, original)).expect("written");
            assert!(fixture.open().1.is_empty(), "{name} = {original:?}");
        }
        assert_eq!(
            (fs::read_to_string(&victim).expect("read"), fixture.get("net.ipv4.ip_forward")),
            ("1".into(), "1".into())
        );
        fs::write(&place, journal(retries, "5")).expect("written");
        assert_eq!((fixture.open().1.len(), fixture.get(retries)), (1, "5".into()));
    }

    #[test]
    fn links_in_place_of_the_journal_are_not_followed() {
        use std::os::unix::fs::symlink;
        let fixture = Fixture::new();
        let folder = fixture.folder.path();
        let retries = "net.ipv4.tcp_synack_retries";
        let (mut settings, _) = fixture.open();
        settings.change(retries, "1").expect("changed");
        drop(settings);
        // Read: the journal is elsewhere, and a link points to it.
        let place = folder.join("kernel-settings.7.json");
        fs::rename(&place, folder.join("elsewhere")).expect("moved");
        symlink(folder.join("elsewhere"), &place).expect("a link");
        assert!(fixture.open().1.is_empty());
        assert!(!place.exists(), "a journal that is not believed is removed");
        fs::hard_link(folder.join("elsewhere"), &place).expect("a link");
        assert!(fixture.open().1.is_empty(), "it may be somebody else's file");
        // Written: a link points to a file of root's.
        let victim = folder.join("victim");
        fs::write(&victim, "precious").expect("written");
        symlink(&victim, folder.join("kernel-settings.7.new")).expect("a link");
        symlink(&victim, &place).expect("a link");
        let (mut settings, _) = fixture.open();
        settings.change("net.ipv4.tcp_syncookies", "1").expect("changed");
        assert_eq!(fs::read_to_string(&victim).expect("read"), "precious");
        assert!(fs::symlink_metadata(&place).expect("a journal").is_file());
    }

    #[test]
    fn nothing_is_changed_that_cannot_be_written_down() {
        let fixture = Fixture::new();
        let (mut settings, _) = fixture.open_in(&["missing"], 7, 0);
        assert!(matches!(settings.change("net.ipv4.tcp_synack_retries", "1"), Err(SettingError::Journal(..))));
        assert_eq!(fixture.get("net.ipv4.tcp_synack_retries"), "5");
        let (mut settings, _) = fixture.open();
        assert!(settings.change("net.ipv4.no_such_setting", "1").is_err());
        assert!(settings.changed().is_empty());
    }

    #[test]
    fn what_is_wanted_is_brought_about_and_taken_back() {
        let fixture = Fixture::new();
        let (mut settings, _) = fixture.open();
        let (retries, cookies) = ("net.ipv4.tcp_synack_retries", "net.ipv4.tcp_syncookies");
        assert_eq!(settings.bring_to(&[(retries, 1), (cookies, 1)].into()).len(), 2);
        assert!(settings.bring_to(&[(retries, 1), (cookies, 1)].into()).is_empty());
        assert_eq!(settings.bring_to(&[(retries, 1), (cookies, 2)].into()).len(), 1);
        assert_eq!((fixture.get(retries), fixture.get(cookies)), ("1".into(), "2".into()));
        assert_eq!(settings.operators_number(cookies).ok(), Some(0));
        settings.bring_to(&[(cookies, 2)].into());
        assert_eq!((fixture.get(retries), fixture.get(cookies)), ("5".into(), "2".into()));
        settings.bring_to(&BTreeMap::new());
        assert_eq!(fixture.get(cookies), "0");
        assert!(!settings.journal.is_there());
    }

    #[test]
    fn what_cookies_depend_on_outlives_a_crash_while_they_are_good() {
        let fixture = Fixture::new();
        let (mut settings, _) = fixture.open();
        settings.bring_to(&[("net.ipv4.tcp_synack_retries", 1), (COOKIES_SETTING, 2)].into());
        settings.note_cookies(500);
        drop(settings);
        let (settings, restored) = fixture.open_when(400);
        assert_eq!((restored.len(), settings.cookies_until()), (1, 500));
        assert_eq!(
            (fixture.get("net.ipv4.tcp_synack_retries"), fixture.get(COOKIES_SETTING)),
            ("5".into(), "2".into())
        );
        drop(settings);
        let (settings, restored) = fixture.open_when(501);
        assert_eq!((restored.len(), settings.cookies_until()), (1, 0));
        assert_eq!(fixture.get(COOKIES_SETTING), "0");
    }

    #[test]
    fn fuzz_journal() {
        let fixture = Fixture::new();
        let retries = "net.ipv4.tcp_synack_retries";
        let place = fixture.folder.path().join("kernel-settings.7.json");
        let (mut settings, _) = fixture.open();
        settings.change(retries, "1").expect("changed");
        let seed = fs::read(&place).expect("a journal");
        crate::fuzz::run(&[&seed, br#"{"namespace":7,"settings":[],"cookies_until":1}"#], |bytes| {
            fs::write(&place, bytes).expect("written");
            let entry = Journal::new(&[fixture.folder.path()], 7).read();
            assert!(entry.settings.iter().all(ChangedSetting::is_known), "{:?}", String::from_utf8_lossy(bytes));
        });
    }
}
