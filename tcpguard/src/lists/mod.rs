//! Who is always let in, and who never: from the configuration, from files, by command, and the peers of
//! SSH sessions. Whoever is allowed is let in, whatever else is said.

mod book;
mod files;
mod network;
mod ssh;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, atomic},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tcpguard_common::{
    control::{Control, flag},
    rule::FOREVER,
};
use thiserror::Error;
use utoipa::ToSchema;

use crate::{
    config::Config,
    datapath::{DatapathError, maps::RuleMap},
    events::{EventKind, EventLog, Note},
    fault,
    monitor::in_ticks,
    store::{Moment, Record, SavedEntry, Store},
};
use book::{Item, ListBook};
pub use network::{Network, NotANetwork};

/// The longest that an entry may last.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);
/// The longest reason.
const LONGEST_REASON: usize = 200;
/// Networks that are copied at once.
const PORTION: usize = 4096;
/// Bad lines of a file that are told of one by one.
const MOST_PROBLEMS: usize = 10;

/// The lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ListName {
    /// Who is always let in.
    Allow,
    /// Who is never, unless allowed.
    Deny,
}

impl ListName {
    /// As it is shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// Where an entry comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The configuration.
    Configuration,
    /// A file of the configuration's `deny_files`.
    File(Arc<str>),
    /// A command.
    Manual,
    /// The peer of an SSH session.
    Ssh,
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configuration => formatter.write_str("configuration"),
            Self::File(path) => write!(formatter, "file {path}"),
            Self::Manual => formatter.write_str("manual"),
            Self::Ssh => formatter.write_str("ssh"),
        }
    }
}

/// Why a list was not changed.
#[derive(Debug, Error)]
pub enum ListError {
    /// It is no network.
    #[error(transparent)]
    NotANetwork(#[from] NotANetwork),
    /// It would shut out everybody.
    #[error(
        "{0} would shut out so many that it may be a mistake: --force (in JSON \"force\": true) insists on it; whoever is on the allow list, and the peers of SSH sessions, would still be let in"
    )]
    TooWide(Network),
    /// It would end at once, or never.
    #[error("an entry lasts for a second to 366 days, not for {0:?}; without a time it lasts until it is removed")]
    BadExpiry(Duration),
    /// The reason is too long.
    #[error("a reason has {LONGEST_REASON} characters at most")]
    LongReason,
    /// It is not on the list.
    #[error("{network} is not on the {list} list{hint}")]
    NotListed {
        /// The network.
        network: Network,
        /// The list.
        list: &'static str,
        /// What may help.
        hint: String,
    },
    /// There is no room.
    #[error("the lists are full: they have room for {} networks", tcpguard_common::layout::MOST_RULES)]
    Full,
    /// The datapath does not take it.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
}

/// One entry, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whom it is about.
    pub network: Network,
    /// Which list it is on.
    pub list: ListName,
    /// Where it comes from.
    pub origin: String,
    /// Why it is there.
    pub reason: Option<String>,
    /// Until when, in jiffies; `None` for no end.
    pub until: Option<u64>,
}

/// What time it is in the datapath, about: as of the daemon's last tick.
#[derive(Debug)]
pub struct DatapathTime {
    jiffies: atomic::AtomicU64,
    ticks_per_second: u32,
}

impl DatapathTime {
    /// It is now `jiffies`.
    pub const fn new(jiffies: u64, ticks_per_second: u32) -> Self {
        Self { jiffies: atomic::AtomicU64::new(jiffies), ticks_per_second }
    }

    /// It is now `jiffies`.
    pub fn set(&self, jiffies: u64) {
        self.jiffies.store(jiffies, atomic::Ordering::Relaxed);
    }

    /// Jiffies of now.
    pub fn now(&self) -> u64 {
        self.jiffies.load(atomic::Ordering::Relaxed)
    }

    /// When `duration` will have passed.
    pub fn after(&self, duration: Duration) -> u64 {
        self.now() + in_ticks(duration, self.ticks_per_second)
    }
}

/// The lists; copies share them.
#[derive(Clone)]
pub struct Lists {
    book: Arc<Mutex<ListBook>>,
    generation: Arc<atomic::AtomicU64>,
    events: EventLog,
    store: Store,
    time: Arc<DatapathTime>,
    files: WantedFiles,
}

