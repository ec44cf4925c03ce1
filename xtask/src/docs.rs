//! `cargo xtask docs`: what is made from the code. The tests hold the pages that are committed against it.

use std::fs::File;

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
    let run = |arguments: &[&str]| cargo([&["run", "--quiet", "-p", "tcpguard", "--"], arguments].concat());
    let folder = target_folder().join("docs");
    let pages = folder.join("man");
    step("manual pages", run(&["manual"]).arg(&pages))?;
    for (shell, name) in SHELLS {
        let file = folder.join(name);
        let output = File::create(&file).with_context(|| format!("cannot write {}", file.display()))?;
        step(&format!("completions for {shell}"), run(&["completions", shell]).stdout(output))?;
    }
    println!("manual pages and completions are in {}", folder.display());
    Ok(())
}
