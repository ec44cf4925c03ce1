//! The store: a SQLite file, written by a thread of its own, so that a slow disk holds nobody up.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
};

use rusqlite::{Connection, params};
use thiserror::Error;
use tracing::warn;

use super::Event;

/// Events that may wait to be written.
const MOST_WAITING: usize = 4096;
/// Events that are written at once.
const MOST_AT_ONCE: usize = 256;
/// Events that the store keeps.
const MOST_STORED: u64 = 100_000;
/// Events that are read at the start.
const MOST_READ: usize = 1000;

const SCHEMA: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA busy_timeout = 2000;
    CREATE TABLE IF NOT EXISTS events (id INTEGER PRIMARY KEY, time TEXT NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL);";

/// Why there is no store.
#[derive(Debug, Error)]
pub(super) enum StoreError {
    #[error("{0} cannot be made: {1}")]
    Folder(PathBuf, io::Error),
    #[error("{0}: {1}")]
    Database(PathBuf, rusqlite::Error),
    #[error("no thread can be started for it: {0}")]
    Thread(io::Error),
}

enum Order {
    Write(Arc<Event>),
    Flush(SyncSender<()>),
}

/// Writes events until it is dropped; what waits is written then.
pub(super) struct Store {
    orders: Option<SyncSender<Order>>,
    writer: Option<JoinHandle<()>>,
}

impl Store {
    /// Opens the store, and reads the latest events, oldest first. A file that is no store is set aside.
    pub fn open(path: &Path) -> Result<(Self, Vec<Event>), StoreError> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|error| StoreError::Folder(folder.to_owned(), error))?;
        }
        let failed = |error| StoreError::Database(path.to_owned(), error);
        let (connection, past) = match open(path) {
            Err(error) if is_damaged(&error) => {
                set_aside(path, &error)?;
                open(path).map_err(failed)?
            }
            opened => opened.map_err(failed)?,
        };
        let (orders, received) = sync_channel(MOST_WAITING);
        let writer = std::thread::Builder::new()
            .name("tcpguard-events".to_owned())
            .spawn(move || write_all(&connection, &received))
            .map_err(StoreError::Thread)?;
        Ok((Self { orders: Some(orders), writer: Some(writer) }, past))
    }

    /// Has `event` written; where too many wait already it is kept in memory alone.
    pub fn write(&self, event: Arc<Event>) {
        if let Some(orders) = &self.orders
            && let Err(TrySendError::Full(_)) = orders.try_send(Order::Write(event))
        {
            warn!("the event store does not keep up: an event was not stored");
        }
    }

    /// Waits until all is written.
    pub fn flush(&self) {
        let (done, wait) = sync_channel(1);
        if let Some(orders) = &self.orders
            && orders.send(Order::Flush(done)).is_ok()
        {
            // An error means that the writer has ended: there is nothing to wait for.
            wait.recv().ok();
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            warn!("the event store's thread ended badly");
        }
    }
}

fn open(path: &Path) -> rusqlite::Result<(Connection, Vec<Event>)> {
    let connection = Connection::open(path)?;
    connection.execute_batch(SCHEMA)?;
    let past = read(&connection)?;
    Ok((connection, past))
}

fn read(connection: &Connection) -> rusqlite::Result<Vec<Event>> {
    let mut statement = connection.prepare("SELECT body FROM events ORDER BY id DESC LIMIT ?1")?;
    let bodies = statement.query_map([MOST_READ], |row| row.get::<_, String>(0))?;
    let mut events = Vec::new();
    for body in bodies {
        // One that another version wrote and this one does not understand is left out.
        events.extend(serde_json::from_str::<Event>(&body?).ok());
    }
    events.reverse();
    Ok(events)
}

fn is_damaged(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt))
}

fn set_aside(path: &Path, error: &rusqlite::Error) -> Result<(), StoreError> {
    let aside = path.with_extension(format!("damaged-{}", jiff::Timestamp::now().as_second()));
    warn!("the event store {} is damaged ({error}): it is set aside as {}", path.display(), aside.display());
    fs::rename(path, aside).map_err(|error| StoreError::Folder(path.to_owned(), error))
}

fn write_all(connection: &Connection, orders: &Receiver<Order>) {
    let mut is_failing = false;
    while let Ok(first) = orders.recv() {
        let batch = std::iter::once(first).chain(orders.try_iter().take(MOST_AT_ONCE)).collect::<Vec<_>>();
        match write_batch(connection, &batch) {
            Ok(()) => is_failing = false,
            Err(error) if is_failing => tracing::debug!("events still cannot be stored: {error}"),
            Err(error) => {
                is_failing = true;
                warn!("events cannot be stored: {error}");
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

fn write_batch(connection: &Connection, batch: &[Order]) -> rusqlite::Result<()> {
    let transaction = connection.unchecked_transaction()?;
    for order in batch {
        let Order::Write(event) = order else { continue };
        let body = serde_json::to_string(&**event)
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
        transaction.prepare_cached("INSERT OR REPLACE INTO events VALUES (?1, ?2, ?3, ?4)")?.execute(params![
            event.id,
            event.time.to_string(),
            event.kind.name(),
            body
        ])?;
        if let Some(oldest) = event.id.checked_sub(MOST_STORED) {
            transaction.prepare_cached("DELETE FROM events WHERE id <= ?1")?.execute([oldest])?;
        }
    }
    transaction.commit()
}
