//! `cargo xtask test vm`: tests the Debian package, from installation to purge, in a virtual machine with systemd.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use lab::machine::{Debian, Kernel};
use xtask::bpf::toolchain::target_folder;

const SERIES: &str = "6.1";

/// The unit of the machine's only network.
const NETWORK: &str = "[Unit]
Description=The lab's network
Before=tcpguard.service
[Service]
Type=exec
ExecStart=/lab/vm-guest network
ExecStartPost=/bin/sh -c 'until test -e /run/lab-client; do sleep 0.1; done'
";

const TEST: &str = "[Unit]
Description=The test
Requires=lab-network.service
After=lab-network.service nginx.service tcpguard.service
[Service]
Type=exec
ExecStart=/lab/vm-guest test
StandardOutput=file:/dev/ttyS0
StandardError=file:/dev/ttyS0
";

fn main() -> Result<()> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [package, upgrade] = arguments.as_slice() else {
        anyhow::bail!("expected two packages as arguments: `cargo xtask test vm` builds them and runs this program");
    };
    ensure!(package.exists() && upgrade.exists(), "a package does not exist");
    let start = Instant::now();
    let cache = target_folder().join("vm");
    let kernel = Kernel::fetch(SERIES, &target_folder().join("kernels"))?;
    let debian = Debian::new(&kernel, &cache)?;
    add_lab(&debian, package, upgrade)?;
    println!("built the machine in {:.0} s", start.elapsed().as_secs_f64());
    let console = debian.boot(&kernel)?;
    for line in console.lines().filter_map(|line| line.trim().strip_prefix("vm: ")) {
        println!("{line}");
    }
    println!("{}: passed, in {:.0} s", kernel.name, start.elapsed().as_secs_f64());
    Ok(())
}

fn add_lab(debian: &Debian, package: &Path, upgrade: &Path) -> Result<()> {
    let guest =
        std::env::current_exe().context("cannot determine the path of this program")?.with_file_name("vm-guest");
    debian.add(&guest, "lab/vm-guest")?;
    debian.add(package, "lab/tcpguard.deb")?;
    debian.add(upgrade, "lab/upgrade.deb")?;
    debian.add_unit("lab-network.service", NETWORK)?;
    debian.add_unit("lab-test.service", TEST)
}
