//! Finding what is needed, and installing it where that is possible: on Debian as root, from its
//! packages; bpf-linker into the project's target folder. Elsewhere the commands are printed.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use xtask::bpf::toolchain::{Compiler, linker_folder, linker_root, target_folder, workspace};

use crate::command::{cargo, is_installed, step};

const SCHEMATHESIS_VERSION: &str = "4.32.5";
const LINKER_VERSION: &str = "0.13.0";

/// Packages that bring a compiler with `core` for BPF.
const COMPILER_PACKAGES: &[&str] = &["rustc-web", "libstd-rust-web-dev-bpf"];

/// A program that is needed, and the Debian package it comes in.
type Tool = (&'static str, &'static str);

/// What each lab test needs.
const LAB_TOOLS: &[Tool] = &[("ip", "iproute2"), ("nginx", "nginx-light"), ("ss", "iproute2"), ("ethtool", "ethtool")];

/// What the dashboard is built with.
const NODE: &[Tool] = &[("node", "nodejs"), ("npm", "npm")];

/// What the lab tests of one module need beside [`LAB_TOOLS`].
const MODULE_TOOLS: &[(&str, &[Tool])] = &[
    ("answers", &[("tcpdump", "tcpdump")]),
    ("dashboard", &[("chromium", "chromium"), ("node", "nodejs"), ("npm", "npm")]),
    ("doctor", &[("sysctl", "procps")]),
    ("faults", &[("faketime", "faketime")]),
    ("gateway", &[("nmap", "nmap")]),
    ("hostile", &[("nmap", "nmap")]),
    ("prometheus", &[("promtool", "prometheus"), ("prometheus", "prometheus")]),
    ("reachability", &[("nft", "nftables")]),
    ("redirected", &[("nft", "nftables")]),
    ("safe_reset", &[("nft", "nftables")]),
    ("web", &[("python3", "python3")]),
];

const BENCH_TOOLS: &[Tool] =
    &[("nft", "nftables"), ("prometheus-node-exporter", "prometheus-node-exporter"), ("xdp-filter", "xdp-tools")];

/// What other kernels are booted with.
const KERNEL_TOOLS: &[Tool] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("dpkg-deb", "dpkg"),
    ("ipvsadm", "ipvsadm"),
    ("ldd", "libc-bin"),
    ("modinfo", "kmod"),
    ("nft", "nftables"),
];

/// What packages are examined and tried out with.
const PACKAGE_TOOLS: &[Tool] = &[
    ("debootstrap", "debootstrap"),
    ("depmod", "kmod"),
    ("lintian", "lintian"),
    ("mke2fs", "e2fsprogs"),
    ("qemu-system-x86_64", "qemu-system-x86"),
];

/// Makes sure that packages can be examined and tried out.
///
/// # Errors
/// Without root, or where something is missing that cannot be installed.
pub fn for_packages() -> Result<()> {
    require_root("a virtual machine's root file system is made by debootstrap")?;
    install_tools(PACKAGE_TOOLS)
}

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
    // A binary without the dashboard works too: where Node.js is missing and cannot be installed, so be it.
    if may_install() { install_tools(NODE) } else { Ok(()) }
}

/// Makes sure that the lab can run: network namespaces, a web server, and root to make them.
pub fn for_lab() -> Result<()> {
    require_root("the lab makes network namespaces and loads BPF programs")?;
    install_tools(LAB_TOOLS)
}

/// Makes sure that the lab tests of these modules can run.
pub fn for_lab_tests<'a>(modules: impl IntoIterator<Item = &'a str>) -> Result<()> {
    let modules: Vec<&str> = modules.into_iter().collect();
    let of_modules = MODULE_TOOLS.iter().filter(|(module, _)| modules.contains(module)).flat_map(|(_, tools)| *tools);
    require_root("the lab makes network namespaces and loads BPF programs")?;
    install_tools(&LAB_TOOLS.iter().chain(of_modules).copied().collect::<Vec<_>>())?;
    if modules.contains(&"dashboard") {
        install_browser_driver()?;
    }
    if modules.contains(&"web") {
        install_schemathesis()?;
    }
    Ok(())
}

