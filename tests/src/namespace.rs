//! Unnamed network namespaces: only file descriptors of this process keep one alive, so none is ever left behind.

use std::{
    fs::File,
    io::Write as _,
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

use crate::machine_lock::{MachineLock, lock_machine};

/// A network namespace.
#[derive(Clone, Debug)]
pub struct Namespace {
    file: Arc<File>,
    /// Other tests wait for as long as this test has a namespace.
    _machine: Option<Arc<MachineLock>>,
}

impl Namespace {
    /// Creates a namespace with its loopback interface up.
    ///
    /// # Errors
    /// Returns an error without root.
    pub fn new() -> Result<Self> {
        let machine = lock_machine()?;
        let file = thread::spawn(|| -> Result<File> {
            unshare(CloneFlags::CLONE_NEWNET).context("cannot create a network namespace: the lab needs root")?;
            File::open("/proc/thread-self/ns/net").context("cannot open the new namespace")
        })
        .join()
        .map_err(|_| anyhow!("the thread that makes a namespace panicked"))??;
        let ports = machine.as_ref().and_then(|machine| machine.client_ports());
        let namespace = Self { file: Arc::new(file), _machine: machine };
        namespace.ip("link set lo up")?;
        if let Some(ports) = ports {
            namespace.sysctl("net.ipv4.ip_local_port_range", &format!("{} {}", ports.start(), ports.end()))?;
        }
        Ok(namespace)
    }

    /// Opens the namespace of this process.
    ///
    /// # Errors
    /// Returns an error if it cannot be opened.
    pub fn own() -> Result<Self> {
        Self::at("/proc/self/ns/net")
    }

    /// Opens the namespace that another process holds at `path`.
    ///
    /// # Errors
    /// Returns an error if it cannot be opened.
    pub fn at(path: impl AsRef<Path>) -> Result<Self> {
        let file = File::open(path).context("cannot open the namespace")?;
        Ok(Self { file: Arc::new(file), _machine: None })
    }

    /// Runs `work` in this namespace, on a separate thread.
    ///
    /// # Errors
    /// Returns an error if `work` fails or the namespace cannot be entered.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&self.file, CloneFlags::CLONE_NEWNET).context("cannot enter the namespace")?;
                    work()
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Returns a command that runs in this namespace and is killed when the thread that starts it ends.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let namespace = self.clone();
        let enter = move || {
            // Otherwise a server would outlive a killed lab and keep its namespace alive.
            set_pdeathsig(Signal::SIGKILL)?;
            setns(&namespace.file, CloneFlags::CLONE_NEWNET).map_err(Into::into)
        };
        // SAFETY: between fork and exec the closure makes two system calls and allocates nothing.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// Runs `ip` with `arguments`, separated by whitespace, in this namespace.
    ///
    /// # Errors
    /// Returns an error with the standard error of `ip` if it fails.
    pub fn ip(&self, arguments: &str) -> Result<()> {
        self.run("ip", &arguments.split_whitespace().collect::<Vec<_>>()).map(drop)
    }

    /// Runs a program to its end in this namespace, and returns its standard output.
    ///
    /// # Errors
    /// Returns an error if it is not installed, or with its standard error if it fails.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let output = self.command(program).args(arguments).output().with_context(|| format!("cannot run {program}"))?;
        if !output.status.success() {
            bail!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs nmap with `arguments`, separated by whitespace, in this namespace, and returns what it found.
    ///
    /// # Errors
    /// Returns an error if it is not installed, or fails.
    pub fn nmap(&self, arguments: &str) -> Result<String> {
        let arguments: Vec<&str> = arguments.split_whitespace().collect();
        self.run("nmap", &arguments).context("nmap (Debian package: nmap)")
    }

    /// Switches an offload of an interface on or off.
    ///
    /// # Errors
    /// Returns an error if ethtool is not installed, or fails.
    pub fn set_offload(&self, interface: &str, feature: &str, is_on: bool) -> Result<()> {
        let state = if is_on { "on" } else { "off" };
        self.run("ethtool", &["-K", interface, feature, state]).context("ethtool (Debian package: ethtool)").map(drop)
    }

    /// Runs ip(8) with many commands, one per line.
    ///
    /// # Errors
    /// Returns an error if it fails.
    pub fn ip_batch(&self, commands: &str) -> Result<()> {
        let mut batch = tempfile::NamedTempFile::new().context("cannot create a file")?;
        batch.write_all(commands.as_bytes()).context("cannot write the file")?;
        self.ip(&format!("-batch {}", batch.path().display()))
    }

    /// Sets the kernel parameter `name`, in dotted notation, of this namespace.
    ///
    /// # Errors
    /// Returns an error if the parameter does not exist or the kernel rejects the value.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        self.within(|| std::fs::write(&path, value).with_context(|| format!("cannot set {name} to {value}")))
    }

    /// Returns the value of the kernel parameter `name`, in dotted notation, of this namespace.
    ///
    /// # Errors
    /// Returns an error if the parameter does not exist.
    pub fn setting(&self, name: &str) -> Result<String> {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        let text = self.within(|| std::fs::read_to_string(&path).with_context(|| format!("cannot read {name}")))?;
        Ok(text.trim().to_owned())
    }

    /// Returns a path under `/proc` by which other programs can open the namespace.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.raw())
    }

    /// Returns the inode number, which identifies the namespace.
    ///
    /// # Errors
    /// Returns an error if it cannot be read.
    pub fn inode(&self) -> Result<u64> {
        Ok(self.file.metadata().context("cannot read the namespace's inode")?.ino())
    }

    fn raw(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}
