//! A complete Debian in a virtual machine: root file system by debootstrap, systemd as process 1, Debian's kernel.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use super::{Image, Kernel, qemu, run_to_end};

/// Packages in addition to debootstrap's minimal system.
const PACKAGES: &str = "adduser,ethtool,iproute2,kmod,nginx-light,systemd-sysv,udev";
const RELEASE: &str = "bookworm";
const MIRROR: &str = "http://deb.debian.org/debian";
/// Modules that the initramfs needs to mount the root file system.
const MODULES: [&str; 2] = ["virtio_pci", "virtio_blk"];
/// Time limit for the machine. Without hardware acceleration it takes half a minute to boot.
const PATIENCE: Duration = Duration::from_secs(540);
/// Prefix of the last line that a machine prints; it is followed by "passed" or an error message.
pub const OUTCOME: &str = "THE MACHINE'S OUTCOME: ";

/// A root file system under construction.
pub struct Debian {
    root: tempfile::TempDir,
    cache: PathBuf,
}

impl Debian {
    /// Copies the minimal system, which is kept under `cache`, and adds the modules of `kernel`.
    ///
    /// # Errors
    /// Returns an error if debootstrap is not installed, or fails.
    pub fn new(kernel: &Kernel, cache: &Path) -> Result<Self> {
        let base = base(cache)?;
        let debian = Self {
            root: tempfile::tempdir_in(cache).context("cannot create a directory for the machine")?,
            cache: cache.to_owned(),
        };
        run(Command::new("cp").arg("-a").arg(base.join(".")).arg(debian.root.path()))?;
        let release = kernel.modules.file_name().context("the module directory has no name")?;
        let modules = debian.path("lib/modules");
        fs::create_dir_all(&modules).context("cannot create the module directory")?;
        run(Command::new("cp").arg("-a").arg(&kernel.modules).arg(&modules))?;
        run(Command::new("depmod").arg("-b").arg(debian.root.path()).arg(release))?;
        debian.set_up()?;
        Ok(debian)
    }

    /// Does what a first boot would do, and masks units that the test does not need.
    fn set_up(&self) -> Result<()> {
        fs::write(self.path("etc/fstab"), "/dev/vda / ext4 defaults 0 0\n").context("cannot write fstab")?;
        fs::write(self.path("etc/hostname"), "machine\n").context("cannot write the host name")?;
        for unit in [
            "apt-daily.timer",
            "apt-daily-upgrade.timer",
            "e2scrub_reap.service",
            "fstrim.timer",
            "getty@tty1.service",
            "serial-getty@ttyS0.service",
        ] {
            self.mask(unit)?;
        }
        Ok(())
    }

    fn mask(&self, unit: &str) -> Result<()> {
        symlink("/dev/null", self.path("etc/systemd/system").join(unit)).with_context(|| format!("cannot mask {unit}"))
    }

    /// Copies a file to the path `to`, relative to the root.
    ///
    /// # Errors
    /// Returns an error if it cannot be copied.
    pub fn add(&self, from: &Path, to: &str) -> Result<()> {
        let to = self.path(to);
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder).context("cannot create the machine's directories")?;
        }
        fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display())).map(drop)
    }

    /// Adds a unit that systemd starts at boot.
    ///
    /// # Errors
    /// Returns an error if it cannot be written.
    pub fn add_unit(&self, name: &str, text: &str) -> Result<()> {
        let folder = self.path("etc/systemd/system");
        fs::write(folder.join(name), text).with_context(|| format!("cannot write {name}"))?;
        let wanted = folder.join("multi-user.target.wants");
        fs::create_dir_all(&wanted).context("cannot create the unit directory")?;
        symlink(
            folder.join(name).file_name().map(|name| Path::new("..").join(name)).unwrap_or_default(),
            wanted.join(name),
        )
        .with_context(|| format!("cannot enable {name}"))
    }

    /// Boots the system with `kernel`, waits until it powers off, and returns its console output.
    ///
    /// # Errors
    /// Returns an error if qemu or mke2fs is not installed, the machine does not power off in time, or it reports a
    /// failure.
    pub fn boot(self, kernel: &Kernel) -> Result<String> {
        let disk = self.cache.join("disk.ext4");
        fs::remove_file(&disk).ok();
        run(Command::new("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(self.root.path()).arg(&disk).arg("2G"))?;
        let mut image = Image::new()?;
        image.add_modules(kernel, &MODULES)?;
        let first = self.cache.join("first-steps.cpio");
        image.write_to_boot_from("/dev/vda", &first)?;
        let start = Instant::now();
        let mut qemu = qemu(kernel, &first, PATIENCE);
        qemu.args(["-smp", "2", "-m", "2048", "-drive"])
            .arg(format!("file={},if=virtio,format=raw,cache=unsafe", disk.display()))
            .args(["-append", "console=ttyS0 panic=-1 quiet systemd.show_status=0 loglevel=3"]);
        let text = run_to_end(&mut qemu, &self.cache.join("console"))?;
        let outcome = text.lines().filter_map(|line| line.split_once(OUTCOME)).next_back();
        match outcome {
            Some((_, outcome)) if outcome.trim() == "passed" => Ok(text),
            Some((_, outcome)) => bail!("in the machine: {}\n{text}", outcome.trim()),
            None => bail!("the machine did not report an outcome within {:?}:\n{text}", start.elapsed()),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }
}

/// Returns the directory of the minimal system, which is created on first use.
fn base(cache: &Path) -> Result<PathBuf> {
    let base = cache.join(format!("{RELEASE}-{}", PACKAGES.replace(',', "-")));
    if base.exists() {
        return Ok(base);
    }
    fs::create_dir_all(cache).context("cannot create the directory for machines")?;
    let folder = tempfile::tempdir_in(cache).context("cannot create a directory for Debian")?;
    let root = folder.path().join("root");
    let include = format!("--include={PACKAGES}");
    let mut debootstrap = Command::new("debootstrap");
    debootstrap.args(["--variant=minbase", &include, RELEASE]).arg(&root).arg(MIRROR).stdout(Stdio::null());
    run(&mut debootstrap).context("debootstrap failed or is not installed (Debian package: debootstrap)")?;
    fs::rename(&root, &base).context("cannot keep the minimal system")?;
    Ok(base)
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {:?}", command.get_program()))?;
    ensure!(status.success(), "{:?} ended with {status}", command.get_program());
    Ok(())
}
