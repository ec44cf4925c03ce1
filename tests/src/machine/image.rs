//! The initramfs of a machine: programs with their libraries, busybox, kernel modules, and an init that runs one
//! command and powers off.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::{Kernel, SUCCESS, kernel::module_name};

/// An initramfs under construction.
pub struct Image {
    root: TempDir,
    modules: Vec<String>,
}

impl Image {
    /// Creates an image with busybox and the mount points.
    ///
    /// # Errors
    /// Returns an error if busybox is not installed.
    pub fn new() -> Result<Self> {
        let image =
            Self { root: tempfile::tempdir().context("cannot create a directory for the image")?, modules: Vec::new() };
        for folder in ["bin", "proc", "sys", "dev", "tmp", "run", "modules", "etc"] {
            fs::create_dir(image.path(folder)).context("cannot create the image's directories")?;
        }
        let busybox = find("busybox").context("cannot find busybox (Debian package: busybox-static)")?;
        fs::copy(busybox, image.path("bin/busybox")).context("cannot copy busybox")?;
        symlink("busybox", image.path("bin/sh")).context("cannot link the shell")?;
        Ok(image)
    }

    /// Adds a program as `name` in the root directory, with the libraries it is linked against.
    ///
    /// # Errors
    /// Returns an error if one of the files cannot be copied.
    pub fn add_program(&self, program: &Path, name: &str) -> Result<()> {
        fs::copy(program, self.path(name)).with_context(|| format!("cannot copy {}", program.display()))?;
        let output = Command::new("ldd").arg(program).output().context("cannot run ldd")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        for library in text.split_whitespace().filter(|word| word.starts_with('/')) {
            let copy = self.path(library.trim_start_matches('/'));
            if let Some(folder) = copy.parent() {
                fs::create_dir_all(folder).context("cannot create the image's directories")?;
            }
            fs::copy(library, &copy).with_context(|| format!("cannot copy {library}"))?;
        }
        Ok(())
    }

    /// Adds a program that is installed on the host, by name.
    ///
    /// # Errors
    /// Returns an error if it is not installed.
    pub fn add_tool(&self, name: &str) -> Result<()> {
        let tool = find(name).with_context(|| format!("{name} is not installed"))?;
        self.add_program(&tool, &format!("bin/{name}"))
    }

    /// Adds modules of `kernel` and their dependencies, which init loads.
    ///
    /// # Errors
    /// Returns an error if they cannot be copied.
    pub fn add_modules(&mut self, kernel: &Kernel, names: &[&str]) -> Result<()> {
        for file in kernel.modules_for(names)? {
            let name = file.file_name().context("a module has no file name")?.to_string_lossy().into_owned();
            fs::copy(&file, self.path("modules").join(&name))
                .with_context(|| format!("cannot copy the module {}", module_name(&file)))?;
            self.modules.push(name);
        }
        Ok(())
    }

    /// Writes the image to `file`, with an init that switches to the root file system on `device`.
    ///
    /// # Errors
    /// See [`Image::write`].
    pub fn write_to_boot_from(&self, device: &str, file: &Path) -> Result<()> {
        fs::create_dir(self.path("root")).context("cannot create the image's directories")?;
        let mount =
            format!("busybox mount -t ext4 {device} /root && exec busybox switch_root /root /lib/systemd/systemd");
        self.write(&mount, file)
    }

    /// Writes the image to `file`, with an init that runs `command`.
    ///
    /// # Errors
    /// Returns an error if cpio is not installed, or the file cannot be written.
    pub fn write(&self, command: &str, file: &Path) -> Result<()> {
        let modules: String = self
            .modules
            .iter()
            .map(|module| format!("busybox insmod /modules/{module} || echo \"{module} cannot be loaded\"\n"))
            .collect();
        let init = format!(
            "#!/bin/sh\n\
             export PATH=/bin\n\
             busybox mount -t proc proc /proc\n\
             busybox mount -t sysfs sysfs /sys\n\
             busybox mount -t devtmpfs devtmpfs /dev\n\
             {modules}\
             {command} && echo '{SUCCESS}'\n\
             busybox poweroff -f\n"
        );
        let path = self.path("init");
        fs::write(&path, init).context("cannot write the image's init")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).context("cannot make init executable")?;
        let output = fs::File::create(file).context("cannot create the image's file")?;
        let mut list = Command::new("find")
            .arg(".")
            .current_dir(self.root.path())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run find")?;
        let names = list.stdout.take().context("find has no output")?;
        let status = Command::new("cpio")
            .args(["-o", "-H", "newc", "--quiet"])
            .current_dir(self.root.path())
            .stdin(names)
            .stdout(output)
            .status()
            .context("cannot run cpio")?;
        list.wait().context("cannot wait for find")?;
        ensure!(status.success(), "cpio could not write the image");
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }
}

/// Returns the path of an installed program.
fn find(name: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.exists())
}
