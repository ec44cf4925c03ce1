//! Reads what the datapath counted by port: only what changed, which it marks.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use tcpguard_common::abi::port::{PORT_SLABS, PROTECTED_SLAB, place_in_slabs};

use super::{
    accounts::{Accounts, Named},
    ports::{PortSnapshot, Ports},
    redirected::Redirected,
};
use crate::{
    datapath::{DatapathError, maps::PortMap},
    kernel::{HalfOpenTable, Listeners},
};

/// Reads the counts one slab at a time, and keeps the accounts.
pub struct PortReader {
    map: PortMap,
    slabs: Vec<Slab>,
    accounts: Accounts,
    /// Ports that belong to a service with thresholds of its own.
    services: BTreeSet<u16>,
    /// How many ports protected networks have.
    protected: usize,
    redirected: Redirected,
    /// The listeners that were known when the busiest ports without one were found, by [`PortReader::advance`]'s `layout`.
    layout: Option<u64>,
    /// How many ticks are left in which every slab is read, whatever the marks tell.
    read_all: u32,
    /// The slab after the last one that was read in its turn.
    turn: usize,
}

/// Whether the counts of SYNs of one slab are read.
#[derive(Clone, Copy, Default)]
struct Slab {
    /// One of its ports has a listener or belongs to a service.
    is_open: bool,
    /// It changed, and was not read since.
    is_behind: bool,
}

/// In so many ticks after a takeover every slab is read: the previous daemon's programs, which mark elsewhere, still count for
/// a moment.
const READ_ALL: u32 = 5;

/// So many of the slabs that changed and have no listener are read in one tick. SYNs to all ports would otherwise have all of
/// them read in each.
const SLABS_IN_TURN: usize = 4;

impl PortReader {
    pub(super) fn new(map: PortMap, services: BTreeSet<u16>, protected: usize) -> Self {
        let (slabs, accounts, redirected) =
            (vec![Slab::default(); PORT_SLABS], Accounts::default(), Redirected::default());
        Self { map, slabs, accounts, services, protected, redirected, layout: None, read_all: 0, turn: 0 }
    }

    pub(super) fn set_services(&mut self, services: BTreeSet<u16>, protected: usize) {
        (self.services, self.protected) = (services, protected);
        self.layout = None;
    }

    /// Reads what a previous daemon has counted.
    pub(super) const fn begin_after(&mut self) {
        self.read_all = READ_ALL;
    }

    /// Reads the slabs that changed: those with a listener at once, others in turn. `tick` is the number of the last tick that
    /// granted a lease.
    ///
    /// `layout` changes whenever a listener opens or closes.
    pub(super) fn advance(&mut self, tick: u32, listeners: &Listeners, layout: u64) -> Result<(), DatapathError> {
        if self.layout.replace(layout) != Some(layout) {
            self.accounts.forget();
            self.slabs.iter_mut().for_each(|slab| slab.is_open = false);
            let open = listeners.by_port().map(|(port, _)| port).chain(self.services.iter().copied());
            let open = open.chain(self.redirected.ports().iter().copied());
            open.for_each(|port| self.slabs[place_in_slabs(port.into()).0].is_open = true);
            self.slabs[PROTECTED_SLAB].is_open = true;
        }
        let marks = self.map.read_marks()?;
        let reads_all = self.read_all > 0;
        self.read_all = self.read_all.saturating_sub(1);
        // A slab may have changed before the last lease was granted, and after it was read.
        let is_due = |mark: u32| reads_all || mark == tick || mark == tick.wrapping_sub(1);
        for ((index, slab), mark) in self.slabs.iter_mut().enumerate().zip(marks) {
            slab.is_behind |= is_due(mark.syn);
            if slab.is_behind && (slab.is_open || reads_all) {
                self.accounts.set_syn(index, self.map.read_syn(index)?);
                slab.is_behind = false;
            }
            if is_due(mark.handshakes) {
                let handshakes = self.map.read_handshakes(index)?;
                self.redirected.note(&handshakes, reads_all, Instant::now());
                self.accounts.set_handshakes(index, handshakes);
            }
        }
        for index in turns(&self.slabs, &mut self.turn) {
            self.accounts.set_syn(index, self.map.read_syn(index)?);
            self.slabs[index].is_behind = false;
        }
        if self.redirected.has_changed(listeners, Instant::now()) {
            self.layout = None;
            self.accounts.forget();
        }
        Ok(())
    }

    /// Returns the account of every port that has a listener, is redirected, belongs to a service or has half-open
    /// handshakes, and of the busiest other ports.
    pub(super) fn report(&mut self, listeners: &Arc<Listeners>, half_open: &Arc<HalfOpenTable>) -> Ports {
        let named = Named { services: &self.services, redirected: self.redirected.ports() };
        self.accounts.report(listeners, half_open, named)
    }

    /// Returns the accounts of the ports of protected networks, by their index.
    pub(super) fn protected(&self) -> Vec<PortSnapshot> {
        self.accounts.protected(self.protected)
    }

    /// Returns the ports that are redirected.
    pub(super) const fn redirected(&self) -> &BTreeSet<u16> {
        self.redirected.ports()
    }
}

/// Returns which slabs are read in their turn. The first is `next` or comes after it; `next` becomes the one after the last.
fn turns(slabs: &[Slab], next: &mut usize) -> Vec<usize> {
    let indices = (*next..slabs.len()).chain(0..*next);
    let turns: Vec<usize> = indices.filter(|index| slabs[*index].is_behind).take(SLABS_IN_TURN).collect();
    *next = turns.last().map_or(*next, |last| (last + 1) % slabs.len());
    turns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slabs_without_a_listener_are_read_in_turn() {
        let mut slabs: Vec<Slab> = (0..128).map(|_| Slab { is_behind: true, ..Slab::default() }).collect();
        let mut next = 126;
        assert_eq!((turns(&slabs, &mut next), next), (vec![126, 127, 0, 1], 2));
        // The first ones change again and again, and hold none of the others up.
        let mut read = BTreeSet::new();
        for _ in 0..32 {
            for index in turns(&slabs, &mut next) {
                slabs[index].is_behind = index < 2 * SLABS_IN_TURN;
                read.insert(index);
            }
        }
        assert_eq!(read, (0..128).collect());
        slabs.iter_mut().for_each(|slab| slab.is_behind = false);
        assert!(turns(&slabs, &mut next).is_empty());
    }
}
