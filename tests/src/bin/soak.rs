//! `cargo xtask soak`: ten minutes of floods in phases.

use std::time::Duration;

use anyhow::Result;

fn main() -> Result<()> {
    lab::soak::run(Duration::from_secs(60), 3)?;
    println!("passed: everything is restored");
    Ok(())
}
