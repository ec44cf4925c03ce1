//! What processors cost the daemon, in time and memory.

use std::{thread::sleep, time::Duration};

use anyhow::{Result, ensure};
use lab::machine::{Kernel, Processors};

use crate::guarded::Guarded;

/// How long the daemon's ticks are watched.
const WATCH: Duration = Duration::from_secs(30);

/// Prints the cost of a tick with 1, 16 and 64 processors, and the memory with 240 that may be plugged in.
pub fn print(kernel: &Kernel) -> Result<()> {
    let mut one = None;
    for (online, limit) in [(1, 1.0), (16, 2.0), (64, 6.0)] {
        let machine = Guarded::boot(kernel, Processors { online, possible: online, queues: 1 })?;
        machine.guard("")?;
        let before = machine.stats()?.cost;
        sleep(WATCH);
        let after = machine.stats()?.cost;
        let seconds = |cost: &tcpguard::api::model::Cost| cost.parts.tick_seconds + cost.parts.maps_seconds;
        let ticks = after.ticks - before.ticks;
        ensure!(ticks > 0, "the daemon does not tick");
        let tick = (seconds(&after) - seconds(&before)) / ticks as f64;
        let first = *one.get_or_insert(tick);
        println!(
            "{online:>3} processors: {:.2} ms for a tick ({ticks} ticks), {:.2} of that with one (limit {limit})",
            tick * 1000.0,
            tick / first
        );
    }
    fits(kernel)
}

/// Tests that the maps fit where 240 processors may be plugged in.
pub fn fits(kernel: &Kernel) -> Result<()> {
    let machine = Guarded::boot(kernel, Processors { online: 2, possible: 240, queues: 1 })?;
    machine.guard("")?;
    let memory = machine.stats()?.memory;
    println!("2 of 240 possible processors: {} of {} bytes, {}", memory.bytes, memory.limit_bytes, memory.largest(3));
    ensure!(memory.bytes <= memory.limit_bytes, "{memory:?}");
    Ok(())
}
