//! The store: a SQLite file with what survives restarts. A thread of its own writes it, so that a slow disk does not
//! delay the daemon.

mod schema;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    time::Duration,
};

use jiff::Timestamp;
use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tracing::warn;

use crate::{
    detect::{Kind, State},
    events::Event,
    fault,
    lists::ListName,
    network::Network,
    time::PersistentTime,
};

/// Records that may be queued for writing.
const MAX_WAITING: usize = 4096;
/// How long to wait for the disk before going on without it.
const PATIENCE: Duration = Duration::from_secs(2);
/// Records written in one transaction.
const MAX_AT_ONCE: usize = 256;

/// Why the store cannot be opened.
#[derive(Debug, Error)]
enum StoreError {
    #[error("{0} cannot be created: {1}")]
    Folder(PathBuf, io::Error),
    #[error("{0}: {1}")]
    Database(PathBuf, rusqlite::Error),
    #[error("{0} cannot be opened: its disk does not answer")]
    Hangs(PathBuf),
    #[error("its thread cannot be started: {0}")]
    Thread(io::Error),
}

/// A change to the store.
#[derive(Clone, Debug)]
pub enum Record {
    /// An event to add.
    Event(Arc<Event>),
    /// A list entry to add: one that a command put on a list.
    Entry(SavedEntry),
    /// A list entry to remove.
    NoEntry(ListName, Network),
    /// A block to add or update.
    Block(SavedBlock),
    /// The present situation, replacing the previous one.
    Situation(Box<Situation>),
}

/// A list entry made by a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedEntry {
    /// The list.
    pub list: ListName,
    /// The network it applies to.
    pub network: Network,
    /// The reason given for the entry.
    pub reason: Option<String>,
    /// When it expires, and its total lifetime; `None` if it does not expire.
    pub until: Option<(PersistentTime, Duration)>,
}

/// A block: in force until its end, and remembered for as long again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedBlock {
    /// The blocked source or prefix.
    pub network: Network,
    /// How many times it has been blocked: 1 for the first block.
    pub times: u32,
    /// Total duration of the block.
    pub lasts: Duration,
    /// Number of its handshakes that had passed before the block.
    pub let_in: u64,
    /// When the block ends.
    pub until: PersistentTime,
}

/// The state of the daemon's judgement at one point in time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Situation {
    /// When it was recorded.
    pub noted: PersistentTime,
    /// The same point in time by the clock of the judgements.
    pub at: Duration,
    /// The state of the host and its services.
    pub state: State,
    /// The ports of each of these services.
    pub services: Vec<Vec<u16>>,
    /// The names of the `[[protect]]` sections.
    #[serde(default)]
    pub protected: Vec<String>,
    /// When the present state began.
    pub state_since: Timestamp,
    /// When the attack in progress began.
    pub attack_since: Option<Timestamp>,
    /// What has been reported of the attack in progress.
    pub attack: Option<AttackSoFar>,
}

/// What has been reported of the attack in progress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttackSoFar {
    /// When it began, by the clock of the judgements.
    pub since: Duration,
    /// Its kind.
    pub kind: Option<Kind>,
    /// SYNs counted before it began.
    pub syn: u64,
    /// Frames dropped before it began.
    pub dropped: u64,
    /// Blocks since it began.
    pub blocked: u64,
}

/// The content of the store when it was opened.
#[derive(Debug, Default)]
pub struct Saved {
    /// The latest events, oldest first.
    pub events: Vec<Event>,
    /// List entries made by commands.
    pub entries: Vec<SavedEntry>,
    /// Blocks.
    pub blocks: Vec<SavedBlock>,
    /// The last recorded situation.
    pub situation: Option<Situation>,
}

enum Request {
    Write(Record),
    Flush(SyncSender<()>),
}

/// A handle to the store; clones share it. Queued records are written when the last clone is dropped. The default is
/// a store that keeps nothing.
#[derive(Clone, Default)]
pub struct Store(Option<Arc<Writer>>);

struct Writer {
    /// Whether the queue is full; used to warn only once until there is room again.
    is_behind: AtomicBool,
    requests: Option<SyncSender<Request>>,
    /// Disconnected when the thread ends.
    ended: Mutex<Receiver<()>>,
}

impl Store {
    /// Opens the store at `path` and reads its content. If it cannot be opened, logs a warning and returns a store
    /// that keeps nothing. A damaged file is set aside.
    pub fn open(path: &Path) -> (Self, Saved) {
        match open_in_time(path) {
            Ok((writer, saved)) => (Self(Some(Arc::new(writer))), saved),
            Err(error) => {
                warn!(
                    "events, blocks and list entries made by commands will not survive a restart: {error}; see [store] in the configuration"
                );
                (Self::default(), Saved::default())
            }
        }
    }

