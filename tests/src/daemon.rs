//! The daemon as a user runs it: the binary, a configuration file, signals.

use std::{
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tcpguard::api::model::{Port, Stats};
use tempfile::TempDir;

use crate::{
    build::binary,
    http,
    network::{Lab, SERVER_INTERFACE},
    process::{self, Finished, KilledOnDrop, finish},
    wait::eventually,
};

/// Returns the method by which a port is challenged, or `None` if it is not.
pub fn challenge_of(stats: &Stats, port: u16) -> Option<&str> {
    let challenged = stats.measures.challenge.ports.iter().find(|challenged| challenged.port == port);
    challenged.map(|challenged| challenged.method.as_str())
}

/// Returns the account of a port.
pub fn port_of(stats: &Stats, port: u16) -> Option<&Port> {
    stats.ports.iter().find(|account| account.port == port)
}

/// Returns the number of SYNs that the daemon has counted.
pub const fn syn(stats: &Stats) -> u64 {
    stats.totals.syn
}

/// How a daemon is started: lab, configuration, environment and arguments.
pub struct Setup {
    lab: Lab,
    folder: TempDir,
    config: String,
    socket: PathBuf,
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
    /// The command, with arguments, that executes the daemon; empty to run it directly.
    wrapper: Vec<String>,
    /// A shell script that runs before the daemon, in a separate mount namespace.
    script: Option<String>,
    /// How long the daemon may take until it is ready.
    ready_within: Duration,
}

impl Setup {
    /// A setup in the lab's server namespace that guards the server's end of the cable.
    ///
    /// # Errors
    /// Returns an error if no temporary directory can be created.
    pub fn new(lab: &Lab) -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot create a directory for the daemon")?;
        let socket = folder.path().join("tcpguard.sock");
        let setup = Self {
            lab: lab.clone(),
            folder,
            config: String::new(),
            socket,
            environment: Vec::new(),
            arguments: Vec::new(),
            wrapper: Vec::new(),
            script: None,
            ready_within: Duration::from_secs(10),
        };
        Ok(setup.config(&format!("interfaces = [\"{SERVER_INTERFACE}\"]\n")))
    }

    /// Sets the start of the configuration; the `[listen]` and `[store]` sections are appended.
    #[must_use]
    pub fn config(mut self, text: &str) -> Self {
        self.set_config(text);
        self
    }

    fn set_config(&mut self, text: &str) {
        let (socket, store) = (self.socket(), self.store());
        self.config =
            format!("{text}\n[listen]\nsocket = \"{}\"\n[store]\npath = \"{}\"\n", socket.display(), store.display());
    }

    fn write_config(&self) -> Result<PathBuf> {
        let file = self.folder.path().join("tcpguard.toml");
        fs::write(&file, &self.config).context("cannot write the configuration")?;
        Ok(file)
    }

    /// Runs a `tcpguard` command with this configuration in the lab's server namespace.
    ///
    /// # Errors
    /// Returns an error if it cannot be run.
    pub fn tcpguard(&self, arguments: &[&str]) -> Result<Finished> {
        let mut command = self.lab.server.command(binary()?);
        finish(command.arg("--config").arg(self.write_config()?).args(arguments))
    }

    /// Sets the whole configuration; nothing is appended.
    #[must_use]
    pub fn whole_config(mut self, text: &str) -> Self {
        self.config = text.to_owned();
        self
    }

    /// Sets the socket path, which has to match the one in the whole configuration.
    #[must_use]
    pub fn listening_on(mut self, socket: &Path) -> Self {
        self.socket = socket.to_owned();
        self
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Gives the daemon longer to become ready: on an emulated processor, the verifier alone takes seconds.
    #[must_use]
    pub const fn ready_within(mut self, time: Duration) -> Self {
        self.ready_within = time;
        self
    }

    /// Adds an argument to `tcpguard run`.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Removes an argument to `tcpguard run`, if present.
    #[must_use]
    pub fn without_argument(mut self, argument: &str) -> Self {
        self.arguments.retain(|present| present != argument);
        self
    }

    /// Mounts an empty directory over `folder`, as on a kernel that does not provide it.
    #[must_use]
    pub fn hiding(self, folder: &str) -> Self {
        self.after(&format!("mount -t tmpfs none {folder}"))
    }

    /// Runs the daemon as `user` with only these capabilities, separated by commas (for example "bpf,net_admin").
    #[must_use]
    pub fn unprivileged(mut self, user: u32, capabilities: &str) -> Self {
        let set: String = capabilities.split(',').map(|name| format!(",+{name}")).collect();
        let user = user.to_string();
        let words = ["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups", "--no-new-privs"];
        self.wrapper = words.map(str::to_owned).to_vec();
        self.wrapper.extend([
            format!("--inh-caps=-all{set}"),
            format!("--ambient-caps=-all{set}"),
            format!("--bounding-set=-all{set}"),
        ]);
        self
    }

    /// Runs a shell script before the daemon, in a separate mount namespace.
    #[must_use]
    pub fn after(mut self, script: &str) -> Self {
        self.script = Some(script.to_owned());
        self
    }

    /// Returns the path of the daemon's socket.
    pub fn socket(&self) -> PathBuf {
        self.socket.clone()
    }

    /// Returns the path of the daemon's store.
    pub fn store(&self) -> PathBuf {
        self.folder.path().join("store").join("tcpguard.sqlite")
    }

    /// Returns the path of another file in the daemon's directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns the command that runs the daemon.
    ///
    /// # Errors
    /// Returns an error if its configuration cannot be written.
    pub fn command(&self) -> Result<Command> {
        let file = self.write_config()?;
        let mut command = match &self.script {
            None => match self.wrapper.split_first() {
                None => self.lab.server.command(binary()?),
                Some((wrapper, rest)) => {
                    let mut command = self.lab.server.command(wrapper);
                    command.args(rest).arg(binary()?);
                    command
                }
            },
            Some(script) => {
                let mut command = self.lab.server.command("unshare");
                let script = format!("{script} && exec \"$0\" \"$@\"");
                command.args(["--mount", "sh", "-c", &script]).arg(binary()?);
                command
            }
        };
        command.arg("--config").arg(file).arg("run").args(&self.arguments).envs(self.environment.iter().cloned());
        Ok(command)
    }

    /// Runs the daemon and waits until it exits by itself.
    ///
    /// # Errors
    /// Returns an error if it cannot be run.
    pub fn run_to_end(&self) -> Result<Finished> {
        finish(&mut self.command()?)
    }

    /// Starts the daemon without waiting until it is ready. Its standard error is appended to the log.
    ///
    /// # Errors
    /// Returns an error if it cannot be started.
    pub fn spawn(&self) -> Result<Child> {
        let log = fs::File::options().create(true).append(true).open(self.log());
        let log = log.context("cannot create the daemon's log")?;
        self.command()?.stdout(Stdio::null()).stderr(log).spawn().context("cannot start tcpguard")
    }

    /// Returns the directory of the daemon's files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns the path of the daemon's log.
    pub fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Starts the daemon and waits until it is ready.
    ///
    /// # Errors
    /// Returns an error with the log if the daemon exits, or is not ready within ten seconds.
    pub fn start(self) -> Result<Daemon> {
        let process = KilledOnDrop(self.spawn()?);
        let log = self.log();
        let mut daemon = Daemon { process, setup: self, log };
        daemon.wait_until_ready()?;
        Ok(daemon)
    }
}

/// A running daemon. It is killed when this value is dropped.
pub struct Daemon {
    process: KilledOnDrop,
    setup: Setup,
    log: PathBuf,
}

impl Daemon {
    fn wait_until_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < self.setup.ready_within {
            if let Some(status) = self.process.0.try_wait().context("cannot wait for tcpguard")? {
                bail!("tcpguard exited with {status}: {}", self.log()?);
            }
            if self.get("/readyz").is_ok_and(|(status, _)| status == 200) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("tcpguard is not ready after {:?}: {}", self.setup.ready_within, self.log()?)
    }

    /// Returns the log so far.
    ///
    /// # Errors
    /// Returns an error if the log cannot be read.
    pub fn log(&self) -> Result<String> {
        fs::read_to_string(&self.log).context("cannot read the daemon's log")
    }

    /// Returns the daemon's process id.
    pub fn id(&self) -> u32 {
        self.process.0.id()
    }

    /// Returns the daemon's user and system time in seconds.
    ///
    /// # Errors
    /// Returns an error if it cannot be read.
    pub fn cpu_seconds(&self) -> Result<f64> {
        process::cpu_seconds(self.id())
    }

    /// Returns the daemon's resident memory, in KiB.
    ///
    /// # Errors
    /// Returns an error if it cannot be read.
    pub fn resident_kib(&self) -> Result<u64> {
        process::resident_kib(self.id())
    }

    /// Path of its socket.
    pub fn socket(&self) -> PathBuf {
        self.setup.socket()
    }

    /// Connects to the daemon's socket.
    ///
    /// # Errors
    /// Returns an error if the daemon does not listen.
    pub fn connect(&self) -> Result<UnixStream> {
        UnixStream::connect(self.socket()).context("the daemon does not listen")
    }

    /// Sends `GET path` and returns status and body.
    ///
    /// # Errors
    /// Returns an error if there is no response.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        http::get(self.connect()?, path)
    }

    /// Sends `GET path` and returns the JSON of the response.
    ///
    /// # Errors
    /// Returns an error if the status is not 200 or the body is not JSON.
    pub fn json(&self, path: &str) -> Result<Value> {
        let (status, body) = self.get(path)?;
        ensure!(status == 200, "{path}: {status} {body}");
        serde_json::from_str(&body).with_context(|| format!("{path} is not JSON: {body}"))
    }

    /// Returns `/stats`.
    ///
    /// # Errors
    /// Returns an error if the response is not of the typed model.
    pub fn stats(&self) -> Result<Stats> {
        let (status, body) = self.get("/stats")?;
        ensure!(status == 200, "/stats: {status} {body}");
        serde_json::from_str(&body).with_context(|| format!("/stats is not of the model: {body}"))
    }

    /// Waits until `/stats` satisfies `is_right`, and returns it.
    ///
    /// # Errors
    /// Returns an error if that does not happen within ten seconds.
    pub fn stats_when(&self, what: &str, is_right: impl Fn(&Stats) -> bool) -> Result<Stats> {
        eventually(what, || self.stats(), |stats| is_right(stats))
    }

    /// Returns one source's row of `/sources`, if it is among the first thousand.
    ///
    /// # Errors
    /// Returns an error if the daemon does not answer.
    pub fn source(&self, address: &str) -> Result<Option<Value>> {
        let sources = self.json("/sources?limit=1000")?;
        Ok(sources.as_array().and_then(|rows| rows.iter().find(|row| row["source"] == address)).cloned())
    }

    /// Sends a signal and waits until the daemon exits.
    ///
    /// # Errors
    /// Returns an error if it does not exit within five seconds.
    pub fn end(&mut self, signal: Signal) -> Result<ExitStatus> {
        kill(Pid::from_raw(self.process.0.id() as i32), signal).context("cannot signal the daemon")?;
        for _ in 0..100 {
            if let Some(status) = self.process.0.try_wait().context("cannot wait for the daemon")? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("the daemon did not exit within 5 s of {signal}")
    }

    /// Ends the daemon with `signal`, starts it again immediately and waits until it is ready.
    ///
    /// # Errors
    /// Returns an error if it does not exit or does not start.
    pub fn restart(&mut self, signal: Signal) -> Result<()> {
        self.end(signal)?;
        self.start_again()
    }

    /// Starts the daemon again after it exited, and waits until it is ready.
    ///
    /// # Errors
    /// Returns an error if it does not start.
    pub fn start_again(&mut self) -> Result<()> {
        self.process = KilledOnDrop(self.setup.spawn()?);
        self.wait_until_ready()
    }

    /// Writes another configuration, without making the daemon read it.
    ///
    /// # Errors
    /// Returns an error if it cannot be written.
    pub fn set_config(&mut self, text: &str) -> Result<()> {
        self.setup.set_config(text);
        self.setup.write_config().map(drop)
    }

    /// Runs the daemon again, after it exited, with a configuration with which it exits by itself.
    ///
    /// # Errors
    /// Returns an error if it cannot be run.
    pub fn again_with(&mut self, text: &str) -> Result<Finished> {
        self.setup.set_config(text);
        self.setup.run_to_end()
    }

    /// Runs a `tcpguard` command with the daemon's configuration, in the daemon's namespace.
    ///
    /// # Errors
    /// Returns an error if it cannot be run.
    pub fn tcpguard(&self, arguments: &[&str]) -> Result<Finished> {
        self.setup.tcpguard(arguments)
    }

    /// Returns the setup, to start the daemon differently. The daemon must have exited.
    pub fn into_setup(self) -> Setup {
        let Self { process: _, setup, log: _ } = self;
        setup
    }

    /// Ends the daemon with `signal` and returns its lab and the path of its socket.
    ///
    /// # Errors
    /// Returns an error if it does not exit.
    pub fn end_for_restart(mut self, signal: Signal) -> Result<(Lab, PathBuf)> {
        self.end(signal)?;
        Ok((self.setup.lab.clone(), self.socket()))
    }
}

/// Runs `tcpguard` with these arguments and `socket`, outside the lab.
///
/// # Errors
/// Returns an error if it cannot be run.
pub fn tcpguard(arguments: &[&str], socket: &Path) -> Result<Finished> {
    finish(Command::new(binary()?).args(arguments).arg("--socket").arg(socket))
}
