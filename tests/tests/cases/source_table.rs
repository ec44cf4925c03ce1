//! The source table, loaded and filled without a network: who keeps his entry when it is full.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Barrier,
    thread,
};

use anyhow::{Context, Result, ensure};
use lab::loaded::LoadedDatapath;
use tcpguard_common::{address::Address, tracking::source::SourceEntry};

/// The number of entries of the table that [`LoadedDatapath`] loads.
const MAX_SOURCES: usize = 4096;
/// How long a completed handshake proves its source, by default, in seconds.
const PROVEN_FOR: u64 = 600;
/// How long a block lasts, in seconds.
const BLOCKED_FOR: u64 = 60;

/// A datapath whose table is filled with sources of which nothing is known but that they sent SYNs.
struct Filled {
    datapath: LoadedDatapath,
    times: Times,
}

/// Times in jiffies.
#[derive(Clone, Copy)]
struct Times {
    now: u64,
    /// The end of a proof of now.
    proven_until: u64,
    /// The end of a block of now.
    blocked_until: u64,
}

impl Filled {
    /// Loads the datapath, adds the sources that `prepare` adds, and then ten times as many others as the table may hold.
    fn new(prepare: impl FnOnce(&mut LoadedDatapath, Times) -> Result<()>) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let _entered = runtime.enter();
        let mut datapath = LoadedDatapath::load()?;
        datapath.grant_lease(0)?;
        let (now, second) = (datapath.datapath.jiffies()?, u64::from(datapath.datapath.ticks_per_second));
        let times = Times { now, proven_until: now + PROVEN_FOR * second, blocked_until: now + BLOCKED_FOR * second };
        prepare(&mut datapath, times)?;
        for number in 0..10 * MAX_SOURCES as u32 {
            // All places of its set may belong to sources that are needed longer.
            datapath.datapath.block(stranger(number), SEEN).ok();
        }
        Ok(Self { datapath, times })
    }

    fn entry(&self, source: Address) -> Result<Option<SourceEntry>> {
        Ok(self.datapath.maps.observed.sources.get(source)?)
    }
}

/// A block that is over gives a source an entry like a SYN does.
const SEEN: u64 = 1;

/// Returns one of many sources, of either family in turn.
fn stranger(number: u32) -> Address {
    let ipv6 = 0x2001_0db8_u128 << 96 | u128::from(number);
    let address: IpAddr = if number.is_multiple_of(2) {
        Ipv4Addr::from(0x0a00_0000 + number).into()
    } else {
        Ipv6Addr::from(ipv6).into()
    };
    address.into()
}

/// Returns the sources with an entry, in ascending order. Fails if one is listed twice, or is not found.
fn listed(datapath: &LoadedDatapath) -> Result<Vec<Address>> {
    let sources = &datapath.maps.observed.sources;
    let mut listed = Vec::new();
    sources.for_each(|source, _| listed.push(*source))?;
    listed.sort_unstable();
    for pair in listed.windows(2) {
        ensure!(pair[0] != pair[1], "{} is listed twice", pair[0]);
    }
    for source in &listed {
        ensure!(sources.get(*source)?.is_some(), "{source} is listed, but not found");
    }
    Ok(listed)
}

fn source(number: u8) -> Address {
    IpAddr::from([203, 0, 113, number]).into()
}

/// Gives a source an entry with this content.
fn set(datapath: &mut LoadedDatapath, source: Address, entry: SourceEntry) -> Result<()> {
    datapath.datapath.block(source, SEEN)?;
    Ok(datapath.maps.observed.sources.set(source, entry)?)
}

