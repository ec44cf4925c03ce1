//! Network namespaces without a name: nothing but file descriptors of this process keeps one alive,
//! so none is ever left behind.

use std::{
    fs::File,
    os::{
        fd::{AsRawFd, RawFd},
        unix::{fs::MetadataExt, process::CommandExt},
    },
    path::Path,
    process::Command,
    sync::Arc,
    thread,
};

use anyhow::{Context, Result, anyhow, bail};
use nix::{
    sched::{CloneFlags, setns, unshare},
    sys::{prctl::set_pdeathsig, signal::Signal},
};

/// A network namespace.
#[derive(Clone, Debug)]
pub struct Namespace(Arc<File>);

impl Namespace {
    /// A new one, with its loopback interface up.
    ///
    /// # Errors
    /// Returns an error without root.
    pub fn new() -> Result<Self> {
        let file = thread::spawn(|| -> Result<File> {
            unshare(CloneFlags::CLONE_NEWNET).context("cannot create a network namespace: the lab needs root")?;
            File::open("/proc/thread-self/ns/net").context("cannot open the new namespace")
        })
        .join()
        .map_err(|_| anyhow!("the thread that makes a namespace panicked"))??;
        let namespace = Self(Arc::new(file));
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// The one that this process is in.
    ///
    /// # Errors
    /// Returns an error if it cannot be opened.
    pub fn own() -> Result<Self> {
        Self::at("/proc/self/ns/net")
    }

    /// The one that another process holds at this path.
    ///
    /// # Errors
    /// Returns an error if it cannot be opened.
    pub fn at(path: impl AsRef<Path>) -> Result<Self> {
        Ok(Self(Arc::new(File::open(path).context("cannot open the namespace")?)))
    }

    /// Does `work` in this namespace, on a thread of its own.
    ///
    /// # Errors
    /// Returns an error if `work` fails or the namespace cannot be entered.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&self.0, CloneFlags::CLONE_NEWNET).context("cannot enter the namespace")?;
                    work()
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A command that will run in this namespace, until the thread that starts it ends at the latest.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let namespace = self.clone();
        let enter = move || {
            // Or a server would outlive a lab that was killed, and keep its namespace.
            set_pdeathsig(Signal::SIGKILL)?;
            setns(&namespace.0, CloneFlags::CLONE_NEWNET).map_err(Into::into)
        };
        // SAFETY: between fork and exec it makes two system calls and allocates nothing.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// Runs `ip` with these arguments here.
    ///
    /// # Errors
    /// Returns an error if it fails; with what it said.
    pub fn ip(&self, arguments: &str) -> Result<()> {
        let output = self.command("ip").args(arguments.split_whitespace()).output().context("cannot run ip")?;
        if !output.status.success() {
            bail!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// Sets a kernel parameter of this namespace, by its name with dots.
    ///
    /// # Errors
    /// Returns an error if the kernel has none of that name or refuses the value.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        self.within(|| std::fs::write(&path, value).with_context(|| format!("cannot set {name} to {value}")))
    }

    /// What a kernel parameter of this namespace is, by its name with dots.
    ///
    /// # Errors
    /// Returns an error if the kernel has none of that name.
    pub fn setting(&self, name: &str) -> Result<String> {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        let text = self.within(|| std::fs::read_to_string(&path).with_context(|| format!("cannot read {name}")))?;
        Ok(text.trim().to_owned())
    }

    /// The path by which other programs reach the namespace.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.raw())
    }

    /// The namespace's identity.
    ///
    /// # Errors
    /// Returns an error if it cannot be read.
    pub fn inode(&self) -> Result<u64> {
        Ok(self.0.metadata().context("cannot read the namespace's inode")?.ino())
    }

    fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
