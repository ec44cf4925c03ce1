//! All rows, which takes a quarter of an hour: `cargo xtask test distance`. Each goes on after a row that fails.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{
    calm,
    floods::{self, Acquaintance, Forged},
};

/// How much later than without a daemon 99 % of the connections may be served.
const TOLERANCE: Duration = Duration::from_millis(1);

/// Runs every row and fails with what was wrong with each.
fn all<T>(rows: impl IntoIterator<Item = T>, check: impl Fn(&T) -> Result<()>) -> Result<()> {
    let problems: Vec<String> =
        rows.into_iter().filter_map(|row| check(&row).err()).map(|error| format!("{error:#}")).collect();
    ensure!(problems.is_empty(), "{}", problems.join("\n"));
    Ok(())
}

/// The rows of clients, the busiest of which lasts `busiest` seconds.
fn clients(busiest: u64) -> [calm::Row; 5] {
    [
        calm::Row::new(3000, 300, 2000, 10),
        calm::Row::new(3000, 150, 5000, 10),
        calm::Row::new(20_000, 60, 20_000, busiest).with_abandoned(),
        calm::Row::new(1, 300, 1000, 10),
        calm::Row::new(16, 80, 5000, 10),
    ]
}

#[test]
#[ignore = "takes minutes: cargo xtask test distance"]
fn clients_are_no_attack() -> Result<()> {
    all(clients(75), |row| {
        let (unguarded, guarded) = (row.unguarded()?.quantile(0.99), row.stays_calm()?.quantile(0.99));
        println!("p99 unguarded {unguarded:?}, guarded {guarded:?}");
        ensure!(guarded <= unguarded + TOLERANCE, "{row:?}: p99 {guarded:?}, unguarded {unguarded:?}");
        Ok(())
    })
}

#[test]
#[ignore = "takes minutes: cargo xtask test distance"]
fn clients_with_lost_packets_are_no_attack() -> Result<()> {
    all(clients(20).map(calm::Row::with_loss), |row| row.stays_calm().map(drop))
}

#[test]
#[ignore = "takes minutes: cargo xtask test distance"]
fn floods_of_a_whole_network_shut_nobody_out() -> Result<()> {
    let mut rows = Vec::new();
    for forged in [Forged::Network, Forged::NetworkIpv6] {
        for per_second in [1000, 10_000, 100_000, 400_000] {
            for client in [Acquaintance::Proven, Acquaintance::New] {
                for sends_resets in [true, false] {
                    rows.push(floods::Row { forged, sends_resets, ..floods::Row::new(per_second, client) });
                }
            }
        }
    }
    all(rows, floods::Row::is_served)
}
