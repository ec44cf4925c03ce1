//! The source table ([`tcpguard_common::tracking::source_table`]).

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use tcpguard_common::{
    abi::counters::Counter,
    address::Address,
    atomic,
    tracking::{
        source::SourceEntry,
        source_table::{ALIKE, CLAIMED, EMPTY, Matches, Place, Position, Slab, Tags, WAYS, change, tag_of, word_of},
    },
};

use super::counters;
use crate::{lease, settings, source::Source, time};

/// The daemon sets the number of places before it loads the program.
#[btf_map]
static SOURCES: Array<Place, 1024> = Array::new();

/// The daemon sets the number of slabs before it loads the program.
#[btf_map]
static SOURCE_TAGS: Array<Slab, 1> = Array::new();

#[btf_map]
static SOURCES_HELD: Array<u64, 1> = Array::new();

/// Returns the entry of a source. The address of an entry is compared only if its tag is the source's.
#[inline(always)]
pub fn find<'a>(source: Source) -> Option<&'a mut SourceEntry> {
    let position = position_of(source);
    let mut matches = Matches::of(tags_at(position)?, position.tag);
    for _ in 0..ALIKE {
        if matches.is_empty() {
            break;
        }
        let place = place(position, matches.first())?;
        if place.address == source.address {
            return Some(&mut place.entry);
        }
        matches = matches.rest();
    }
    None
}

/// Gives a source an entry that is needed until `needed_until`, in jiffies. Returns false if it has one, or if the table has no
/// place: every entry that it could replace is needed longer.
#[inline(always)]
pub fn insert(source: Source, needed_until: u64) -> bool {
    let [high, low] = source.address.words();
    insert_address(high, low, needed_until) != 0
}

/// Adds one to a count that other CPUs may add to concurrently.
#[inline(always)]
pub fn count(counter: &mut u64) {
    atomic::add(counter, 1);
}

/// See [`insert`]; the source's address consists of the first two words. It is a global function, which the verifier checks
/// once: few packets get here, and the others would pay for its registers.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn insert_address(high: u64, low: u64, needed_until: u64) -> u32 {
    let source = Source::new(Address::from_words([high, low]));
    let position = position_of(source);
    let Some(tags) = tags_at(position) else { return 0 };
    if find(source).is_some() || Matches::of(tags, position.tag).are_all_that_are_compared() {
        return 0;
    }
    let Some(way) = claim_empty(tags).or_else(|| claim_replaceable(tags, position, needed_until)) else { return 0 };
    if let Some(place) = place(position, way) {
        place.address = source.address;
        place.entry = SourceEntry::EMPTY;
        place.entry.begin(time::jiffies(), lease::full_bucket());
    }
    atomic::add(&mut tags[word_of(way)], change(way, CLAIMED, position.tag));
    if has_another(source, tags, position, way) {
        // Two CPUs gave the source an entry. Each that sees the other's gives its own up, so that one remains at most.
        atomic::add(&mut tags[word_of(way)], change(way, position.tag, EMPTY));
        add_held(u64::MAX);
        return 0;
    }
    counters::add(Counter::SourcesAdmitted);
    1
}

/// Claims a place without an entry if the table may hold another one. Of two CPUs that want the same place at the same time, one
/// leaves its source without an entry until the next SYN.
#[inline(always)]
fn claim_empty(tags: &mut Tags) -> Option<u32> {
    let before = *tags;
    let free = Matches::of(&before, EMPTY);
    if free.is_empty() || *held()? >= u64::from(settings::max_sources()) {
        return None;
    }
    let way = free.first();
    let is_ours = claim(tags, before, way);
    if is_ours {
        add_held(1);
    }
    is_ours.then_some(way)
}

/// Claims the place of the set whose entry is needed least, unless that is needed after `needed_until`.
#[inline(always)]
fn claim_replaceable(tags: &mut Tags, position: Position, needed_until: u64) -> Option<u32> {
    let before = *tags;
    // The time and, in its lowest digit, the place: as one number, for which the verifier follows one path instead of one for
    // each place.
    let mut least = (needed_until + 1) * u64::from(WAYS);
    for way in 0..WAYS {
        let candidate = place(position, way)?.entry.kept_until() * u64::from(WAYS) + u64::from(way);
        if tag_of(&before, way) > CLAIMED && candidate < least {
            least = candidate;
        }
    }
    let is_any = least / u64::from(WAYS) <= needed_until;
    let way = least as u32 % WAYS;
    (is_any && claim(tags, before, way)).then_some(way)
}

/// Marks a place as claimed. Returns false if another CPU has changed the tags since they were read as `before`.
#[inline(always)]
fn claim(tags: &mut Tags, before: Tags, way: u32) -> bool {
    let word = word_of(way);
    let claimed = before[word].wrapping_add(change(way, tag_of(&before, way), CLAIMED));
    atomic::compare_exchange(&mut tags[word], before[word], claimed)
}

/// Returns whether a source has an entry in another place of its set than this one.
#[inline(always)]
fn has_another(source: Source, tags: &Tags, position: Position, own: u32) -> bool {
    let mut matches = Matches::of(tags, position.tag);
    for _ in 0..=ALIKE {
        if matches.is_empty() {
            break;
        }
        let way = matches.first();
        if way != own && place(position, way).is_some_and(|place| place.address == source.address) {
            return true;
        }
        matches = matches.rest();
    }
    false
}

#[inline(always)]
fn position_of(source: Source) -> Position {
    Position::of(source.hash, settings::source_slabs())
}

#[inline(always)]
fn tags_at<'a>(position: Position) -> Option<&'a mut Tags> {
    let slab = SOURCE_TAGS.get_ptr_mut(position.slab())?;
    // SAFETY: elements of an array live as long as the program. Tags are changed by atomic instructions only.
    Some(position.tags(unsafe { &mut *slab }))
}

#[inline(always)]
fn place<'a>(position: Position, way: u32) -> Option<&'a mut Place> {
    let place = SOURCES.get_ptr_mut(position.place(way))?;
    // SAFETY: elements of an array live as long as the program. If another CPU gives the place to another source meanwhile, a
    // count goes to that one. Counts that CPUs share are changed by atomic instructions only.
    Some(unsafe { &mut *place })
}

#[inline(always)]
fn held<'a>() -> Option<&'a mut u64> {
    let held = SOURCES_HELD.get_ptr_mut(0)?;
    // SAFETY: elements of an array live as long as the program, and the word is changed by atomic instructions only.
    Some(unsafe { &mut *held })
}

#[inline(always)]
fn add_held(amount: u64) {
    if let Some(held) = held() {
        atomic::add(held, amount);
    }
}