    /// Queues `record` for writing. If the queue is full, the record is lost.
    pub fn write(&self, record: Record) {
        let Some(writer) = &self.0 else { return };
        let Some(requests) = &writer.requests else { return };
        let is_full = matches!(requests.try_send(Request::Write(record)), Err(TrySendError::Full(_)));
        if is_full != writer.is_behind.swap(is_full, Ordering::Relaxed) && is_full {
            warn!("the store is too slow: some events, blocks or list entries will not survive a restart");
        }
    }

    /// Waits until all queued records are written, but not for a disk that hangs.
    pub fn flush(&self) {
        let (done, wait) = sync_channel(1);
        let Some(requests) = self.0.as_ref().and_then(|writer| writer.requests.as_ref()) else { return };
        // With a full queue, the disk has been hanging for long.
        let is_slow = match requests.try_send(Request::Flush(done)) {
            Ok(()) => matches!(wait.recv_timeout(PATIENCE), Err(RecvTimeoutError::Timeout)),
            Err(error) => matches!(error, TrySendError::Full(_)),
        };
        if is_slow {
            warn!("the store's disk hangs: what was just changed may not survive a restart");
        }
    }
}

impl Drop for Writer {
    /// Waits until the queue is written, but not for a disk that hangs: the end of the process ends the thread.
    fn drop(&mut self) {
        drop(self.requests.take());
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        match ended.recv_timeout(PATIENCE) {
            Err(RecvTimeoutError::Timeout) => warn!("the store's disk hangs: the last changes are lost"),
            // The thread has dropped its end.
            Ok(()) | Err(RecvTimeoutError::Disconnected) => {}
        }
    }
}

/// Opens the store on a thread of its own, which is left behind if the disk hangs.
fn open_in_time(path: &Path) -> Result<(Writer, Saved), StoreError> {
    let (done, wait) = sync_channel(1);
    let owned = path.to_owned();
    let open = move || {
        fault::point("opening the store");
        // An error means that the caller no longer waits.
        done.send(try_open(&owned)).ok();
    };
    std::thread::Builder::new().name("tcpguard-open".to_owned()).spawn(open).map_err(StoreError::Thread)?;
    wait.recv_timeout(PATIENCE).unwrap_or_else(|_| Err(StoreError::Hangs(path.to_owned())))
}

fn try_open(path: &Path) -> Result<(Writer, Saved), StoreError> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|error| StoreError::Folder(folder.to_owned(), error))?;
    }
    let failed = |error| StoreError::Database(path.to_owned(), error);
    let (connection, saved) = match schema::open(path) {
        Err(error) if is_damaged(&error) => {
            set_aside(path, &error)?;
            schema::open(path).map_err(failed)?
        }
        opened => opened.map_err(failed)?,
    };
    let (requests, received) = sync_channel(MAX_WAITING);
    let (ending, ended) = sync_channel(1);
    std::thread::Builder::new()
        .name("tcpguard-store".to_owned())
        .spawn(move || {
            write_all(&connection, &received);
            // Told only once the database is closed.
            drop((connection, ending));
        })
        .map_err(StoreError::Thread)?;
    Ok((Writer { is_behind: AtomicBool::new(false), requests: Some(requests), ended: Mutex::new(ended) }, saved))
}

fn is_damaged(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt))
}

fn set_aside(path: &Path, error: &rusqlite::Error) -> Result<(), StoreError> {
    let aside = path.with_extension(format!("damaged-{}", Timestamp::now().as_second()));
    warn!(
        "the store {} is damaged ({error}): it is renamed to {} and a new one is created; past events, blocks and list entries made by commands are lost",
        path.display(),
        aside.display()
    );
    fs::rename(path, aside).map_err(|error| StoreError::Folder(path.to_owned(), error))?;
    // The write-ahead log belongs to the damaged file.
    for suffix in ["-wal", "-shm"] {
        let mut beside = path.as_os_str().to_owned();
        beside.push(suffix);
        if let Err(error) = fs::remove_file(&beside)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(StoreError::Folder(beside.into(), error));
        }
    }
    Ok(())
}

fn write_all(connection: &Connection, requests: &Receiver<Request>) {
    let mut is_failing = false;
    while let Ok(first) = requests.recv() {
        let batch = std::iter::once(first).chain(requests.try_iter().take(MAX_AT_ONCE)).collect::<Vec<_>>();
        let records = batch.iter().filter_map(|order| match order {
            Request::Write(record) => Some(record),
            Request::Flush(_) => None,
        });
        fault::point("writing to the store");
        match schema::write(connection, records) {
            Ok(()) if is_failing => {
                is_failing = false;
                warn!("the store can be written again");
            }
            Ok(()) => {}
            Err(error) if is_failing => tracing::debug!("the store still cannot be written: {error}"),
            Err(error) => {
                is_failing = true;
                warn!(
                    "the store cannot be written; events, blocks and list entries from now on will not survive a restart: {error}"
                );
            }
        }
        for order in batch {
            if let Request::Flush(done) = order {
                // An error means that the caller no longer waits.
                done.send(()).ok();
            }
        }
    }
}

#[cfg(test)]
mod tests;
