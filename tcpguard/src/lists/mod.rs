//! The allow and deny lists. Entries come from the configuration, from files, from commands, and from the peers of SSH
//! sessions. An allow entry overrides every deny entry and block.

mod book;
mod cell;
mod entry;
mod files;
mod outline;
mod ssh;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, atomic},
    time::{Duration, Instant, SystemTime},
};

use tcpguard_common::abi::{
    lease::{Lease, flag},
    rule::{FOREVER, Rule},
};
use thiserror::Error;

use crate::{
    config::Config,
    datapath::{DatapathError, maps::RuleMap},
    events::{EventKind, EventLog, Note},
    fault, memory,
    network::{Network, NotANetwork},
    store::{Record, SavedEntry, Store},
    time::{DatapathTime, PersistentTime},
};
use book::ListBook;
use cell::Item;
pub use entry::{Entry, ListName, Origin};
use outline::Outline;
pub use ssh::SshWatch;

/// The longest duration of an entry.
const MAX_EXPIRY: Duration = Duration::from_secs(366 * 24 * 3600);
/// The maximum length of a reason, in characters.
const MAX_REASON: usize = 200;
/// How many networks are copied at once.
const PORTION: usize = 4096;
/// How many invalid lines of a file are reported one by one.
const MAX_PROBLEMS: usize = 10;

/// The reason a list was not changed.
#[derive(Debug, Error)]
pub enum ListError {
    /// The text is not a network.
    #[error(transparent)]
    NotANetwork(#[from] NotANetwork),
    /// The network is so wide that denying it may be a mistake.
    #[error(
        "{0} is so wide that denying it may be a mistake: --force (in JSON \"force\": true) denies it anyway; \
         sources on the allow list, including the peers of SSH sessions, would still be let in"
    )]
    TooWide(Network),
    /// The duration is too short or too long.
    #[error("an entry may last from a second to 366 days, not {0:?}; without a duration it lasts until it is removed")]
    BadExpiry(Duration),
    /// The reason is too long.
    #[error("a reason may have up to {MAX_REASON} characters")]
    LongReason,
    /// The list has no such entry.
    #[error("{network} is not on the {list} list{hint}")]
    NotListed {
        /// The network.
        network: Network,
        /// The list.
        list: &'static str,
        /// Additional advice, appended to the message.
        hint: String,
    },
    /// The lists are full.
    #[error("the lists are full: they hold up to {} networks", tcpguard_common::abi::rule::MAX_RULES)]
    Full,
    /// The datapath cannot be updated.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
}

/// The lists; clones share their contents.
#[derive(Clone)]
pub struct Lists {
    book: Arc<Mutex<ListBook>>,
    generation: Arc<atomic::AtomicU64>,
    /// The flags of the lease that belong to the rules.
    flags: Arc<atomic::AtomicU64>,
    events: EventLog,
    store: Store,
    time: Arc<DatapathTime>,
    files: WantedFiles,
    keep_ssh: Arc<atomic::AtomicBool>,
}

/// Writes the rules of `after` to the datapath, where those of `before` are in force, and returns the flags of the lease that
/// belong to them: for tests and benchmarks, which know the rules themselves. Both are in the order of their networks.
///
/// # Errors
/// Returns an error if the datapath cannot be updated.
pub fn replace_rules(
    rules: &mut RuleMap,
    before: &[(Network, Rule)],
    after: &[(Network, Rule)],
) -> Result<u64, DatapathError> {
    let mut outline = Outline::new(rules.hash_key());
    outline.update(Network::EVERYTHING, before.iter().copied(), &mut |_, _, _| Ok(()))?;
    for (network, _) in before {
        rules.remove(network.first(), network.length())?;
    }
    for (network, rule) in after {
        rules.set(network.first(), network.length(), *rule)?;
    }
    outline.update(Network::EVERYTHING, after.iter().copied(), &mut |table, word, value| {
        rules.set_word(table, word, value)
    })?;
    Ok(flag::RULES | outline.flags())
}

/// Re-reads the files of lists when they change.
pub struct FileWatch {
    files: BTreeMap<PathBuf, files::Followed>,
    lists: Lists,
}

/// The files to watch, which a reload changes.
type WantedFiles = Arc<Mutex<Vec<PathBuf>>>;