/// Follows the files of lists.
pub struct FileWatch {
    /// What each was when it was last read; the outer `None` before the first time.
    files: BTreeMap<PathBuf, Option<Option<files::Stamp>>>,
    lists: Lists,
}

/// The files that are to be followed, which a reload changes.
type WantedFiles = Arc<Mutex<Vec<PathBuf>>>;

impl Lists {
    /// Those of the configuration, without its files, which a [`FileWatch`] reads.
    ///
    /// # Errors
    /// Where the datapath does not take them.
    pub fn start(
        config: &Config,
        rules: RuleMap,
        events: EventLog,
        (store, saved): (Store, &[SavedEntry]),
        time: Arc<DatapathTime>,
    ) -> Result<(Self, FileWatch), ListError> {
        let book = ListBook::new(Box::new(rules));
        let generation = book.generation();
        let (book, files) = (Arc::new(Mutex::new(book)), WantedFiles::default());
        let lists = Self { generation, book, events, store, time, files };
        lists.restore(saved);
        lists.take_up(config)?;
        let watch = FileWatch { files: BTreeMap::new(), lists: lists.clone() };
        Ok((lists, watch))
    }

    /// Holds to what a configuration says. Its files are read by the [`FileWatch`], a second later at most.
    ///
    /// # Errors
    /// Where the datapath does not take it, or there is no room.
    pub fn take_up(&self, config: &Config) -> Result<(), ListError> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&config.lists.deny_files);
        for (list, networks) in [(ListName::Allow, &config.lists.allow), (ListName::Deny, &config.lists.deny)] {
            let networks = networks.iter().copied().map(Network::from).collect();
            self.lock().replace(list, &Origin::Configuration, &networks)?;
        }
        if config.lists.keep_ssh {
            self.allow_ssh_peers()
        } else {
            self.lock().replace(ListName::Allow, &Origin::Ssh, &BTreeSet::new())
        }
    }

    /// Puts back what commands put on the lists before a restart. What cannot be is told of, and the rest holds.
    fn restore(&self, saved: &[SavedEntry]) {
        let now = Moment::now();
        for entry in saved {
            let left = entry.until.as_ref().map(|(until, lasts)| until.remaining(&now, *lasts));
            if left == Some(Duration::ZERO) {
                self.store.write(Record::NoEntry(entry.list, entry.network));
                continue;
            }
            let until = left.map_or(FOREVER, |left| self.time.after(left));
            let reason = entry.reason.as_deref().map(Into::into);
            let item = Item { list: entry.list, origin: Origin::Manual, reason, until };
            if let Err(error) = self.lock().insert(entry.network, item) {
                let message = format!("{} is on the {} list no longer: {error}", entry.network, entry.list.name());
                self.events.record(Note::new(EventKind::ListProblem, message).about(entry.network));
            }
        }
    }

    /// Allows the peers of current SSH sessions, and them alone.
    fn allow_ssh_peers(&self) -> Result<(), ListError> {
        match ssh::peers() {
            Ok(peers) => {
                let networks: BTreeSet<Network> = peers.into_iter().map(|peer| Network::of(peer.into())).collect();
                self.lock().replace(ListName::Allow, &Origin::Ssh, &networks)?;
                for network in networks {
                    let message = format!("{network} is allowed: it has an SSH session here");
                    self.events.record(Note::new(EventKind::ListChanged, message).about(network));
                }
                Ok(())
            }
            Err(error) => {
                let message = format!("the peers of SSH sessions cannot be allowed: {error}; allow them by hand");
                self.events.record(Note::new(EventKind::ListProblem, message));
                Ok(())
            }
        }
    }

    /// Puts `network` on a list, for a while or until it is removed.
    ///
    /// # Errors
    /// Where that would be a mistake, or there is no room.
    pub fn add(
        &self,
        list: ListName,
        network: Network,
        reason: Option<&str>,
        lasts: Option<Duration>,
        is_forced: bool,
    ) -> Result<Entry, ListError> {
        if list == ListName::Deny && network.is_too_wide() && !is_forced {
            return Err(ListError::TooWide(network));
        }
        check_duration(lasts)?;
        if reason.is_some_and(|reason| reason.chars().count() > LONGEST_REASON) {
            return Err(ListError::LongReason);
        }
        let until = lasts.map_or(FOREVER, |lasts| self.time.after(lasts));
        let item = Item { list, origin: Origin::Manual, reason: reason.map(Into::into), until };
        let entry = entry(network, &item);
        fault::point("changing a list");
        self.lock().insert(network, item)?;
        let reason_kept = reason.map(str::to_owned);
        self.store.write(Record::Entry(SavedEntry {
            list,
            network,
            reason: reason_kept,
            until: lasts.map(|lasts| (Moment::after(lasts), lasts)),
        }));
        // Who is told that it was done may rely on it, whatever becomes of the daemon.
        self.store.flush();
        let how_long = lasts.map_or_else(String::new, |lasts| format!(" for {lasts:?}"));
        let why = reason.map_or_else(String::new, |reason| format!(": {reason}"));
        let message = format!("{network} was put on the {} list{how_long}{why}", list.name());
        self.events.record(Note::new(EventKind::ListChanged, message).about(network));
        Ok(entry)
    }

    /// Takes off what a command, or an SSH session, put on a list; `lifted` blocks were lifted with it.
    ///
    /// # Errors
    /// Where there was nothing.
    pub fn remove(&self, list: ListName, network: Network, lifted: usize) -> Result<(), ListError> {
        let mut book = self.lock();
        let mut removed = book.remove(network, list, |origin| matches!(origin, Origin::Manual | Origin::Ssh))?;
        if list == ListName::Deny {
            removed += usize::from(book.block(network, 0)?);
        }
        if removed + lifted == 0 {
            let covering = book.entries_covering(network);
            let other = covering.iter().find(|(_, item)| item.list == list);
            let hint = other.map_or_else(String::new, |(wider, item)| {
                let help = if list == ListName::Deny { ": `tcpguard allow` lets it in nevertheless" } else { "" };
                format!(" by a command, but {wider} is, by {}{help}", item.origin)
            });
            return Err(ListError::NotListed { network, list: list.name(), hint });
        }
        drop(book);
        self.store.write(Record::NoEntry(list, network));
        self.store.flush();
        let message = format!("{network} was taken off the {} list", list.name());
        self.events.record(Note::new(EventKind::ListChanged, message).about(network));
        Ok(())
    }

    /// The first `limit` entries of each list, the networks in order. They are copied a portion at a time,
    /// so that nobody waits for a long list.
    pub fn entries(&self, limit: usize) -> Vec<Entry> {
        let (mut entries, mut last) = (Vec::new(), None);
        let mut left = [limit; 2];
        loop {
            let portion = self.lock().entries_after(last, PORTION);
            let Some((network, _)) = portion.last() else { return entries };
            last = Some(*network);
            for (network, item) in portion.iter().flat_map(|(network, items)| items.iter().map(|item| (*network, item)))
            {
                let left = &mut left[usize::from(item.list == ListName::Deny)];
                if *left > 0 {
                    *left -= 1;
                    entries.push(entry(network, item));
                }
            }
            if left == [0; 2] {
                return entries;
            }
        }
    }

    /// The entries that cover `network`, those of the widest first.
    pub fn covering(&self, network: Network) -> Vec<Entry> {
        self.lock().entries_covering(network).iter().map(|(network, item)| entry(*network, item)).collect()
    }

    /// The daemon's word, with the lists as they are now.
    pub fn within(&self, word: Control) -> Control {
        let flags = if self.is_empty() { word.flags & !flag::RULES } else { word.flags | flag::RULES };
        Control { flags, generation: self.generation(), ..word }
    }

    /// Whether there is anything to look up.
    fn is_empty(&self) -> bool {
        self.try_lock().is_some_and(|book| book.is_empty())
    }

    /// Changes with every change of a rule; never 0.
    pub fn generation(&self) -> u64 {
        self.generation.load(atomic::Ordering::Relaxed)
    }

    /// Whether `network` is on the allow list; `None` while a long list is being changed.
    pub fn is_allowed(&self, network: Network) -> Option<bool> {
        self.try_lock().map(|book| book.is_allowed(network))
    }

    /// Blocks a network by judgement until some time in jiffies; false while a long list is being changed.
    ///
    /// # Errors
    /// Where there is no room.
    pub fn block(&self, network: Network, until: u64) -> Result<bool, ListError> {
        match self.try_lock() {
            Some(mut book) => book.block(network, until).map(|_| true),
            None => Ok(false),
        }
    }

    /// Removes what has expired.
    ///
    /// # Errors
    /// Where the datapath does not take it.
    pub fn expire(&self) -> Result<(), ListError> {
        let Some(mut book) = self.try_lock() else { return Ok(()) };
        let expired = book.expire(self.time.now())?;
        drop(book);
        for (network, item) in expired {
            if item.origin == Origin::Manual {
                self.store.write(Record::NoEntry(item.list, network));
            }
            let message = format!("{network} is on the {} list no longer: its time is over", item.list.name());
            self.events.record(Note::new(EventKind::ListChanged, message).about(network));
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, ListBook> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The daemon's tick does not wait for a file of many lines.
    fn try_lock(&self) -> Option<MutexGuard<'_, ListBook>> {
        match self.book.try_lock() {
            Ok(book) => Some(book),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl FileWatch {
    /// Reads the files that changed since the last time. A file that is gone, or cannot be read, leaves what
    /// it said in force.
    pub fn review(&mut self) {
        let wanted = self.lists.files.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let gone: Vec<PathBuf> = self.files.keys().filter(|path| !wanted.contains(path)).cloned().collect();
        for path in gone {
            self.files.remove(&path);
            self.lists.take_file(&path, files::Listing::default());
        }
        for path in wanted {
            self.files.entry(path).or_default();
        }
        for (path, last) in &mut self.files {
            let stamp = files::Stamp::of(path);
            if *last == Some(stamp) {
                continue;
            }
            *last = Some(stamp);
            match files::read(path) {
                Ok(listing) => self.lists.take_file(path, listing),
                Err(error) => {
                    let message =
                        format!("the deny file {} cannot be read: {error}; what it said before holds", path.display());
                    self.lists.events.record(Note::new(EventKind::ListProblem, message).about(path.display()));
                }
            }
        }
    }
}

impl Lists {
    fn take_file(&self, path: &std::path::Path, listing: files::Listing) {
        let name = path.display().to_string();
        let count = listing.networks.len();
        for (line, problem) in listing.problems.iter().take(MOST_PROBLEMS) {
            let message = format!("{name}:{line}: {problem}; the line is left out");
            self.events.record(Note::new(EventKind::ListProblem, message).about(&name));
        }
        if let Some(more) = listing.problems.len().checked_sub(MOST_PROBLEMS).filter(|more| *more > 0) {
            let message = format!("{name}: {more} more lines cannot be read");
            self.events.record(Note::new(EventKind::ListProblem, message).about(&name));
        }
        let networks: BTreeSet<Network> = listing.networks.into_iter().collect();
        let origin = Origin::File(name.as_str().into());
        let note = match self.lock().replace(ListName::Deny, &origin, &networks) {
            Ok(()) => Note::new(EventKind::ListChanged, format!("{name}: {count} networks are denied")),
            Err(error) => Note::new(EventKind::ListProblem, format!("{name}: not all of it holds: {error}")),
        };
        self.events.record(note.about(&name));
    }
}

/// Whether an entry may last so long.
///
/// # Errors
/// Where it would end at once, or lasts longer than a year.
pub fn check_duration(lasts: Option<Duration>) -> Result<(), ListError> {
    match lasts {
        Some(lasts) if lasts < Duration::from_secs(1) || lasts > LONGEST => Err(ListError::BadExpiry(lasts)),
        _ => Ok(()),
    }
}

fn entry(network: Network, item: &Item) -> Entry {
    Entry {
        network,
        list: item.list,
        origin: item.origin.to_string(),
        reason: item.reason.as_deref().map(str::to_owned),
        until: (item.until != FOREVER).then_some(item.until),
    }
}