/// Makes sure that every lab test can run. All Debian packages are installed at once.
pub fn for_all_lab_tests() -> Result<()> {
    for_lab_tests(MODULE_TOOLS.iter().map(|(module, _)| *module))
}

/// Makes sure that the benchmark can run.
pub fn for_bench() -> Result<()> {
    for_lab()?;
    install_tools(BENCH_TOOLS)
}

/// Makes sure that other kernels can be booted.
pub fn for_kernels() -> Result<()> {
    for_lab()?;
    install_tools(KERNEL_TOOLS)
}

/// Makes sure that clippy can look at the BPF programs, and that the dashboard's types can be checked.
pub fn for_linting() -> Result<()> {
    if may_install() {
        install_tools(NODE)?;
    }
    if matches!(Compiler::find(), Some(Compiler::ReadyMade { rustc }) if !rustc.with_file_name("cargo-clippy").exists())
    {
        if !may_install() {
            bail!("clippy for the BPF programs is missing; Debian has it in: apt-get install rust-web-clippy");
        }
        install_packages(&["rust-web-clippy"])?;
    }
    Ok(())
}

/// Returns the path of a program that `cargo install` puts into the target folder, where it is missing.
///
/// # Errors
/// Returns an error if it cannot be installed.
pub fn cargo_tool(name: &str, version: &str) -> Result<PathBuf> {
    let root = target_folder().join("tools");
    let marker = root.join(format!("{name}-{version}"));
    if !marker.exists() {
        let mut install = cargo(["install", "--quiet", "--locked", name, "--version", version, "--root"]);
        step(&format!("installing {name}"), install.arg(&root))?;
        fs::write(&marker, "").with_context(|| format!("cannot note that {name} is installed"))?;
    }
    Ok(root.join("bin").join(name))
}

/// Makes sure that the workspace can be copied, and its files patched.
///
/// # Errors
/// Returns an error if something is missing that cannot be installed.
pub fn for_copying() -> Result<()> {
    install_tools(&[("patch", "patch"), ("rsync", "rsync")])
}

/// What drives the browser: by npm, into the target folder.
fn install_browser_driver() -> Result<()> {
    let (from, to) = (workspace().join("tests/browser"), target_folder().join("browser"));
    fs::create_dir_all(&to).with_context(|| format!("cannot make {}", to.display()))?;
    let is_installed = fs::read(to.join("installed")).ok() == fs::read(from.join("package-lock.json")).ok();
    for file in ["package.json", "package-lock.json", "driver.mjs"] {
        fs::copy(from.join(file), to.join(file)).with_context(|| format!("cannot copy {file}"))?;
    }
    if is_installed {
        return Ok(());
    }
    let mut install = Command::new("npm");
    install.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&to);
    step("installing what drives the browser", &mut install)?;
    fs::copy(from.join("package-lock.json"), to.join("installed")).context("cannot note that").map(drop)
}

/// What tests the HTTP interface by its description: by pip, into the target folder.
fn install_schemathesis() -> Result<()> {
    let folder = target_folder().join("venv");
    let (marker, wanted) = (folder.join("installed"), format!("schemathesis=={SCHEMATHESIS_VERSION}"));
    if fs::read_to_string(&marker).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    let has_venv =
        Command::new("python3").args(["-c", "import ensurepip, venv"]).status().is_ok_and(|status| status.success());
    if !has_venv {
        if !may_install() {
            bail!("python3 has no venv; Debian has it in: apt-get install python3-venv. Install it and run this again");
        }
        install_packages(&["python3-venv"])?;
    }
    step("making a Python environment", Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    let mut install = Command::new(folder.join("bin/pip"));
    install.args(["install", "--quiet", "--disable-pip-version-check", &wanted]);
    step(&format!("installing {wanted}"), &mut install)?;
    fs::write(marker, wanted).context("cannot note that")
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
