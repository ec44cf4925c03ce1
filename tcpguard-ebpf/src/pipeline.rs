//! The packet pipeline: every stage that a frame passes, in order.
//!
//! A stage returns early with a verdict (`Err`), or the frame continues with the next one. Stages decide; [`accounting`]
//! only counts. A frame that no stage drops passes, whatever goes wrong.

use aya_ebpf::EbpfContext as _;
use tcpguard_common::{
    abi::{lease::flag, rule::Standing},
    packet::SegmentKind,
    tracking::source::SourceEntry,
};

use crate::{
    accounting::{self, sources},
    behind::{acknowledgement, hand_over},
    challenge::Challenge,
    hook::Context,
    lease, rules, stages,
    syn::Syn,
    verdict::Verdict,
};

/// Returns the verdict on a frame.
#[inline(always)]
pub fn inspect(context: &Context) -> Verdict {
    early_or_last(frame(context))
}

#[inline(always)]
fn frame(context: &Context) -> Result<Verdict, Verdict> {
    let segment = stages::parse(context)?;
    match segment.flags.kind() {
        SegmentKind::Syn => syn(context, &Syn::new(&segment)),
        kind @ SegmentKind::BadFlags => {
            stages::invalid_flags()?;
            Ok(Verdict::passed(kind))
        }
        kind @ SegmentKind::Rst => {
            stages::returned_reset(context, &segment)?;
            accounting::reset(context, &segment);
            stages::stray_filter(context, &segment, kind)?;
            Ok(Verdict::passed(kind))
        }
        kind @ (SegmentKind::Ack | SegmentKind::SynAck) => {
            if lease::flags() & flag::BEHIND != 0 {
                acknowledgement::acknowledged(context.as_ptr().cast(), segment.place());
            }
            stages::stray_filter(context, &segment, kind)?;
            Ok(Verdict::passed(kind))
        }
    }
}

#[inline(always)]
fn syn(context: &Context, syn: &Syn) -> Result<Verdict, Verdict> {
    stages::port_zero(syn)?;
    stages::impossible_source(syn)?;
    let standing = stages::lists(syn)?;
    stages::payload(syn, standing)?;
    stages::destination(context, syn, standing)?;
    judged(context, syn, standing)
}

/// Returns the verdict on a SYN to a destination behind this host, which another program has handed over.
#[inline(always)]
pub fn inspect_behind(context: &Context) -> Verdict {
    early_or_last(syn_behind(context))
}

#[inline(always)]
fn syn_behind(context: &Context) -> Result<Verdict, Verdict> {
    let segment = stages::parse(context)?;
    let Some(place) = hand_over::place() else { return Err(Verdict::SYN_FORWARDED) };
    let syn = Syn::behind(&segment, place);
    // The lists let it pass before.
    let standing = rules::standing_of(syn.source.address, syn.lease, syn.now);
    judged(context, &syn, standing)
}

/// The SYN asks for a handshake that is judged.
#[inline(always)]
fn judged(context: &Context, syn: &Syn, standing: Standing) -> Result<Verdict, Verdict> {
    if syn.lease.has(flag::OBSERVE_HEADERS) {
        accounting::observe_headers(syn.segment);
    }
    stages::signature(syn, standing)?;
    match sources::find(syn.source) {
        Some(entry) => syn_of_tracked_source(entry, syn, standing),
        None => syn_of_new_source(context, syn, standing),
    }
}

/// The source has an entry in the source table.
#[inline(always)]
fn syn_of_tracked_source(entry: &mut SourceEntry, syn: &Syn, standing: Standing) -> Result<Verdict, Verdict> {
    sources::count(&mut entry.syn);
    let arrival = stages::source_limits(entry, syn, standing)?;
    let challenge = stages::challenge_of_tracked(entry, syn, standing);
    stages::repeat_limit(entry, syn, arrival, challenge.is_cookie())?;
    stages::hold_back(challenge, syn, arrival).inspect_err(|_| accounting::held_back(entry))?;
    accounting::observe_distinct(syn.source, syn.now);
    Ok(handshake(entry, syn, challenge))
}

/// The source has no entry. It gets one unless a flood of new sources is going on, and then if it stands out.
#[inline(always)]
fn syn_of_new_source(context: &Context, syn: &Syn, standing: Standing) -> Result<Verdict, Verdict> {
    stages::own_source(syn)?;
    let arrival = stages::blocked_prefix(syn, standing)?;
    let challenge = stages::challenge_of_new(syn, standing);
    stages::hold_back(challenge, syn, arrival)?;
    accounting::observe_distinct(syn.source, syn.now);
    match accounting::admit(context, syn.source, syn.segment, syn.now, syn.lease, challenge.is_cookie()) {
        Some(entry) => Ok(handshake(entry, syn, challenge)),
        None => {
            accounting::untracked(syn.source, syn.place, syn.now, challenge.is_cookie());
            note_return(syn, challenge);
            Ok(challenge.applied_to(Verdict::SYN_UNTRACKED))
        }
    }
}

/// Begins a handshake, unless the SYN is a retransmit.
#[inline(always)]
fn handshake(entry: &mut SourceEntry, syn: &Syn, challenge: Challenge) -> Verdict {
    let verdict = early_or_last(begin_handshake(entry, syn, challenge));
    if verdict.is_challenged() {
        sources::count(&mut entry.challenged);
    }
    verdict
}

#[inline(always)]
fn begin_handshake(entry: &mut SourceEntry, syn: &Syn, challenge: Challenge) -> Result<Verdict, Verdict> {
    stages::retransmit(syn, challenge)?;
    let port = syn.segment.destination_port;
    accounting::handshake_begun(entry, syn.source, port, syn.place, syn.now, challenge.is_cookie());
    note_return(syn, challenge);
    Ok(challenge.applied_to(Verdict::passed(SegmentKind::Syn)))
}

/// Notes that the client of a SYN that begins a handshake has come back.
#[inline(always)]
fn note_return(syn: &Syn, challenge: Challenge) {
    if matches!(challenge, Challenge::Reset | Challenge::Retransmit) {
        accounting::came_back(syn.place.number);
    }
}

#[inline(always)]
fn early_or_last(verdict: Result<Verdict, Verdict>) -> Verdict {
    match verdict {
        Ok(verdict) | Err(verdict) => verdict,
    }
}
