//! `cargo xtask test vm`: the Debian package, from installing to purging, in a virtual machine with systemd.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use lab::machine::{Debian, Kernel};
use xtask::bpf::toolchain::target_folder;

const SERIES: &str = "6.1";

/// The network of the machine: it has no other.
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
        anyhow::bail!("which packages? `cargo xtask test vm` makes two, and runs this with them");
    };
    ensure!(package.exists() && upgrade.exists(), "there is no such package");
    let start = Instant::now();
    let cache = target_folder().join("vm");
    let kernel = Kernel::fetch(SERIES, &target_folder().join("kernels"))?;
    let debian = Debian::new(&kernel, &cache)?;
    add_lab(&debian, package, upgrade)?;
    println!("a machine was put together in {:.0} s", start.elapsed().as_secs_f64());
    let console = debian.boot(&kernel)?;
    for line in console.lines().filter_map(|line| line.trim().strip_prefix("vm: ")) {
        println!("{line}");
    }
    println!("{}: passed, in {:.0} s", kernel.name, start.elapsed().as_secs_f64());
    Ok(())
}

fn add_lab(debian: &Debian, package: &Path, upgrade: &Path) -> Result<()> {
    let guest = std::env::current_exe().context("cannot tell where this runs from")?.with_file_name("vm-guest");
    debian.add(&guest, "lab/vm-guest")?;
    debian.add(package, "lab/tcpguard.deb")?;
    debian.add(upgrade, "lab/upgrade.deb")?;
    debian.add_unit("lab-network.service", NETWORK)?;
    debian.add_unit("lab-test.service", TEST)
}
