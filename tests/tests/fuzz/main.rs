//! The same bytes through three parsers: that of `tcpguard-common`, the loaded programs at both hooks (BPF_PROG_TEST_RUN),
//! and etherparse. Requires root. `cargo xtask fuzz` runs it for long.

mod independent;
mod seeds;

use std::{
    panic::AssertUnwindSafe,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bolero::check;
use lab::loaded::LoadedDatapath;
use tcpguard::config::Hook;
use tcpguard_common::{
    abi::counters::{Counted, Counter},
    packet::{Segment, SegmentKind, Unread, parse},
};

/// The environment variable that sets how long the target runs, in seconds.
const VARIABLE: &str = "TCPGUARD_FUZZ_SECONDS";
const DEFAULT: Duration = Duration::from_secs(20);
/// The shortest frames that the kernel accepts for a test run at each hook: at traffic control, an IP header has to be whole.
const MIN_FRAME: usize = 14;
const MIN_FRAME_AT_TC: usize = 54;
const MAX_FRAME: usize = 1514;

/// One change of a seed: overwrite two bytes, or one of them, or cut or extend the frame.
type Change = (u16, u8, u16);

#[test]
fn fuzz_packets() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let _entered = runtime.enter();
    let hooks = [LoadedDatapath::load_at(Hook::Xdp)?, LoadedDatapath::load_at(Hook::Tc)?];
    let seeds = seeds::frames();
    for seed in &seeds {
        compare(&hooks, seed)?;
    }
    let compared = [AtomicU64::new(0), AtomicU64::new(0)];
    explore(&hooks, &seeds, &compared);
    let [others, tcp] = compared.map(AtomicU64::into_inner);
    println!("{} frames at both hooks, {tcp} of them with a TCP segment", others + tcp);
    ensure!(tcp > 0 && others > 0, "{tcp} segments, {others} other frames");
    Ok(())
}

/// Compares changed seeds until the time is over, and counts frames without a TCP segment and those with one.
fn explore(hooks: &[LoadedDatapath; 2], seeds: &[Vec<u8>], compared: &[AtomicU64; 2]) {
    let seconds = std::env::var(VARIABLE).ok().and_then(|seconds| seconds.parse().ok());
    // A difference ends the test, and nothing that it left behind is used again.
    let hooks = AssertUnwindSafe(hooks);
    check!().with_test_time(seconds.map_or(DEFAULT, Duration::from_secs)).with_type::<(usize, Vec<Change>)>().for_each(
        |(seed, changes)| {
            let hooks = &hooks;
            let frame = changed(&seeds[seed % seeds.len()], changes);
            match compare(hooks, &frame) {
                Ok(is_tcp) => compared[usize::from(is_tcp)].fetch_add(1, Ordering::Relaxed),
                Err(error) => panic!("{error:#}\n{frame:02x?}"),
            };
        },
    );
}

fn changed(seed: &[u8], changes: &[Change]) -> Vec<u8> {
    let mut frame = seed.to_vec();
    for (place, kind, value) in changes.iter().take(8) {
        // Most changes are within the headers.
        let place = usize::from(*place) % (frame.len().min(80) + 1);
        let [high, low] = value.to_be_bytes();
        match kind % 8 {
            0 => frame.truncate(MIN_FRAME.max(usize::from(*value) % (frame.len() + 1))),
            1 => frame.resize((frame.len() + usize::from(*value) % 64).min(MAX_FRAME), high),
            2 | 3 => frame.iter_mut().skip(place).zip([high, low]).for_each(|(there, byte)| *there = byte),
            4 => frame.iter_mut().skip(place).take(1).for_each(|there| *there ^= 1 << (low % 8)),
            _ => frame.iter_mut().skip(place).take(1).for_each(|there| *there = low),
        }
    }
    frame
}

/// Compares what the parsers find, and returns whether it is a TCP segment.
fn compare(hooks: &[LoadedDatapath; 2], frame: &[u8]) -> Result<bool> {
    let parsed = parse(frame);
    independent::compare(frame, &parsed)?;
    for (hook, datapath) in ["XDP", "tc"].into_iter().zip(hooks) {
        if hook == "tc" && frame.len() < MIN_FRAME_AT_TC {
            continue;
        }
        let counted = datapath.run(frame).with_context(|| hook.to_owned())?;
        ensure!(is_expected(&parsed, &counted), "{hook} counts {counted:?} for {parsed:?}");
    }
    Ok(parsed.is_ok())
}

/// Returns whether a frame is counted once, and as what it was parsed as.
fn is_expected(parsed: &Result<Segment, Unread>, counted: &[(Counter, u64)]) -> bool {
    let is_frame =
        |counter: &Counter| !matches!(counter.counted(), Counted::Frame | Counted::Event | Counted::WouldDrop);
    let frames: Vec<Counter> = counted.iter().map(|(counter, _)| *counter).filter(is_frame).collect();
    let [outcome] = frames[..] else { return false };
    let is_once = counted.iter().all(|(_, count)| *count == 1) && counted.contains(&(Counter::Packets, 1));
    is_once
        && match parsed {
            Err(reason) => outcome == Counter::from(*reason),
            Ok(segment) => match segment.flags.kind() {
                SegmentKind::Syn => matches!(outcome.counted(), Counted::SynBegun | Counted::SynNotBegun),
                kind => outcome == Counter::from(kind),
            },
        }
}
