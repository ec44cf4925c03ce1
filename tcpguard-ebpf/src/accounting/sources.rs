//! The source table ([`tcpguard_common::tracking::source_table`]).

use aya_ebpf::{bindings::BPF_F_MMAPABLE, btf_maps::Array, macros::btf_map};
use tcpguard_common::{
    abi::counters::Counter,
    address::Address,
    atomic,
    tracking::{
        source::{LATEST, SourceEntry, lesser},
        source_table::{ALIKE, CLAIMED, EMPTY, Matches, Place, Position, Slab, Tags, WAYS, change, tag_of, word_of},
    },
};

use super::counters;
use crate::{lease, settings, source::Source, time};

/// The daemon maps the table to read it. Arrays that may be mapped begin at a page, and elements of one cache line at one.
const MAPPED: usize = BPF_F_MMAPABLE as usize;

/// The daemon sets the number of places before it loads the program.
#[btf_map]
static SOURCES: Array<Place, 1024, MAPPED> = Array::new();

/// The daemon sets the number of slabs before it loads the program.
#[btf_map]
static SOURCE_TAGS: Array<Slab, 1, MAPPED> = Array::new();

#[btf_map]
static SOURCES_HELD: Array<u64, 1> = Array::new();

/// A set with fewer entries than this may take a place that is held in reserve.
const FEW: u32 = 4;
/// The part of the entries that is held in reserve.
const RESERVE: u64 = 64;
/// How often a place is given up before it is left.
const TRIES: u32 = 4;

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

/// What an entry is needed for that a source is to get. It decides which others it may replace.
#[derive(Clone, Copy)]
pub enum Need {
    /// The source sent a SYN, which may be forged: it replaces no source that is proven or blocked.
    Seen,
    /// It sends so many SYNs that it has to be watched: it replaces no source that is blocked or was proven just now.
    StandsOut,
    /// It completed a handshake.
    Proven,
    /// It is blocked until this time, in jiffies.
    Blocked { until: u64 },
}

impl Need {
    /// Returns the time that is compared with [`SourceEntry::kept_until`].
    #[inline(always)]
    fn until(self, jiffies: u64) -> u64 {
        let proven_until = jiffies + lease::proven_ticks();
        match self {
            Self::Seen => jiffies,
            Self::StandsOut => jiffies.max(proven_until - 1),
            Self::Proven => proven_until,
            Self::Blocked { until } => until.max(proven_until),
        }
    }
}

/// Gives a source an entry. Returns false if it has one, or if the table has no place for it.
#[inline(always)]
pub fn insert(source: Source, need: Need) -> bool {
    let [high, low] = source.address.words();
    insert_address(high, low, need.until(time::jiffies())) != 0
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
    let before = *tags;
    let free = Matches::of(&before, EMPTY);
    let claimed = if has_room(free) {
        claim_free(tags, before, free.first())
    } else {
        claim_replaceable(tags, before, position, needed_until)
    };
    let Some(way) = claimed else { return 0 };
    if let Some(place) = place(position, way) {
        place.address = source.address;
        place.entry.begin(time::jiffies(), lease::full_bucket());
    }
    // Ordered: whoever sees the tag sees the entry, and of two CPUs at least one sees the other's tag below.
    atomic::add_ordered(&mut tags[word_of(way)], change(way, CLAIMED, position.tag));
    if has_another(source, tags, position, way) {
        // Two CPUs gave the source an entry. Each that sees the other's gives its own up, so that one remains at most.
        give_up(tags, position, way);
        return 0;
    }
    counters::add(Counter::SourcesAdmitted);
    1
}

/// Returns whether the table may hold another entry, in a set with these free places. The last ones are for sets with few
/// entries, where nobody could be replaced.
#[inline(always)]
fn has_room(free: Matches) -> bool {
    let max = u64::from(settings::max_sources());
    let limit = if free.count() > WAYS - FEW { max } else { max - max / RESERVE };
    !free.is_empty() && held().is_some_and(|held| *held < limit)
}

/// Claims a place without an entry. Of two CPUs that want one of the same set at the same time, one leaves its source without an
/// entry until the next SYN.
#[inline(always)]
fn claim_free(tags: &mut Tags, before: Tags, way: u32) -> Option<u32> {
    let is_ours = claim(tags, before, way);
    if is_ours {
        add_held(1);
    }
    is_ours.then_some(way)
}

/// Claims the place of the set whose entry is needed least, unless that is needed after `needed_until`.
#[inline(always)]
fn claim_replaceable(tags: &mut Tags, before: Tags, position: Position, needed_until: u64) -> Option<u32> {
    let (jiffies, proven_ticks) = (time::jiffies(), lease::proven_ticks());
    let needed_until = needed_until.min(LATEST);
    // The time and, in its lowest digit, the place.
    let mut least = (needed_until + 1) * u64::from(WAYS);
    for way in 0..WAYS {
        let kept_until = place(position, way)?.entry.kept_until(jiffies, proven_ticks);
        if tag_of(&before, way) > CLAIMED {
            least = lesser(kept_until * u64::from(WAYS) + u64::from(way), least);
        }
    }
    let is_any = least / u64::from(WAYS) <= needed_until;
    let way = least as u32 % WAYS;
    (is_any && claim(tags, before, way)).then_some(way)
}

/// Marks a place as claimed. Returns false if another CPU has changed the tags since they were read as `before`.
#[inline(always)]
fn claim(tags: &mut Tags, before: Tags, way: u32) -> bool {
    exchange(tags, before, way, tag_of(&before, way), CLAIMED)
}

/// Removes the entry of a place, unless it is another source's by now. If other CPUs change the same tags all the time, it stays,
/// unused.
#[inline(always)]
fn give_up(tags: &mut Tags, position: Position, way: u32) {
    for _ in 0..TRIES {
        let before = *tags;
        if tag_of(&before, way) != position.tag {
            return;
        }
        if exchange(tags, before, way, position.tag, EMPTY) {
            add_held(u64::MAX);
            return;
        }
    }
}

/// Changes the tag of a place. Returns false if another CPU has changed its word since it was read.
#[inline(always)]
fn exchange(tags: &mut Tags, before: Tags, way: u32, from: u64, to: u64) -> bool {
    let word = word_of(way);
    atomic::compare_exchange(&mut tags[word], before[word], before[word].wrapping_add(change(way, from, to)))
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
    // SAFETY: elements of an array live as long as the program. If another CPU gives the place to another source meanwhile, what
    // is written of this one goes to that one. Counts that CPUs share are changed by atomic instructions only.
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
