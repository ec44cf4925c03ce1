//! The tables of the store, and the conversion between records and rows.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, Row, params};
use serde::de::DeserializeOwned;

use super::{Record, Saved, SavedBlock, SavedEntry};
use crate::{events::Event, lists::ListName, network::Network};

/// Events kept in the store.
const MAX_STORED: u64 = 100_000;
/// Events read at startup.
const MAX_READ: usize = 1000;
/// Blocks kept; the ones written longest ago are deleted first.
const MAX_BLOCKS: usize = 65_536;

/// Tables are only ever added, so an older version ignores the tables it does not know and finds the ones it does.
const SCHEMA: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA busy_timeout = 2000;
    CREATE TABLE IF NOT EXISTS events (id INTEGER PRIMARY KEY, time TEXT NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS list_entries (list TEXT NOT NULL, network TEXT NOT NULL, reason TEXT, until TEXT,
        PRIMARY KEY (list, network));
    CREATE TABLE IF NOT EXISTS blocks (network TEXT PRIMARY KEY, times INTEGER NOT NULL, lasts_ms INTEGER NOT NULL,
        let_in INTEGER NOT NULL, until TEXT NOT NULL, written INTEGER NOT NULL);
    CREATE INDEX IF NOT EXISTS blocks_by_age ON blocks (written);
    CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, body TEXT NOT NULL);";

/// The name of the row that holds the situation.
const SITUATION: &str = "situation";

pub(super) fn open(path: &Path) -> rusqlite::Result<(Connection, Saved)> {
    let connection = Connection::open(path)?;
    connection.execute_batch(SCHEMA)?;
    let saved = Saved {
        events: events(&connection)?,
        entries: rows(&connection, "SELECT list, network, reason, until FROM list_entries", entry)?,
        blocks: rows(&connection, "SELECT network, times, lasts_ms, let_in, until FROM blocks", block)?,
        situation: rows(&connection, "SELECT body FROM notes WHERE name = 'situation'", |row| json(row, 0))?.pop(),
    };
    Ok((connection, saved))
}

fn events(connection: &Connection) -> rusqlite::Result<Vec<Event>> {
    let latest = format!("SELECT body FROM events ORDER BY id DESC LIMIT {MAX_READ}");
    let mut events = rows(connection, &latest, |row| json(row, 0))?;
    events.reverse();
    Ok(events)
}

/// Returns every row that `read` understands; rows written by another version that this one does not understand are
/// omitted.
fn rows<T>(
    connection: &Connection,
    query: &str,
    read: impl Fn(&Row<'_>) -> rusqlite::Result<Option<T>>,
) -> rusqlite::Result<Vec<T>> {
    let mut statement = connection.prepare(query)?;
    let rows = statement.query_map([], |row| read(row))?;
    rows.filter_map(Result::transpose).collect()
}

fn json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<T>> {
    Ok(serde_json::from_str(&row.get::<_, String>(column)?).ok())
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Option<SavedEntry>> {
    let list = match row.get::<_, String>(0)?.as_str() {
        "allow" => ListName::Allow,
        "deny" => ListName::Deny,
        _ => return Ok(None),
    };
    let Ok(network) = row.get::<_, String>(1)?.parse::<Network>() else { return Ok(None) };
    let until = match row.get::<_, Option<String>>(3)? {
        None => None,
        // Without an end the entry would never expire.
        Some(text) => match serde_json::from_str(&text) {
            Ok(until) => Some(until),
            Err(_) => return Ok(None),
        },
    };
    Ok(Some(SavedEntry { list, network, reason: row.get(2)?, until }))
}

fn block(row: &Row<'_>) -> rusqlite::Result<Option<SavedBlock>> {
    let Ok(network) = row.get::<_, String>(0)?.parse::<Network>() else { return Ok(None) };
    let Some(until) = json(row, 4)? else { return Ok(None) };
    let lasts = Duration::from_millis(row.get(2)?);
    Ok(Some(SavedBlock { network, times: row.get(1)?, lasts, let_in: row.get(3)?, until }))
}

pub(super) fn write<'a>(connection: &Connection, records: impl Iterator<Item = &'a Record>) -> rusqlite::Result<()> {
    let transaction = connection.unchecked_transaction()?;
    for record in records {
        match record {
            Record::Event(event) => write_event(connection, event)?,
            Record::Entry(entry) => write_entry(connection, entry)?,
            Record::NoEntry(list, network) => {
                let mut delete =
                    connection.prepare_cached("DELETE FROM list_entries WHERE list = ?1 AND network = ?2")?;
                delete.execute(params![list.name(), network.to_string()])?;
            }
            Record::Block(block) => write_block(connection, block)?,
            Record::Situation(situation) => {
                let mut replace = connection.prepare_cached("INSERT OR REPLACE INTO notes VALUES (?1, ?2)")?;
                replace.execute(params![SITUATION, to_json(situation)?])?;
            }
        }
    }
    transaction.commit()
}

fn write_event(connection: &Connection, event: &Event) -> rusqlite::Result<()> {
    let mut insert = connection.prepare_cached("INSERT OR REPLACE INTO events VALUES (?1, ?2, ?3, ?4)")?;
    insert.execute(params![event.id, event.time.to_string(), event.kind.name(), to_json(event)?])?;
    if let Some(oldest) = event.id.checked_sub(MAX_STORED) {
        connection.prepare_cached("DELETE FROM events WHERE id <= ?1")?.execute([oldest])?;
    }
    Ok(())
}

fn write_entry(connection: &Connection, entry: &SavedEntry) -> rusqlite::Result<()> {
    let until = entry.until.as_ref().map(to_json).transpose()?;
    let mut replace = connection.prepare_cached("INSERT OR REPLACE INTO list_entries VALUES (?1, ?2, ?3, ?4)")?;
    replace.execute(params![entry.list.name(), entry.network.to_string(), entry.reason, until]).map(drop)
}

fn write_block(connection: &Connection, block: &SavedBlock) -> rusqlite::Result<()> {
    let number = "(SELECT coalesce(max(written), 0) + 1 FROM blocks)";
    let insert = format!("INSERT OR REPLACE INTO blocks VALUES (?1, ?2, ?3, ?4, ?5, {number})");
    connection.prepare_cached(&insert)?.execute(params![
        block.network.to_string(),
        block.times,
        block.lasts.as_millis() as i64,
        block.let_in as i64,
        to_json(&block.until)?
    ])?;
    let old = format!("DELETE FROM blocks WHERE written <= (SELECT max(written) FROM blocks) - {MAX_BLOCKS}");
    connection.prepare_cached(&old)?.execute([]).map(drop)
}

fn to_json(value: &impl serde::Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}
