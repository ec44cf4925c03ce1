//! Finding what is needed, and installing it where that is possible: on Debian as root, from its
//! packages; bpf-linker into the project's target folder. Elsewhere the commands are printed.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use xtask::bpf::toolchain::{Compiler, linker_folder, linker_root};

use crate::command::{cargo, is_installed, step};

const LINKER_VERSION: &str = "0.13.0";

/// Packages that bring a compiler with `core` for BPF.
const COMPILER_PACKAGES: &[&str] = &["rustc-web", "libstd-rust-web-dev-bpf"];

/// A program that is needed, and the Debian package it comes in.
type Tool = (&'static str, &'static str);

const LAB_TOOLS: &[Tool] = &[("ip", "iproute2"), ("nginx", "nginx-light"), ("ss", "iproute2"), ("ethtool", "ethtool")];

const TEST_TOOLS: &[Tool] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("dpkg-deb", "dpkg"),
    ("ldd", "libc-bin"),
    ("modinfo", "kmod"),
    ("nmap", "nmap"),
    ("tcpdump", "tcpdump"),
    ("nft", "nftables"),
    ("xdp-filter", "xdp-tools"),
];

/// Makes sure that the workspace can be built.
///
/// # Errors
/// Where something is missing that cannot be installed; the message says how to.
pub fn for_building() -> Result<()> {
    let compiler = match Compiler::find() {
        Some(compiler) => compiler,
        None => install_compiler()?,
    };
    let llvm = compiler.llvm_major().with_context(|| format!("cannot tell the LLVM version of {compiler}"))?;
    println!("BPF compiler: {compiler}, LLVM {llvm}");
    if linker_folder(llvm).is_none() {
        install_linker(llvm)?;
    }
    println!("bpf-linker:   {}", linker_root(llvm).join("bin/bpf-linker").display());
    Ok(())
}

/// Makes sure that the lab can run: name spaces, a web server, and root to make them.
pub fn for_lab() -> Result<()> {
    require_root("the lab makes network namespaces and loads BPF programs")?;
    install_tools(LAB_TOOLS)
}

/// Makes sure that every test can run.
pub fn for_tests() -> Result<()> {
    for_lab()?;
    install_tools(TEST_TOOLS)?;
    if matches!(Compiler::find(), Some(Compiler::ReadyMade { rustc }) if !rustc.with_file_name("cargo-clippy").exists())
    {
        install_packages(&["rust-web-clippy"])?;
    }
    Ok(())
}

/// Fails with the reason, unless this is root.
pub fn require_root(reason: &str) -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    bail!("this needs root, since {reason}: run it with sudo -E, or in a root shell");
}

fn install_compiler() -> Result<Compiler> {
    if !may_install() {
        bail!(
            "no compiler for BPF is installed, and none can be installed from here. As root on Debian: \
             `apt-get install {}`; elsewhere: `rustup toolchain install nightly --component rust-src`. \
             Then run this again",
            COMPILER_PACKAGES.join(" ")
        );
    }
    install_packages(COMPILER_PACKAGES)?;
    Compiler::find().context("Debian's BPF compiler was installed, but has no core for BPF")
}

fn install_linker(llvm: u32) -> Result<()> {
    let prefix = llvm_prefix(llvm)?;
    let mut install =
        cargo(["install", "bpf-linker", "--locked", "--version", LINKER_VERSION, "--no-default-features"]);
    install
        .arg("--features")
        .arg(format!("llvm-{llvm}"))
        .arg("--root")
        .arg(linker_root(llvm))
        // Without it the linker's build finds another LLVM's library folder.
        .env("LLVM_PREFIX", prefix);
    step(&format!("building bpf-linker {LINKER_VERSION} for LLVM {llvm} (about a minute)"), &mut install)
}

/// Where the LLVM of this version is installed, with its headers.
fn llvm_prefix(llvm: u32) -> Result<PathBuf> {
    let prefix = PathBuf::from(format!("/usr/lib/llvm-{llvm}"));
    let is_complete = |prefix: &Path| prefix.join("bin/llvm-config").exists();
    if !is_complete(&prefix) {
        let package = format!("llvm-{llvm}-dev");
        if !may_install() {
            bail!(
                "bpf-linker needs LLVM {llvm} with its headers, which cannot be installed from here. As root on \
                 Debian: `apt-get install {package}` (see apt.llvm.org for versions that Debian lacks). Then run this again"
            );
        }
        install_packages(&[&package])?;
    }
    if !is_complete(&prefix) {
        bail!("LLVM {llvm} was installed, but not under {}", prefix.display());
    }
    Ok(prefix)
}

fn install_tools(tools: &[Tool]) -> Result<()> {
    let missing: Vec<&Tool> = tools.iter().filter(|(program, _)| !is_installed(program)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
    packages.sort_unstable();
    packages.dedup();
    if !may_install() {
        let programs: Vec<&str> = missing.iter().map(|(program, _)| *program).collect();
        bail!(
            "{} missing; Debian has them in: apt-get install {}. Install them and run this again",
            programs.join(", "),
            packages.join(" ")
        );
    }
    install_packages(&packages)
}

fn may_install() -> bool {
    nix::unistd::geteuid().is_root() && is_installed("apt-get")
}

/// Installs Debian packages. Services that they bring are not started: the lab starts its own.
fn install_packages(packages: &[&str]) -> Result<()> {
    let _services_stay_down = ServicesStayDown::ask()?;
    step("reading Debian's package lists", Command::new("apt-get").args(["update", "-q"]))?;
    let mut install = Command::new("apt-get");
    install
        .args(["install", "-q", "-y", "--no-install-recommends"])
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive");
    step(&format!("installing {}", packages.join(", ")), &mut install)
}

/// Debian's way to keep packages from starting their services while they are installed
/// (invoke-rc.d(8)); removed again afterwards. A policy that is there already is left alone.
struct ServicesStayDown {
    created: bool,
}

const SERVICE_POLICY: &str = "/usr/sbin/policy-rc.d";
const POLICY_MARK: &str = "made by tcpguard's cargo xtask for the time of an installation; may be removed";

impl ServicesStayDown {
    fn ask() -> Result<Self> {
        let is_foreign = fs::read_to_string(SERVICE_POLICY).is_ok_and(|policy| !policy.contains(POLICY_MARK));
        if is_foreign {
            return Ok(Self { created: false });
        }
        // One of ours may stand there still, if an installation was interrupted.
        fs::write(SERVICE_POLICY, format!("#!/bin/sh\n# {POLICY_MARK}\nexit 101\n"))
            .with_context(|| format!("cannot write {SERVICE_POLICY}"))?;
        let policy = Self { created: true };
        fs::set_permissions(SERVICE_POLICY, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("cannot make {SERVICE_POLICY} executable"))?;
        Ok(policy)
    }
}

impl Drop for ServicesStayDown {
    fn drop(&mut self) {
        if self.created
            && let Err(error) = fs::remove_file(SERVICE_POLICY)
        {
            eprintln!("xtask: {SERVICE_POLICY} could not be removed ({error}): remove it, or services will not start");
        }
    }
}
