//! Generates floods: each run permits the frame it is given into the plan's next frame.
//!
//! | program | purpose |
//! | --- | --- |
//! | [`flood`] | sends the frame through the interface given as its ingress (XDP live frames) |
//! | [`vary`] | passes the frame to the measured program by a tail call |
//! | [`insert_each`] | for comparison with tcpguard: adds every source to an LRU table |
//! | [`nothing`] | passes everything, as the baseline of measurements |
//! | [`reflect`] | answers everything, for comparison |
//! | [`drop_all`] | drops everything, for comparison |
//! | [`neighbour`] | counts and passes everything: another program on the server's interface |
//! | [`reply_path`] | passes frames for the client; without a program at the peer, veth delivers XDP_TX frames late |

#![no_std]
#![no_main]

#[path = "../../src/flood/plan.rs"]
mod plan;

use aya_ebpf::{
    Global,
    bindings::xdp_action,
    btf_maps::{Array, LruHashMap, ProgramArray},
    helpers::generated::{bpf_xdp_adjust_meta, bpf_xdp_adjust_tail},
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use plan::{Plan, Progress, Template};

#[unsafe(no_mangle)]
static PLAN: Global<Plan> = Global::new(Plan {
    seed: 1,
    source_base: 0,
    sources: 1,
    link_header: [0; plan::MAX_LINK_HEADER],
    link_header_words: 0,
    source_offset: 0,
    is_ipv6: 0,
    ip_checksum_offset: 0,
    tcp_offset: 0,
    ip_partial_sum: 0,
    tcp_partial_sum: 0,
    source_port: 1,
    source_ports: 1,
    destination_port: 1,
    destination_ports: 1,
    random: 0,
    sequence: 0,
});

#[btf_map]
static PROGRESS: Array<Progress, 1> = Array::new();

/// The frame to restore before each run; unused if its length is 0.
#[btf_map]
static TEMPLATE: Array<Template, 1> = Array::new();

/// The measured program, for [`vary`].
#[btf_map]
static NEXT: ProgramArray<1> = ProgramArray::new();

#[xdp]
pub fn flood(context: XdpContext) -> u32 {
    // A frame that its last receiver shortened (the SYN-ACK without timestamps) would be sent with that length: the kernel
    // updates the length only if the program changes the bounds (`ctx_was_changed` in net/bpf/test_run.c).
    // SAFETY: the helper checks its arguments.
    if unsafe { bpf_xdp_adjust_meta(context.ctx, -4) } != 0 {
        return xdp_action::XDP_ABORTED;
    }
    match restore(&context).and_then(|()| make_frame(&context)) {
        Some(()) => xdp_action::XDP_TX,
        None => xdp_action::XDP_ABORTED,
    }
}

#[xdp]
pub fn vary(context: XdpContext) -> u32 {
    if restore(&context).is_none() || make_frame(&context).is_none() {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: on success it does not return; without a next program, the frame passes.
    unsafe { NEXT.tail_call(&context, 0) };
    xdp_action::XDP_PASS
}

#[xdp]
pub fn insert_each(context: XdpContext) -> u32 {
    let plan = PLAN.load();
    if let Some(source) = read_source(&context, &plan) {
        match EACH.get_ptr_mut(source) {
            // SAFETY: the entry stays readable and writable until the program ends.
            Some(count) => unsafe { *count += 1 },
            None => drop(EACH.insert(source, 1, 0)),
        }
    }
    xdp_action::XDP_PASS
}

/// Sources, for [`insert_each`].
#[btf_map]
static EACH: LruHashMap<u64, u64, 262_144> = LruHashMap::new();

#[inline(always)]
fn read_source(context: &XdpContext, plan: &Plan) -> Option<u64> {
    let at = context.data() + plan.source_offset as usize;
    if at + 4 > context.data_end() {
        return None;
    }
    // SAFETY: the comparison above proves to the verifier that the bytes lie within the frame.
    let words = unsafe { [*(at as *const u16), *((at + 2) as *const u16)] };
    Some((words[0] as u64) << 16 | words[1] as u64)
}

/// The baseline of measurements.
#[xdp]
pub fn nothing(_: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Sends every IPv4 packet back to its source, as the fastest program that answers would.
#[xdp]
pub fn reflect(context: XdpContext) -> u32 {
    swap(&context).map_or(xdp_action::XDP_PASS, |()| xdp_action::XDP_TX)
}

/// Exchanges the Ethernet addresses and the IPv4 addresses, which leaves the checksums as they are.
#[inline(always)]
fn swap(context: &XdpContext) -> Option<()> {
    const HEADERS: usize = 14 + 20;
    let start = context.data();
    if start + HEADERS > context.data_end() || read_word(context, 12)? != 0x0800 {
        return None;
    }
    for (left, right) in [(0, 6), (2, 8), (4, 10), (26, 30), (28, 32)] {
        let (left, right) = ((start + left) as *mut u16, (start + right) as *mut u16);
        // SAFETY: the comparison above proves to the verifier that the bytes lie within the frame.
        unsafe { (*left, *right) = (*right, *left) };
    }
    Some(())
}

/// Drops every frame: what a flood costs whose receiver does nothing.
#[xdp]
pub fn drop_all(_: XdpContext) -> u32 {
    xdp_action::XDP_DROP
}

/// Number of frames that [`neighbour`] has seen.
#[btf_map]
static SEEN: Array<u64, 1> = Array::new();

/// Another program that was on the server's interface before tcpguard. It counts and passes everything.
#[xdp]
pub fn neighbour(_: XdpContext) -> u32 {
    if let Some(seen) = SEEN.get_ptr_mut(0) {
        // SAFETY: a word of a map; the lab sends on one CPU at a time.
        unsafe { *seen += 1 };
    }
    xdp_action::XDP_PASS
}

/// Drops replies to forged sources, which would not reach the attacker in a real network either.
#[xdp]
pub fn reply_path(context: XdpContext) -> u32 {
    match is_for_nobody(&context) {
        Some(true) => xdp_action::XDP_DROP,
        _ => xdp_action::XDP_PASS,
    }
}

/// Returns whether a frame is for one of the random sources of `Sources::RANDOM_IPV4` (198.19.0.0/16) or
/// `RANDOM_IPV6` (2001:db8:9:9::/64).
#[inline(always)]
fn is_for_nobody(context: &XdpContext) -> Option<bool> {
    match read_word(context, 12)? {
        0x0800 => Some(read_word(context, 30)? == 0xc613),
        0x86dd => {
            let words =
                [read_word(context, 38)?, read_word(context, 40)?, read_word(context, 42)?, read_word(context, 44)?];
            // The addresses of real clients in that network have zeros here.
            let is_long = read_word(context, 46)? | read_word(context, 48)? | read_word(context, 50)? != 0;
            Some(words == [0x2001, 0x0db8, 9, 9] && is_long)
        }
        _ => Some(false),
    }
}

#[inline(always)]
fn read_word(context: &XdpContext, offset: usize) -> Option<u16> {
    let at = context.data() + offset;
    if at + 2 > context.data_end() {
        return None;
    }
    // SAFETY: the comparison above proves to the verifier that the bytes lie within the frame.
    Some(u16::from_be(unsafe { *(at as *const u16) }))
}

/// The fields that vary from frame to frame.
struct Variation {
    source: u64,
    source_port: u16,
    destination_port: u16,
    sequence: u32,
}

#[inline(always)]
fn make_frame(context: &XdpContext) -> Option<()> {
    let plan = PLAN.load();
    let progress = PROGRESS.get_ptr_mut(0)?;
    // SAFETY: one flood runs on one CPU at a time.
    let progress = unsafe { &mut *progress };
    let variation = choose(&plan, progress);
    progress.frames += 1;
    write(context, &plan, &variation)
}

/// Rewrites the frame from the template, if there is one.
#[inline(always)]
fn restore(context: &XdpContext) -> Option<()> {
    let template = TEMPLATE.get(0)?;
    let length = template.length as usize;
    if length == 0 {
        return Some(());
    }
    let delta = length as isize - (context.data_end() - context.data()) as isize;
    // SAFETY: the helper checks its arguments.
    if delta != 0 && unsafe { bpf_xdp_adjust_tail(context.ctx, delta as i32) } != 0 {
        return None;
    }
    for (index, word) in template.words.iter().enumerate() {
        if 8 * index + 8 <= length {
            // The start of a frame is aligned to at least eight bytes.
            write_at(context, 8 * index, *word)?;
        }
    }
    let last = length & !7;
    for index in 0..3 {
        let at = last + 2 * index;
        if at + 2 <= length {
            let word = template.words.get((last / 8) & 15)? >> (16 * index);
            write_at(context, at & 127, word as u16)?;
        }
    }
    Some(())
}

#[inline(always)]
fn write_at<T: Copy>(context: &XdpContext, offset: usize, value: T) -> Option<()> {
    let at = context.data() + offset;
    if at + size_of::<T>() > context.data_end() {
        return None;
    }
    // SAFETY: the comparison above proves to the verifier that the bytes lie within the frame.
    unsafe { *(at as *mut T) = value };
    Some(())
}

#[inline(always)]
fn choose(plan: &Plan, progress: &mut Progress) -> Variation {
    if plan.random == 1 {
        let (first, second) = (next_random(plan, progress), next_random(plan, progress));
        Variation {
            source: plan.source_base.wrapping_add(below(plan.sources, first)),
            source_port: pick(plan.source_port, plan.source_ports, second & 0xffff),
            destination_port: pick(plan.destination_port, plan.destination_ports, second >> 16 & 0xffff),
            sequence: (second >> 32) as u32,
        }
    } else {
        let turn = progress.frames.checked_div(plan.sources).unwrap_or(0);
        Variation {
            source: plan.source_base.wrapping_add(below(plan.sources, progress.frames)),
            source_port: pick(plan.source_port, plan.source_ports, turn),
            destination_port: pick(plan.destination_port, plan.destination_ports, turn),
            sequence: plan.sequence.wrapping_add(below(plan.source_ports.into(), turn) as u32),
        }
    }
}

#[inline(always)]
fn pick(first: u32, count: u32, choice: u64) -> u16 {
    (first as u64 + below(count.into(), choice)) as u16
}

/// Returns `choice` modulo `limit`, where 0 means no limit.
#[inline(always)]
fn below(limit: u64, choice: u64) -> u64 {
    choice.checked_rem(limit).unwrap_or(choice)
}

/// Returns the next random number (xorshift64*).
#[inline(always)]
fn next_random(plan: &Plan, progress: &mut Progress) -> u64 {
    let mut state = if progress.random == 0 { plan.seed } else { progress.random };
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    progress.random = state;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

#[inline(always)]
fn write(context: &XdpContext, plan: &Plan, variation: &Variation) -> Option<()> {
    write_link_header(context, plan)?;
    let tcp = plan.tcp_offset as usize;
    let address_sum = if plan.is_ipv6 == 1 {
        write_words(context, plan.source_offset as usize, quarters(variation.source))?;
        sum(quarters(variation.source))
    } else {
        let words = halves(variation.source as u32);
        write_words(context, plan.source_offset as usize, words)?;
        let header_sum = fold(plan.ip_partial_sum + sum(words));
        write_words(context, plan.ip_checksum_offset as usize, [!header_sum])?;
        sum(words)
    };
    let [sequence_high, sequence_low] = halves(variation.sequence);
    let words = [variation.source_port, variation.destination_port, sequence_high, sequence_low];
    write_words(context, tcp, words)?;
    let segment_sum = fold(plan.tcp_partial_sum + address_sum + sum(words));
    write_words(context, tcp + 16, [!segment_sum])
}

#[inline(always)]
fn write_link_header(context: &XdpContext, plan: &Plan) -> Option<()> {
    for (index, word) in plan.link_header.into_iter().enumerate() {
        if index < plan.link_header_words as usize {
            write_words(context, 2 * index, [word])?;
        }
    }
    Some(())
}

#[inline(always)]
const fn quarters(value: u64) -> [u16; 4] {
    [(value >> 48) as u16, (value >> 32) as u16, (value >> 16) as u16, value as u16]
}

#[inline(always)]
const fn halves(value: u32) -> [u16; 2] {
    [(value >> 16) as u16, value as u16]
}

#[inline(always)]
fn sum<const WORDS: usize>(words: [u16; WORDS]) -> u32 {
    let mut sum = 0;
    for word in words {
        sum += word as u32;
    }
    sum
}

#[inline(always)]
const fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    (once + (once >> 16)) as u16
}

/// Writes big-endian words at an even offset.
#[inline(always)]
fn write_words<const WORDS: usize>(context: &XdpContext, offset: usize, words: [u16; WORDS]) -> Option<()> {
    let at = context.data() + offset;
    if at + 2 * WORDS > context.data_end() {
        return None;
    }
    for (index, word) in words.into_iter().enumerate() {
        // SAFETY: the comparison above proves to the verifier that the bytes lie within the frame.
        unsafe { *((at + 2 * index) as *mut u16) = word.to_be() };
    }
    Some(())
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
