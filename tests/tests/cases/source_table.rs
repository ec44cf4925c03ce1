//! The source table, loaded and filled without a network: who keeps his entry when it is full.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, ensure};
use lab::loaded::LoadedDatapath;
use tcpguard_common::{address::Address, tracking::source::SourceEntry};

/// The number of entries of the table that [`LoadedDatapath`] loads.
const MAX_SOURCES: usize = 4096;
/// An hour, in jiffies of a host with 1,000 of them a second.
const LONG: u64 = 3_600_000;

/// A datapath whose table is filled with sources of which nothing is known but that they sent SYNs.
struct Filled {
    datapath: LoadedDatapath,
    now: u64,
}

impl Filled {
    /// Loads the datapath, adds the sources that `prepare` adds, and then ten times as many others as the table may hold.
    fn new(prepare: impl FnOnce(&mut LoadedDatapath, u64) -> Result<()>) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let _entered = runtime.enter();
        let mut datapath = LoadedDatapath::load()?;
        let now = datapath.datapath.jiffies()?;
        prepare(&mut datapath, now)?;
        for number in 0..10 * MAX_SOURCES as u32 {
            let ipv4 = Address::from(std::net::IpAddr::from(Ipv4Addr::from(0x0a00_0000 + number)));
            let ipv6 =
                Address::from(std::net::IpAddr::from(Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(number))));
            // Sources that are needed longer may have all places of a set.
            datapath.datapath.block(if number.is_multiple_of(2) { ipv4 } else { ipv6 }, 0).ok();
        }
        Ok(Self { datapath, now })
    }

    fn entry(&self, source: Address) -> Result<Option<SourceEntry>> {
        Ok(self.datapath.maps.observed.sources.get(source)?)
    }
}

fn source(number: u8) -> Address {
    std::net::IpAddr::from([203, 0, 113, number]).into()
}

/// Gives a source an entry with this content.
fn set(datapath: &mut LoadedDatapath, source: Address, entry: SourceEntry) -> Result<()> {
    datapath.datapath.block(source, 0)?;
    Ok(datapath.maps.observed.sources.set(source, entry)?)
}

#[test]
fn who_is_proven_or_blocked_keeps_his_entry_however_many_others_come() -> Result<()> {
    let filled = Filled::new(|datapath, now| {
        for number in 0..20 {
            let proven = SourceEntry { syn: 7, last_seen: now, proven_until: now + LONG, ..SourceEntry::EMPTY };
            set(datapath, source(number), proven)?;
            datapath.datapath.block(source(100 + number), now + LONG)?;
            datapath.datapath.block(source(200 + number), 0)?;
        }
        Ok(())
    })?;
    for number in 0..20 {
        let proven = filled.entry(source(number))?.with_context(|| format!("proven source {number} lost its entry"))?;
        ensure!(proven.syn == 7, "{proven:?}");
        let blocked =
            filled.entry(source(100 + number))?.with_context(|| format!("blocked source {number} lost its entry"))?;
        ensure!(blocked.blocked_until == filled.now + LONG, "{blocked:?}");
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
    let mut listed = Vec::new();
    filled.datapath.maps.observed.sources.for_each(|source, _| listed.push(*source))?;
    ensure!(listed.len() == MAX_SOURCES, "{} entries", listed.len());
    for source in &listed {
        ensure!(filled.entry(*source)?.is_some(), "{source} is listed, but not found");
    }
    listed.sort_unstable();
    listed.dedup();
    ensure!(listed.len() == MAX_SOURCES, "sources are listed twice: {} are different", listed.len());
    Ok(())
}

#[test]
fn who_is_blocked_gets_an_entry_where_all_others_are_proven() -> Result<()> {
    let filled = Filled::new(|datapath, now| {
        for number in 0..2 * MAX_SOURCES as u32 {
            let address = std::net::IpAddr::from(Ipv4Addr::from(0xc612_0000 + number)).into();
            // A set may be full of them already.
            if datapath.datapath.block(address, 0).is_ok() {
                let proven = SourceEntry { last_seen: now, proven_until: now + LONG, ..SourceEntry::EMPTY };
                datapath.maps.observed.sources.set(address, proven)?;
            }
        }
        Ok(())
    })?;
    let mut proven = 0;
    filled.datapath.maps.observed.sources.for_each(|_, entry| proven += usize::from(entry.proven_until > 0))?;
    ensure!(proven * 10 > 9 * MAX_SOURCES, "only {proven} entries are proven");
    for number in 0..100 {
        filled.datapath.datapath.block(source(number), filled.now + 2 * LONG)?;
        ensure!(filled.entry(source(number))?.is_some(), "blocked source {number} has no entry");
    }
    Ok(())
}