#[test]
fn who_is_proven_or_blocked_keeps_his_entry_however_many_others_come() -> Result<()> {
    let filled = Filled::new(|datapath, times| {
        for number in 0..20 {
            let proven = SourceEntry {
                syn: 7,
                last_seen: times.now,
                proven_until: times.proven_until,
                ..SourceEntry::default()
            };
            set(datapath, source(number), proven)?;
            // A block lasts shorter than a proof, or for ever.
            datapath.datapath.block(source(100 + number), if number == 0 { u64::MAX } else { times.blocked_until })?;
            datapath.datapath.block(source(200 + number), SEEN)?;
        }
        Ok(())
    })?;
    for number in 0..20 {
        let proven = filled.entry(source(number))?.with_context(|| format!("proven source {number} lost its entry"))?;
        ensure!(proven.syn == 7, "{proven:?}");
        let blocked =
            filled.entry(source(100 + number))?.with_context(|| format!("blocked source {number} lost its entry"))?;
        ensure!(blocked.blocked_until >= filled.times.blocked_until, "{blocked:?}");
        ensure!(
            filled.entry(source(200 + number))?.is_none(),
            "source {number} kept its entry, so that nothing was displaced"
        );
    }
    Ok(())
}

#[test]
fn the_table_holds_as_many_entries_as_it_may_and_each_is_listed_once() -> Result<()> {
    let filled = Filled::new(|_, _| Ok(()))?;
    let count = listed(&filled.datapath)?.len();
    // The last ones are for sets with few entries.
    ensure!((MAX_SOURCES - MAX_SOURCES / 64..=MAX_SOURCES).contains(&count), "{count} entries");
    Ok(())
}

#[test]
fn few_sources_are_listed_like_many() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _entered = runtime.enter();
    let loaded = LoadedDatapath::load()?;
    for count in [0, 1, 40, 400] {
        for number in 0..count {
            loaded.datapath.block(stranger(number), SEEN)?;
        }
        let mut expected: Vec<Address> = (0..count).map(stranger).collect();
        expected.sort_unstable();
        ensure!(listed(&loaded)? == expected, "not the {count} sources that have an entry");
    }
    Ok(())
}

/// Fails if CPUs that give a source an entry at the same time leave two, or a place that nobody can have.
#[test]
fn cpus_that_see_new_sources_at_the_same_time_give_each_one_entry() -> Result<()> {
    const ROUNDS: u32 = 20;
    const SOURCES: u32 = MAX_SOURCES as u32 * 3 / 4;
    let filled = Filled::new(|datapath, _| {
        for round in 0..ROUNDS {
            let start = Barrier::new(2);
            thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        start.wait();
                        for number in 0..SOURCES / ROUNDS {
                            datapath.datapath.block(stranger(1_000_000 + round * SOURCES + number), SEEN).ok();
                        }
                    });
                }
            });
        }
        let count = listed(datapath)?.len();
        ensure!(count * 100 >= SOURCES as usize * 99, "only {count} of {SOURCES} sources have an entry");
        Ok(())
    })?;
    let count = listed(&filled.datapath)?.len();
    ensure!((MAX_SOURCES - MAX_SOURCES / 64..=MAX_SOURCES).contains(&count), "the count is wrong: {count} entries");
    Ok(())
}

#[test]
fn who_is_blocked_gets_an_entry_where_all_others_are_proven() -> Result<()> {
    let filled = Filled::new(|datapath, times| {
        for number in 0..2 * MAX_SOURCES as u32 {
            let address = IpAddr::from(Ipv4Addr::from(0xc612_0000 + number)).into();
            // A set may be full of them already.
            if datapath.datapath.block(address, SEEN).is_ok() {
                let proven =
                    SourceEntry { last_seen: times.now, proven_until: times.proven_until, ..SourceEntry::default() };
                datapath.maps.observed.sources.set(address, proven)?;
            }
        }
        Ok(())
    })?;
    let mut proven = 0;
    filled.datapath.maps.observed.sources.for_each(|_, entry| proven += usize::from(entry.proven_until > 0))?;
    ensure!(proven * 10 > 9 * MAX_SOURCES, "only {proven} entries are proven");
    for number in 0..100 {
        let until = if number == 0 { u64::MAX } else { filled.times.blocked_until };
        filled.datapath.datapath.block(source(number), until)?;
        ensure!(filled.entry(source(number))?.is_some(), "blocked source {number} has no entry");
    }
    Ok(())
}
