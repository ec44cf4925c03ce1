//! Virtual machines with other kernels: qemu without acceleration, booting an initramfs with the lab's programs or a
//! complete Debian.

mod debian;
mod image;
mod kernel;
pub mod running;

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
pub use running::{Processors, Running};

/// Time limit for the smoke test, which takes two minutes without hardware acceleration, and longer beside other checks.
const PATIENCE: Duration = Duration::from_secs(400);

/// Printed by the image's init when the program has exited with 0.
pub(crate) const SUCCESS: &str = "the program in the machine exited with 0";

/// Boots `kernel` with `image` and returns the console output.
///
/// # Errors
/// Returns an error if qemu is not installed, the machine does not power off in time, or its program fails.
pub fn boot(kernel: &Kernel, image: &Path) -> Result<String> {
    let folder = tempfile::tempdir().context("cannot create a directory for the machine")?;
    let mut qemu = qemu(kernel, image, PATIENCE);
    qemu.args(["-m", "1024", "-no-reboot", "-append", "console=ttyS0 panic=-1 quiet"]);
    let text = run_to_end(&mut qemu, &folder.path().join("console"))?;
    if !text.contains(SUCCESS) {
        bail!("on {} the program failed, or the machine did not power off within {PATIENCE:?}:\n{text}", kernel.name);
    }
    Ok(text)
}

/// Returns the command for an emulated machine without a network that boots `kernel` with `initramfs` and is killed
/// after `patience`.
fn qemu(kernel: &Kernel, initramfs: &Path, patience: Duration) -> Command {
    let mut command = Command::new("timeout");
    command.arg(patience.as_secs().to_string()).arg("qemu-system-x86_64");
    machine_arguments(&mut command, kernel, initramfs);
    command
}

/// Adds what every machine is started with.
fn machine_arguments(qemu: &mut Command, kernel: &Kernel, initramfs: &Path) {
    qemu.args(["-machine", "accel=tcg", "-cpu", "max", "-nographic", "-nic", "none", "-kernel"])
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initramfs);
}

/// Runs the machine until it powers off and returns its output, which is written to the file `console`.
fn run_to_end(machine: &mut Command, console: &Path) -> Result<String> {
    let output = fs::File::create(console).context("cannot create the console file")?;
    machine
        .stdin(Stdio::null())
        .stdout(output.try_clone().context("cannot share the console file")?)
        .stderr(output)
        .spawn()
        .context("cannot start qemu (Debian package: qemu-system-x86)")?
        .wait()
        .context("cannot wait for the machine")?;
    let printed = fs::read(console).context("cannot read the console file")?;
    Ok(String::from_utf8_lossy(&printed).into_owned())
}
