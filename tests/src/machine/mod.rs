//! Virtual machines with other kernels: qemu without acceleration, an initramfs with the programs of
//! the lab in it, and nothing else.

mod debian;
mod image;
mod kernel;

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};

pub use debian::{Debian, OUTCOME};
pub use image::Image;
pub use kernel::Kernel;

/// Emulated, a machine is slow; the smoke test takes half a minute.
const PATIENCE: Duration = Duration::from_secs(240);

/// Printed by the image's init when the program has ended with 0.
pub(crate) const SUCCESS: &str = "the program in the machine ended with 0";

/// Boots `kernel` with `image`; returns what it printed.
///
/// # Errors
/// Returns an error if qemu is not installed, the machine does not end in time, or its program fails.
pub fn boot(kernel: &Kernel, image: &Path) -> Result<String> {
    let folder = tempfile::tempdir().context("cannot create a directory for the machine")?;
    let mut qemu = qemu(kernel, image, PATIENCE);
    qemu.args(["-m", "1024", "-no-reboot", "-append", "console=ttyS0 panic=-1 quiet"]);
    let text = run_to_end(&mut qemu, &folder.path().join("console"))?;
    if !text.contains(SUCCESS) {
        bail!("on {} the program failed, or the machine did not end within {PATIENCE:?}:\n{text}", kernel.name);
    }
    Ok(text)
}

/// An emulated machine without a network, which boots `kernel` with the first steps in `initramfs` and is ended after
/// `patience`.
fn qemu(kernel: &Kernel, initramfs: &Path, patience: Duration) -> Command {
    let mut command = Command::new("timeout");
    command
        .arg(patience.as_secs().to_string())
        .args(["qemu-system-x86_64", "-machine", "accel=tcg", "-cpu", "max", "-nographic", "-nic", "none", "-kernel"])
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initramfs);
    command
}

/// Waits until the machine has ended; what it has printed, by way of the file `console`.
fn run_to_end(machine: &mut Command, console: &Path) -> Result<String> {
    let output = fs::File::create(console).context("cannot create the machine's console")?;
    machine
        .stdin(Stdio::null())
        .stdout(output.try_clone().context("cannot share the machine's console")?)
        .stderr(output)
        .spawn()
        .context("cannot start qemu: Debian has it in the package qemu-system-x86")?
        .wait()
        .context("cannot wait for the machine")?;
    let printed = fs::read(console).context("cannot read the machine's console")?;
    Ok(String::from_utf8_lossy(&printed).into_owned())
}
