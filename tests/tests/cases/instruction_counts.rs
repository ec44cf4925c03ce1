//! How many instructions the verifier processes for each program, on all paths: a measure of the programs' complexity that
//! does not depend on the machine. A change of more than a tenth is either intended, and recorded here, or a regression.

use anyhow::{Context, Result, ensure};
use lab::loaded::LoadedDatapath;
use nix::sys::utsname::uname;
use tcpguard::config::Hook;

/// The kernel on which the numbers were recorded: each verifier counts differently.
const KERNEL: &str = "6.18.";
/// The share by which a number may differ.
const TOLERANCE: f64 = 0.1;

/// Programs, with their numbers at XDP and at traffic control.
const RECORDED: [(&str, u32, u32); 10] = [
    ("tcpguard", 423_342, 424_024),
    ("answer_syn", 94_870, 93_243),
    ("prompt_reset", 27_184, 27_088),
    ("handshake_completed", 117_478, 117_478),
    ("syn_ack_retried", 1_003, 1_003),
    ("judge_behind", 208_321, 208_275),
    ("segment_sent", 7_718, 7_718),
    ("clock", 12, 12),
    ("block_source", 93_337, 93_337),
    ("prime_listener", 769, 769),
];

#[test]
fn the_verifier_processes_as_many_instructions_as_recorded() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _entered = runtime.enter();
    let release = uname()?.release().to_string_lossy().into_owned();
    let mut problems = Vec::new();
    for (hook, is_xdp) in [(Hook::Xdp, true), (Hook::Tc, false)] {
        let mut loaded = LoadedDatapath::load_at(hook)?;
        loaded.datapath.observe_sent()?;
        for cost in loaded.datapath.verifier_costs()? {
            println!("{hook:?} {:<20} {:>7} instructions verified, {:>6} bytes", cost.name, cost.verified, cost.bytes);
            let found = RECORDED.iter().find(|(name, ..)| *name == cost.name);
            let (_, xdp, tc) = found.with_context(|| format!("{} has no recorded numbers", cost.name))?;
            let recorded = f64::from(if is_xdp { *xdp } else { *tc });
            if (f64::from(cost.verified) - recorded).abs() > recorded * TOLERANCE {
                problems.push(format!("{hook:?} {}: {} instead of {recorded}", cost.name, cost.verified));
            }
        }
    }
    if !release.starts_with(KERNEL) {
        println!("not compared: recorded on {KERNEL}x, this is {release}");
        return Ok(());
    }
    ensure!(problems.is_empty(), "record the new numbers if they are intended: {}", problems.join("; "));
    Ok(())
}
