//! `cargo xtask dist`: what users install. A Debian package, and a tarball for everybody else, in target/dist.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use xtask::bpf::toolchain::{target_folder, workspace};

use crate::{
    command::{announced, cargo, step},
    docs, setup,
};

const CARGO_DEB_VERSION: &str = "3.8.0";
/// The profile in the workspace's Cargo.toml.
const PROFILE: &str = "shipped";

/// What to pack.
#[derive(Args)]
pub struct Arguments {
    /// Version of the Debian package, instead of the program's
    #[arg(long)]
    deb_version: Option<String>,
}

/// Builds both.
///
/// # Errors
/// Where something cannot be built or written.
pub fn run(arguments: &Arguments) -> Result<()> {
    setup::for_building()?;
    let binary = build()?;
    let package = package(arguments.deb_version.as_deref())?;
    let tarball = tarball(&binary, &folder()?)?;
    println!("{}\n{}", package.display(), tarball.display());
    Ok(())
}

/// Debian packages of these versions, for a test: one program in each.
///
/// # Errors
/// Where something cannot be built or written.
pub fn packages(versions: &[&str]) -> Result<Vec<PathBuf>> {
    build()?;
    versions.iter().map(|version| package(Some(version))).collect()
}

fn folder() -> Result<PathBuf> {
    let folder = target_folder().join("dist");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// Builds the program with its symbols, which packages leave out or have in a package of their own.
fn build() -> Result<PathBuf> {
    let mut build = cargo(["build", "--profile", PROFILE, "-p", "tcpguard"]);
    step("building the program to be shipped", build.env(xtask::dashboard::VARIABLE, "require"))?;
    let binary = target_folder().join(PROFILE).join("tcpguard");
    docs::write_for_users(&binary)?;
    Ok(binary)
}

/// The Debian package, by cargo-deb.
fn package(version: Option<&str>) -> Result<PathBuf> {
    let (tool, folder) = (setup::cargo_tool("cargo-deb", CARGO_DEB_VERSION)?, folder()?);
    // cargo runs its subcommands with their own name as the first argument.
    let mut deb = Command::new(&tool);
    deb.args(["deb", "--no-build", "--package", "tcpguard", "--profile", PROFILE, "--dbgsym", "--output"]);
    deb.arg(&folder).current_dir(workspace());
    if let Some(version) = version {
        deb.args(["--deb-version", version]);
    }
    step("the Debian package", &mut deb)?;
    newest(&folder, "deb")
}

/// The same files in the same places, below one folder.
fn tarball(binary: &Path, folder: &Path) -> Result<PathBuf> {
    let name = format!("tcpguard-{}-{}-linux", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
    let tree = folder.join(&name);
    announced("the tarball", || {
        if tree.exists() {
            fs::remove_dir_all(&tree).context("cannot remove the last one")?;
        }
        fs::create_dir_all(tree.join("completions")).context("cannot make its folders")?;
        let (root, docs) = (workspace(), target_folder().join("docs"));
        let mut strip = Command::new("strip");
        let status = strip.arg("-o").arg(tree.join("tcpguard")).arg(binary).status();
        ensure!(status.context("cannot run strip")?.success(), "the program cannot be stripped");
        for file in ["README.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE"] {
            copy(&root.join(file), &tree.join(file))?;
        }
        copy_all(&root.join("docs"), &tree.join("docs"))?;
        copy_all(&root.join("packaging"), &tree.join("packaging"))?;
        copy_all(&docs.join("man"), &tree.join("man"))?;
        for file in ["tcpguard", "_tcpguard", "tcpguard.fish"] {
            copy(&docs.join(file), &tree.join("completions").join(file))?;
        }
        Ok(())
    })?;
    let file = folder.join(format!("{name}.tar.gz"));
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "-C"])
        .arg(folder)
        .arg("-czf")
        .arg(&file)
        .arg(&name);
    step("packing it", &mut tar)?;
    Ok(file)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display())).map(drop)
}

/// A folder with all that is in it.
fn copy_all(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").arg("-rT").arg(from).arg(to).status().context("cannot run cp")?;
    ensure!(status.success(), "cannot copy {}", from.display());
    Ok(())
}

fn newest(folder: &Path, extension: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).context("cannot read the folder of packages")?.filter_map(Result::ok);
    let packages =
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|found| found == extension));
    let newest = packages.max_by_key(|path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok());
    newest.context("no package was made")
}
