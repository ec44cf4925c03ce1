//! What survives restarts: a SQLite file, written by a thread of its own, so that a slow disk holds nobody up.

mod moment;
mod schema;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
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
    lists::{ListName, Network},
};
pub use moment::Moment;

/// Records that may wait to be written.
const MOST_WAITING: usize = 4096;
/// Records that are written at once.
const MOST_AT_ONCE: usize = 256;

/// Why there is no store.
#[derive(Debug, Error)]
enum StoreError {
    #[error("{0} cannot be made: {1}")]
    Folder(PathBuf, io::Error),
    #[error("{0}: {1}")]
    Database(PathBuf, rusqlite::Error),
    #[error("no thread can be started for it: {0}")]
    Thread(io::Error),
}

/// Something that is to survive a restart.
#[derive(Clone, Debug)]
pub enum Record {
    /// An event.
    Event(Arc<Event>),
    /// An entry that a command put on a list.
    Entry(SavedEntry),
    /// It was taken off.
    NoEntry(ListName, Network),
    /// A block by judgement.
    Block(SavedBlock),
    /// How things stand.
    Situation(Box<Situation>),
}

/// An entry that a command put on a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedEntry {
    /// The list.
    pub list: ListName,
    /// Whom it is about.
    pub network: Network,
    /// Why it is there.
    pub reason: Option<String>,
    /// Until when, and for how long in all; `None` for no end.
    pub until: Option<(Moment, Duration)>,
}

/// A block by judgement: in force until its end, and remembered for as long again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedBlock {
    /// Whom it is against.
    pub network: Network,
    /// For which time.
    pub times: u32,
    /// How long it lasts in all.
    pub lasts: Duration,
    /// How many of its handshakes had been let in before.
    pub let_in: u64,
    /// Its end.
    pub until: Moment,
}

/// How things stood.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Situation {
    /// When that was.
    pub noted: Moment,
    /// The same by the clock that judgements go by.
    pub at: Duration,
    /// The state of the host and its services.
    pub state: State,
    /// The ports of each of these services.
    pub services: Vec<Vec<u16>>,
    /// Since when that is the state.
    pub state_since: Timestamp,
    /// When the attack began that is going on.
    pub attack_since: Option<Timestamp>,
    /// What was told of it.
    pub attack: Option<AttackSoFar>,
}

/// What was told of an attack that goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttackSoFar {
    /// When it began, by the clock that judgements go by.
    pub since: Duration,
    /// Of which kind it is.
    pub kind: Option<Kind>,
    /// SYNs up to then.
    pub syn: u64,
    /// Frames dropped up to then.
    pub dropped: u64,
    /// Blocks since.
    pub blocked: u64,
}

/// What was there when the store was opened.
#[derive(Debug, Default)]
pub struct Saved {
    /// The latest events, oldest first.
    pub events: Vec<Event>,
    /// Entries of lists.
    pub entries: Vec<SavedEntry>,
    /// Blocks.
    pub blocks: Vec<SavedBlock>,
    /// How things stood.
    pub situation: Option<Situation>,
}

enum Order {
    Write(Record),
    Flush(SyncSender<()>),
}

/// Writes records; copies share it. What waits is written when the last one is dropped.
#[derive(Clone, Default)]
pub struct Store(Option<Arc<Writer>>);

struct Writer {
    /// Too many records wait: said once, until there is room again.
    is_behind: AtomicBool,
    orders: Option<SyncSender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Store {
    /// Opens the store at `path`, and reads what is there. Where there can be none, nothing survives, which is said. A
    /// file that is no store is set aside.
    pub fn open(path: &Path) -> (Self, Saved) {
        match try_open(path) {
            Ok((writer, saved)) => (Self(Some(Arc::new(writer))), saved),
            Err(error) => {
                warn!(
                    "events, blocks and lists changed by commands will not survive a restart: {error}; see [store] in the configuration"
                );
                (Self::default(), Saved::default())
            }
        }
    }

    /// Has `record` written; where too many wait already it is lost at the next restart.
    pub fn write(&self, record: Record) {
        let Some(writer) = &self.0 else { return };
        let Some(orders) = &writer.orders else { return };
        let is_full = matches!(orders.try_send(Order::Write(record)), Err(TrySendError::Full(_)));
        if is_full != writer.is_behind.swap(is_full, Ordering::Relaxed) && is_full {
            warn!("the store does not keep up with what happens: something will not survive a restart");
        }
    }

    /// Waits until all is written.
    pub fn flush(&self) {
        let (done, wait) = sync_channel(1);
        if let Some(orders) = self.0.as_ref().and_then(|writer| writer.orders.as_ref())
            && orders.send(Order::Flush(done)).is_ok()
        {
            // An error means that the writer has ended: there is nothing to wait for.
            wait.recv().ok();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the store's thread ended badly");
        }
    }
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
    let (orders, received) = sync_channel(MOST_WAITING);
    let thread = std::thread::Builder::new()
        .name("tcpguard-store".to_owned())
        .spawn(move || write_all(&connection, &received))
        .map_err(StoreError::Thread)?;
    Ok((Writer { is_behind: AtomicBool::new(false), orders: Some(orders), thread: Some(thread) }, saved))
}

fn is_damaged(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt))
}

fn set_aside(path: &Path, error: &rusqlite::Error) -> Result<(), StoreError> {
    let aside = path.with_extension(format!("damaged-{}", Timestamp::now().as_second()));
    warn!(
        "the store {} is damaged ({error}): it is set aside as {}, and a new one begun; what only it knew is gone: past events, blocks, and entries of lists that commands made",
        path.display(),
        aside.display()
    );
    fs::rename(path, aside).map_err(|error| StoreError::Folder(path.to_owned(), error))?;
    // What SQLite has not yet brought into the file belongs to the damaged one.
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

fn write_all(connection: &Connection, orders: &Receiver<Order>) {
    let mut is_failing = false;
    while let Ok(first) = orders.recv() {
        let batch = std::iter::once(first).chain(orders.try_iter().take(MOST_AT_ONCE)).collect::<Vec<_>>();
        let records = batch.iter().filter_map(|order| match order {
            Order::Write(record) => Some(record),
            Order::Flush(_) => None,
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
                warn!("the store cannot be written, and what happens meanwhile will not survive a restart: {error}");
            }
        }
        for order in batch {
            if let Order::Flush(done) = order {
                // Who waited may have given up.
                done.send(()).ok();
            }
        }
    }
}

#[cfg(test)]
mod tests;
