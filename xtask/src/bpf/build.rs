//! Compiling a BPF crate, from a build script or from a command.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{
    TARGET,
    strip::without_debug_sections,
    toolchain::{Compiler, linker_folder, target_folder, workspace},
};
use crate::sources::hash_of;

/// Headers in a frame are aligned to two bytes; where whole words may be read and written all the same, a
/// packet costs less. Without it the programs do the same with more instructions.
const FIRST_LLVM_WITH_MISALIGNED_ACCESS: u32 = 22;
/// Machines whose kernels let BPF programs do so (CONFIG_HAVE_EFFICIENT_UNALIGNED_ACCESS).
const TAKES_MISALIGNED_ACCESS: &[&str] = &["x86_64", "aarch64", "powerpc64", "s390x"];

const ARGUMENT_SEPARATOR: &str = "\x1f";

/// A BPF crate that a build script compiles into its `OUT_DIR`.
pub struct BpfCrate<'a> {
    /// The crate's folder, relative to the workspace's root.
    pub folder: &'a str,
    /// Name of its binary. The object becomes `OUT_DIR/<binary>.bpf.o`.
    pub binary: &'a str,
    /// Features. Each is compiled once more by itself, to `OUT_DIR/<binary>-<feature>.bpf.o`.
    pub variants: &'a [&'a str],
    /// Files and folders outside of the crate that it is compiled from, relative to the workspace's root.
    pub shared: &'a [&'a str],
}

impl BpfCrate<'_> {
    /// Compiles the crate and tells cargo which sources that depends on. A failure ends the build with one sentence.
    pub fn build_script(&self) {
        let all = std::iter::once(None).chain(self.variants.iter().copied().map(Some));
        let result = self.watch().and_then(|id| all.into_iter().try_for_each(|variant| self.compile(variant, &id)));
        if let Err(error) = result {
            println!("cargo::error={}", format!("{error:#}").replace('\n', " "));
            std::process::exit(1);
        }
    }

    /// Has cargo watch the sources; returns their hash.
    fn watch(&self) -> Result<String> {
        println!("cargo::rerun-if-env-changed={}", super::toolchain::RUSTC_VARIABLE);
        let inputs: Vec<&str> = [self.folder, "xtask/src/bpf"].iter().chain(self.shared).copied().collect();
        for input in &inputs {
            println!("cargo::rerun-if-changed={}", workspace().join(input).display());
        }
        hash_of(&workspace(), &inputs).context("the sources of the BPF programs cannot be read")
    }

    fn compile(&self, variant: Option<&str>, sources: &str) -> Result<()> {
        let out_folder =
            PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set: this is for build scripts")?);
        let suffix = variant.map_or_else(String::new, |feature| format!("-{feature}"));
        let copy = out_folder.join(format!("{}{suffix}.bpf.o", self.binary));
        let stamp = copy.with_extension("sources");
        // The build script also runs for changes that are none of the BPF crate's.
        if copy.exists() && fs::read_to_string(&stamp).is_ok_and(|built_from| built_from == sources) {
            return Ok(());
        }
        let architecture = env::var("CARGO_CFG_TARGET_ARCH").context("CARGO_CFG_TARGET_ARCH is not set")?;
        // One for all profiles and packages, or each would compile core's companions anew.
        let target_folder = target_folder().join("bpf");
        let folder = workspace().join(self.folder);
        let mut cargo = cargo(&folder, "build", &architecture)?;
        cargo.arg("--target-dir").arg(&target_folder);
        if let Some(feature) = variant {
            cargo.args(["--features", feature]);
        }
        let output = cargo.output().context("cannot run cargo")?;
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            bail!("the BPF programs in {} do not compile: {errors}", folder.display());
        }
        let object = target_folder.join(TARGET).join("release").join(self.binary);
        let compiled = fs::read(&object).with_context(|| format!("cannot read {}", object.display()))?;
        let stripped =
            without_debug_sections(&compiled).with_context(|| format!("cannot strip {}", object.display()))?;
        fs::write(&copy, stripped).with_context(|| format!("cannot write {}", copy.display()))?;
        fs::write(&stamp, sources).with_context(|| format!("cannot write {}", stamp.display()))
    }
}

/// `cargo <verb> --release` for the BPF crate in `folder`, to run on hosts of `architecture` (Rust's name for it).
///
/// # Errors
/// Where no compiler or no linker is installed, or the compiler's LLVM version is not to be found out.
pub fn cargo(folder: &Path, verb: &str, architecture: &str) -> Result<Command> {
    let compiler = Compiler::find()
        .context("no compiler for BPF is installed here: run `cargo xtask setup`, which installs one or says how")?;
    let llvm = compiler.llvm_major().with_context(|| format!("cannot tell the LLVM version of {compiler}"))?;
    let linker = linker_folder(llvm)
        .with_context(|| format!("no bpf-linker for LLVM {llvm} is installed here: run `cargo xtask setup`"))?;
    let mut command = match (&compiler, verb) {
        (Compiler::ReadyMade { rustc }, "clippy") => clippy_beside(rustc),
        _ => Command::new("cargo"),
    };
    for variable in inherited_from_outer_cargo() {
        command.env_remove(variable);
    }
    // It names the host's toolchain. Every other cargo keeps it: without it, rustup chooses one by the folder of each crate.
    command.env_remove("RUSTUP_TOOLCHAIN").current_dir(folder);
    match &compiler {
        Compiler::ReadyMade { rustc } => {
            // aya-ebpf turns on one unstable feature (asm_experimental_arch).
            command.arg(verb).env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1");
        }
        Compiler::NightlyWithSource => {
            command.args(["+nightly", verb, "-Z", "build-std=core"]);
        }
    }
    let mut path = OsString::from(linker);
    path.push(":");
    path.push(env::var_os("PATH").unwrap_or_default());
    let target_architecture = format!("--cfg=bpf_target_arch=\"{}\"", bpf_architecture(architecture));
    let mut flags = vec!["-Cdebuginfo=2", "-Clink-arg=--btf", &target_architecture];
    if llvm >= FIRST_LLVM_WITH_MISALIGNED_ACCESS && TAKES_MISALIGNED_ACCESS.contains(&architecture) {
        flags.push("-Clink-arg=--cpu-features=+allows-misaligned-mem-access");
    }
    command
        .args(["--release", "--target", TARGET])
        .env("PATH", path)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join(ARGUMENT_SEPARATOR));
    Ok(command)
}

/// cargo-clippy runs the clippy-driver beside it, which must be of the same make as the compiler.
fn clippy_beside(rustc: &Path) -> Command {
    Command::new(rustc.with_file_name("cargo-clippy"))
}

/// Returns the variables that a cargo sets for the programs it runs, and which a cargo started by those must not see: they
/// name another compiler or package, and build scripts that watch them would run again.
pub fn inherited_from_outer_cargo() -> impl Iterator<Item = OsString> {
    env::vars_os().map(|(name, _)| name).filter(|name| {
        name.to_str().is_some_and(|name| {
            matches!(name, "RUSTC" | "RUSTC_WRAPPER" | "RUSTC_WORKSPACE_WRAPPER" | "RUSTFLAGS" | "RUSTDOCFLAGS")
                || name == "CARGO_ENCODED_RUSTFLAGS"
                || name.starts_with("CARGO_CFG_")
                || name.starts_with("CARGO_FEATURE_")
                || name.starts_with("CARGO_MANIFEST_")
                || name.starts_with("CARGO_PKG_")
        })
    })
}

fn bpf_architecture(rust_architecture: &str) -> &str {
    if rust_architecture.starts_with("riscv64") { "riscv64" } else { rust_architecture }
}