impl Lists {
    /// Creates the lists of the configuration, except for its files, which a [`FileWatch`] reads, and SSH sessions
    /// ([`Lists::watch_ssh`]).
    ///
    /// # Errors
    /// Returns an error if the datapath cannot be updated.
    pub fn start(
        config: &Config,
        rules: RuleMap,
        events: EventLog,
        (store, saved): (Store, &[SavedEntry]),
        time: Arc<DatapathTime>,
    ) -> Result<(Self, FileWatch), ListError> {
        let hash_key = rules.hash_key();
        let book = ListBook::new(Box::new(rules), hash_key);
        let (generation, flags) = (book.generation(), book.flags());
        let (book, files) = (Arc::new(Mutex::new(book)), WantedFiles::default());
        let lists = Self { generation, flags, book, events, store, time, files, keep_ssh: Arc::default() };
        lists.restore(saved);
        lists.reconfigure(config)?;
        let watch = FileWatch { files: BTreeMap::new(), lists: lists.clone() };
        Ok((lists, watch))
    }

    /// Applies a changed configuration. Its files are read by the [`FileWatch`] within a second; so is `keep_ssh` applied.
    ///
    /// # Errors
    /// Returns an error if the datapath cannot be updated or the lists are full.
    pub fn reconfigure(&self, config: &Config) -> Result<(), ListError> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&config.lists.deny_files);
        for (list, networks) in [(ListName::Allow, &config.lists.allow), (ListName::Deny, &config.lists.deny)] {
            let networks = networks.iter().copied().map(Network::from).collect();
            self.lock().replace(list, &Origin::Configuration, networks)?;
        }
        self.keep_ssh.store(config.lists.keep_ssh, atomic::Ordering::Relaxed);
        Ok(())
    }

    /// Returns `lists.keep_ssh` of the configuration.
    fn keeps_ssh(&self) -> bool {
        self.keep_ssh.load(atomic::Ordering::Relaxed)
    }

    /// Returns what keeps the peers of SSH sessions on the allow list.
    pub fn watch_ssh(&self) -> SshWatch {
        SshWatch::new(self.clone())
    }

    /// Restores the manual entries from before a restart. Entries that cannot be restored are reported.
    fn restore(&self, saved: &[SavedEntry]) {
        let now = PersistentTime::now();
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
                let message = format!("{} is no longer on the {} list: {error}", entry.network, entry.list.name());
                self.events.record(Note::new(EventKind::ListProblem, message).about(entry.network));
            }
        }
    }

    /// Adds `network` to a list, for `lasts` or until it is removed.
    ///
    /// # Errors
    /// Returns an error if the entry is invalid, the network is too wide and `is_forced` is not set, or the lists are
    /// full.
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
        if reason.is_some_and(|reason| reason.chars().count() > MAX_REASON) {
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
            until: lasts.map(|lasts| (PersistentTime::after(lasts), lasts)),
        }));
        // A client that received the confirmation may rely on the entry, even if the daemon crashes.
        self.store.flush();
        let how_long = lasts.map_or_else(String::new, |lasts| format!(" for {lasts:?}"));
        let why = reason.map_or_else(String::new, |reason| format!(": {reason}"));
        let message = format!("{network} was put on the {} list{how_long}{why}", list.name());
        self.events.record(Note::new(EventKind::ListChanged, message).about(network));
        Ok(entry)
    }

    /// Removes manual entries and those of SSH sessions from a list; `lifted` blocks were lifted by the same command.
    ///
    /// # Errors
    /// Returns an error if there was no such entry or block.
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
                let help = if list == ListName::Deny { ": `tcpguard allow` overrides it" } else { "" };
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

    /// Returns the first `limit` entries of each list, ordered by network. They are copied in portions, so that a long
    /// list does not block other users of the lock.
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

    /// Returns the entries that cover `network`, the widest networks first.
    pub fn covering(&self, network: Network) -> Vec<Entry> {
        self.lock().entries_covering(network).iter().map(|(network, item)| entry(*network, item)).collect()
    }

    /// Returns the lease with the present state of the lists.
    pub fn added_to(&self, lease: Lease) -> Lease {
        let flags = lease.flags & !flag::OF_LISTS | self.flags.load(atomic::Ordering::Relaxed);
        Lease { flags, generation: self.generation(), ..lease }
    }

    /// Returns the generation of the rules, which changes with every change of a rule and is never 0.
    pub fn generation(&self) -> u64 {
        self.generation.load(atomic::Ordering::Relaxed)
    }

    /// Returns `true` if `network` is on the allow list, or `None` while a long list is being changed.
    pub fn is_allowed(&self, network: Network) -> Option<bool> {
        self.try_lock().map(|book| book.is_allowed(network))
    }

    /// Blocks a prefix until `until` (jiffies). Returns `false`, without blocking, while a long list is being changed.
    ///
    /// # Errors
    /// Returns an error if the lists are full.
    pub fn block(&self, network: Network, until: u64) -> Result<bool, ListError> {
        match self.try_lock() {
            Some(mut book) => book.block(network, until).map(|_| true),
            None => Ok(false),
        }
    }

    /// Removes expired entries and blocks.
    ///
    /// # Errors
    /// Returns an error if the datapath cannot be updated.
    pub fn expire(&self) -> Result<(), ListError> {
        let Some(mut book) = self.try_lock() else { return Ok(()) };
        let expired = book.expire(self.time.now())?;
        drop(book);
        for (network, item) in expired {
            if item.origin == Origin::Manual {
                self.store.write(Record::NoEntry(item.list, network));
            }
            let message = format!("{network} is no longer on the {} list: the entry expired", item.list.name());
            self.events.record(Note::new(EventKind::ListChanged, message).about(network));
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, ListBook> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Acquires the lock without waiting, because the daemon's tick must not wait for a long file.
    fn try_lock(&self) -> Option<MutexGuard<'_, ListBook>> {
        match self.book.try_lock() {
            Ok(book) => Some(book),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl FileWatch {
    /// Reads the files that changed since the last call. If a file is missing or cannot be read, its previous contents
    /// stay in force.
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
        for (path, followed) in &mut self.files {
            let stamp = files::Stamp::of(path);
            if !followed.is_due(stamp, SystemTime::now(), Instant::now()) {
                continue;
            }
            let start = Instant::now();
            let read = files::read(path);
            // If it was written meanwhile, what was read may be neither the old contents nor the new.
            let is_whole = files::Stamp::of(path) == stamp;
            match read {
                _ if !is_whole => {}
                Ok(listing) => self.lists.take_file(path, listing),
                Err(error) => {
                    let message =
                        format!("the deny file {} cannot be read: {error}; what it said before holds", path.display());
                    self.lists.events.record(Note::new(EventKind::ListProblem, message).about(path.display()));
                }
            }
            followed.note_read(is_whole.then_some(stamp), start, Instant::now());
        }
    }
}

impl Lists {
    fn take_file(&self, path: &std::path::Path, listing: files::Listing) {
        let name = path.display().to_string();
        let count = listing.networks.len();
        for (line, problem) in listing.problems.iter().take(MAX_PROBLEMS) {
            let message = format!("{name}:{line}: {problem}; the line is ignored");
            self.events.record(Note::new(EventKind::ListProblem, message).about(&name));
        }
        if let Some(more) = listing.problems.len().checked_sub(MAX_PROBLEMS).filter(|more| *more > 0) {
            let message = format!("{name}: {more} more lines are invalid and ignored");
            self.events.record(Note::new(EventKind::ListProblem, message).about(&name));
        }
        let origin = Origin::File(name.as_str().into());
        let note = match self.lock().replace(ListName::Deny, &origin, listing.networks) {
            Ok(()) => Note::new(EventKind::ListChanged, format!("{name}: {count} networks are denied")),
            Err(error) => {
                Note::new(EventKind::ListProblem, format!("{name}: not all of its networks are denied: {error}"))
            }
        };
        self.events.record(note.about(&name));
        memory::trim();
    }
}

/// Checks the duration of an entry.
///
/// # Errors
/// Returns an error if it is shorter than a second or longer than 366 days.
pub fn check_duration(lasts: Option<Duration>) -> Result<(), ListError> {
    match lasts {
        Some(lasts) if lasts < Duration::from_secs(1) || lasts > MAX_EXPIRY => Err(ListError::BadExpiry(lasts)),
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
