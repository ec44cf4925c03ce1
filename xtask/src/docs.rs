//! `cargo xtask docs`: what is made from the code. The tests hold the pages that are committed against it.

use std::{
    fs::{self, File},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result};
use xtask::bpf::toolchain::target_folder;

use crate::{
    command::{cargo, step},
    setup,
};

/// Shell, and the name that its completions go by.
const SHELLS: [(&str, &str); 3] = [("bash", "tcpguard"), ("zsh", "_tcpguard"), ("fish", "tcpguard.fish")];

/// Writes all of it.
///
/// # Errors
/// Where something cannot be built or written.
pub fn write() -> Result<()> {
    setup::for_building()?;
    let mut reference = cargo(["test", "--quiet", "-p", "tcpguard", "--lib", "reference"]);
    step("docs/reference", reference.env("UPDATE_EXPECT", "1"))?;
    step("building tcpguard", &mut cargo(["build", "--quiet", "-p", "tcpguard"]))?;
    write_for_users(&target_folder().join("debug/tcpguard"))
}

/// Writes manual pages and completions, as this binary makes them.
///
/// # Errors
/// Where it cannot be run, or they cannot be written.
pub fn write_for_users(binary: &Path) -> Result<()> {
    let folder = target_folder().join("docs");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    step("manual pages", Command::new(binary).arg("manual").arg(folder.join("man")))?;
    for (shell, name) in SHELLS {
        let file = folder.join(name);
        let output = File::create(&file).with_context(|| format!("cannot write {}", file.display()))?;
        step(&format!("completions for {shell}"), Command::new(binary).args(["completions", shell]).stdout(output))?;
    }
    println!("manual pages and completions are in {}", folder.display());
    Ok(())
}
