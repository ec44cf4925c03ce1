//! `cargo xtask test kernels`: the smoke test on Debian's kernels, each in a virtual machine.

use std::{path::Path, time::Instant};

use anyhow::{Context, Result};
use lab::machine::{Image, Kernel, boot};
use xtask::bpf::toolchain::target_folder;

const SERIES: [&str; 2] = ["6.1", "6.12"];
/// What the smoke test needs and the kernel may have as modules: veth, sock_diag for TCP, IPv6, traffic control, NAT,
/// IPVS and VLANs.
const MODULES: [&str; 14] = [
    "veth",
    "inet_diag",
    "tcp_diag",
    "ipv6",
    "sch_ingress",
    "cls_bpf",
    "nf_tables",
    "nf_conntrack",
    "nft_chain_nat",
    "nft_nat",
    "nft_masq",
    "ip_vs",
    "ip_vs_rr",
    "8021q",
];

fn main() -> Result<()> {
    let cache = target_folder().join("kernels");
    for series in SERIES {
        let start = Instant::now();
        let kernel = Kernel::fetch(series, &cache)?;
        let output = smoke(&kernel, &cache)?;
        for line in output.lines().filter(|line| {
            ["interfaces:", "features:", "totals:", "redirected:", "behind:", "VLAN:"]
                .iter()
                .any(|head| line.starts_with(head))
        }) {
            println!("{}: {line}", kernel.name);
        }
        println!("{}: loaded, attached and counted, in {:.0} s", kernel.name, start.elapsed().as_secs_f64());
    }
    println!("{} passed, 0 failed", SERIES.len());
    Ok(())
}

fn smoke(kernel: &Kernel, cache: &Path) -> Result<String> {
    let mut image = Image::new()?;
    let program = std::env::current_exe().context("cannot determine the path of this program")?.with_file_name("smoke");
    image.add_program(&program, "smoke")?;
    image.add_program(&lab::build::binary()?, "tcpguard")?;
    for tool in ["ip", "ethtool", "nft", "ipvsadm"] {
        image.add_tool(tool)?;
    }
    image.add_modules(kernel, &MODULES)?;
    let file = cache.join(format!("{}.cpio", kernel.name));
    image.write("/smoke", &file)?;
    boot(kernel, &file)
}
