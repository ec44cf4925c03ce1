//! Debian's kernels: looked up, downloaded once and unpacked.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

/// A kernel that can be booted.
pub struct Kernel {
    /// The Debian package.
    pub name: String,
    /// Path of the bootable file.
    pub image: PathBuf,
    /// Path of the module directory.
    pub modules: PathBuf,
}

impl Kernel {
    /// Returns Debian's newest cloud kernel of `series` (for example "6.12"), kept unpacked under `cache`.
    ///
    /// # Errors
    /// Returns an error if the package lists contain none or it cannot be downloaded.
    pub fn fetch(series: &str, cache: &Path) -> Result<Self> {
        let package = newest_package(series)?;
        let root = cache.join(&package);
        if !root.join("boot").exists() {
            unpack(&package, cache, &root)?;
        }
        let release = package.trim_start_matches("linux-image-");
        let kernel = Self {
            image: root.join("boot").join(format!("vmlinuz-{release}")),
            modules: [root.join("lib/modules").join(release), root.join("usr/lib/modules").join(release)]
                .into_iter()
                .find(|folder| folder.exists())
                .with_context(|| format!("{package} contains no modules"))?,
            name: package,
        };
        ensure!(kernel.image.exists(), "{} contains no kernel", kernel.name);
        Ok(kernel)
    }

    /// Returns the files of the modules `names` and of their dependencies, in load order.
    ///
    /// A module without a file is assumed to be built in.
    ///
    /// # Errors
    /// Returns an error if the module directory cannot be read.
    pub fn modules_for(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        let mut pending: Vec<String> = names.iter().rev().map(ToString::to_string).collect();
        let all = module_files(&self.modules)?;
        while let Some(name) = pending.pop() {
            let Some(file) = all.iter().find(|file| module_name(file) == name) else { continue };
            let missing: Vec<String> = dependencies(file)?
                .into_iter()
                .filter(|dependency| !found.iter().any(|file: &PathBuf| module_name(file) == *dependency))
                .filter(|dependency| all.iter().any(|file| module_name(file) == *dependency))
                .collect();
            if found.contains(file) {
            } else if missing.is_empty() {
                found.push(file.clone());
            } else {
                pending.push(name);
                pending.extend(missing);
            }
        }
        Ok(found)
    }
}

fn newest_package(series: &str) -> Result<String> {
    let output = Command::new("apt-cache")
        .args(["pkgnames", &format!("linux-image-{series}.")])
        .output()
        .context("cannot run apt-cache, which finds Debian's kernel packages")?;
    let mut names: Vec<String> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|name| name.ends_with("-cloud-amd64"))
        .map(str::to_owned)
        .collect();
    names.sort_by_key(|name| version_numbers(name));
    names.pop().with_context(|| {
        format!("Debian's package lists contain no cloud kernel {series}: `apt-get update` refreshes them")
    })
}

fn version_numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

fn unpack(package: &str, cache: &Path, root: &Path) -> Result<()> {
    fs::create_dir_all(cache).context("cannot create the directory for kernels")?;
    let folder = tempfile::tempdir_in(cache).context("cannot create a directory for the download")?;
    // By default apt downloads as the user _apt, which cannot enter the directory.
    let status = Command::new("apt-get")
        .args(["download", "-q", "-o", "APT::Sandbox::User=root", package])
        .current_dir(folder.path())
        .status()
        .context("cannot run apt-get")?;
    ensure!(status.success(), "{package} could not be downloaded");
    let archive = fs::read_dir(folder.path())?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"));
    let Some(archive) = archive else { bail!("{package} was downloaded, but the archive is missing") };
    let unpacked = folder.path().join("root");
    let status =
        Command::new("dpkg-deb").arg("-x").arg(archive).arg(&unpacked).status().context("cannot run dpkg-deb")?;
    ensure!(status.success(), "{package} could not be unpacked");
    fs::rename(&unpacked, root).with_context(|| format!("cannot move {package} to the cache"))
}

fn module_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.join("kernel")];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.context("cannot list modules")?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push(path);
            }
        }
    }
    Ok(files)
}

/// Returns the module's name: `tcp_diag` for `tcp_diag.ko` or `tcp_diag.ko.xz`.
pub(super) fn module_name(file: &Path) -> String {
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.split('.').next().unwrap_or_default().replace('-', "_")
}

/// Returns the names of the modules that a module depends on (`modinfo -F depends`).
fn dependencies(file: &Path) -> Result<Vec<String>> {
    let output = Command::new("modinfo").args(["-F", "depends"]).arg(file).output().context("cannot run modinfo")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.trim().split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect())
}
