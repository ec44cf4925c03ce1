//! The daemon, as its users run it: the binary, a configuration file, signals.

use std::{
    fmt, fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    http,
    network::{Lab, SERVER_INTERFACE},
    wait::eventually,
};

/// The binary that was built beside the tests.
///
/// # Errors
/// Returns an error if it has not been built.
pub fn binary() -> Result<PathBuf> {
    let here = std::env::current_exe().context("cannot tell where this runs from")?;
    let candidates = here.ancestors().map(|folder| folder.join("tcpguard"));
    candidates
        .into_iter()
        .find(|candidate| candidate.is_file())
        .context("there is no tcpguard beside the tests: `cargo xtask test` builds it first")
}

/// All that a command has printed, errors last.
pub fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

/// SYNs that the daemon has counted, by `/stats`; 0 where it does not say.
pub fn syn(stats: &Value) -> u64 {
    stats["totals"]["syn"].as_u64().unwrap_or_default()
}

/// What a daemon is started with.
pub struct Setup {
    lab: Lab,
    folder: TempDir,
    config: String,
    socket: PathBuf,
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
    /// What the daemon is run by.
    wrapper: Vec<String>,
    /// What a shell runs first.
    script: Option<String>,
}

impl Setup {
    /// In the lab's server, guarding its end of the cable.
    ///
    /// # Errors
    /// Returns an error if no folder can be made for it.
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
        };
        Ok(setup.config(&format!("interfaces = [\"{SERVER_INTERFACE}\"]\n")))
    }

    /// With this at the start of the configuration, before where it listens.
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

    /// A command of tcpguard's, with this configuration, in the lab's server.
    ///
    /// # Errors
    /// Returns an error if it cannot be run.
    pub fn tcpguard(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = self.lab.server.command(binary()?);
        let output = command.arg("--config").arg(self.write_config()?).args(arguments).output();
        output.context("cannot run tcpguard")
    }

    /// With this as the whole configuration.
    #[must_use]
    pub fn whole_config(mut self, text: &str) -> Self {
        self.config = text.to_owned();
        self
    }

    /// With its socket at this path, which the whole configuration names.
    #[must_use]
    pub fn listening_on(mut self, socket: &Path) -> Self {
        self.socket = socket.to_owned();
        self
    }

    /// With this in its environment.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With this argument to `tcpguard run`.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Without this argument, if it has it.
    #[must_use]
    pub fn without_argument(mut self, argument: &str) -> Self {
        self.arguments.retain(|present| present != argument);
        self
    }

    /// With an empty folder in place of this one, as on a kernel that does not have it.
    #[must_use]
    pub fn hiding(self, folder: &str) -> Self {
        self.after(&format!("mount -t tmpfs none {folder}"))
    }

    /// As this user, with these capabilities (as in "bpf,net_admin") and no others.
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

    /// After a shell has run this, in a mount namespace of its own.
    #[must_use]
    pub fn after(mut self, script: &str) -> Self {
        self.script = Some(script.to_owned());
        self
    }

    /// Path of the daemon's socket.
    pub fn socket(&self) -> PathBuf {
        self.socket.clone()
    }

    /// Path of the daemon's event store.
    pub fn store(&self) -> PathBuf {
        self.folder.path().join("store").join("tcpguard.sqlite")
    }

    /// Path of another file beside them.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The command that runs it.
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

    /// Runs it to its end, which must come by itself.
    ///
    /// # Errors
    /// Returns an error if it cannot be run.
    pub fn run_to_end(&self) -> Result<Output> {
        self.command()?.output().context("cannot run tcpguard")
    }

    /// Starts it, and waits for nothing. What it says is added to the log.
    ///
    /// # Errors
    /// Returns an error if it cannot be started.
    pub fn spawn(&self) -> Result<Child> {
        let log = fs::File::options().create(true).append(true).open(self.log());
        let log = log.context("cannot create the daemon's log")?;
        self.command()?.stdout(Stdio::null()).stderr(log).spawn().context("cannot start tcpguard")
    }

    /// The folder of its files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Path of its log.
    pub fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Starts it, and waits until it is ready.
    ///
    /// # Errors
    /// Returns an error if it ends instead, with what it said.
    pub fn start(self) -> Result<Daemon> {
        let process = Process(self.spawn()?);
        let log = self.log();
        let mut daemon = Daemon { process, setup: self, log };
        daemon.wait_until_ready()?;
        Ok(daemon)
    }
}

/// A running daemon. It is killed when this is dropped.
pub struct Daemon {
    process: Process,
    setup: Setup,
    log: PathBuf,
}

impl Daemon {
    fn wait_until_ready(&mut self) -> Result<()> {
        for _ in 0..200 {
            if let Some(status) = self.process.0.try_wait().context("cannot wait for tcpguard")? {
                bail!("tcpguard ended with {status}: {}", self.log()?);
            }
            if self.get("/readyz").is_ok_and(|(status, _)| status == 200) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("tcpguard is not ready after ten seconds: {}", self.log()?)
    }

    /// What it logged so far.
    ///
    /// # Errors
    /// Returns an error if the log cannot be read.
    pub fn log(&self) -> Result<String> {
        fs::read_to_string(&self.log).context("cannot read the daemon's log")
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.0.id()
    }

    /// Its resident memory.
    ///
    /// # Errors
    /// Returns an error if it cannot be read.
    pub fn resident_kib(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).context("cannot read its memory")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        line.trim().trim_end_matches(" kB").parse().context("no number in VmRSS")
    }

    /// Path of its socket.
    pub fn socket(&self) -> PathBuf {
        self.setup.socket()
    }

    /// A connection to its socket.
    ///
    /// # Errors
    /// Returns an error if it does not listen.
    pub fn connect(&self) -> Result<UnixStream> {
        UnixStream::connect(self.socket()).context("the daemon does not listen")
    }

    /// `GET path`: status and body.
    ///
    /// # Errors
    /// Returns an error if there is no answer.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        http::get(self.connect()?, path)
    }

    /// The JSON of `GET path`.
    ///
    /// # Errors
    /// Returns an error if the answer is not 200, or not JSON.
    pub fn json(&self, path: &str) -> Result<Value> {
        let (status, body) = self.get(path)?;
        ensure!(status == 200, "{path}: {status} {body}");
        serde_json::from_str(&body).with_context(|| format!("{path} is not JSON: {body}"))
    }

    /// `/stats`, once `is_right`.
    ///
    /// # Errors
    /// Returns an error if it does not become right in time.
    pub fn stats_when(&self, what: &str, is_right: impl Fn(&Value) -> bool) -> Result<Value> {
        /// In one line, where it is shown.
        struct OneLine(Value);
        impl fmt::Debug for OneLine {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "{}", self.0)
            }
        }
        let stats = eventually(what, || self.json("/stats").map(OneLine), |stats| is_right(&stats.0))?;
        Ok(stats.0)
    }

    /// One source's row of `/sources`, if it is among the first thousand.
    ///
    /// # Errors
    /// Returns an error if the daemon does not answer.
    pub fn source(&self, address: &str) -> Result<Option<Value>> {
        let sources = self.json("/sources?limit=1000")?;
        Ok(sources.as_array().and_then(|rows| rows.iter().find(|row| row["source"] == address)).cloned())
    }

    /// Sends a signal and waits for the end.
    ///
    /// # Errors
    /// Returns an error if it does not end within five seconds.
    pub fn end(&mut self, signal: Signal) -> Result<ExitStatus> {
        kill(Pid::from_raw(self.process.0.id() as i32), signal).context("cannot signal the daemon")?;
        for _ in 0..100 {
            if let Some(status) = self.process.0.try_wait().context("cannot wait for the daemon")? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("the daemon did not end within five seconds of {signal}")
    }

    /// Ends it with `signal`, starts it anew at once, and waits until it is ready.
    ///
    /// # Errors
    /// Returns an error if it does not end, or start.
    pub fn restart(&mut self, signal: Signal) -> Result<()> {
        self.end(signal)?;
        self.start_again()
    }

    /// Starts it anew after its end, and waits until it is ready.
    ///
    /// # Errors
    /// Returns an error if it does not start.
    pub fn start_again(&mut self) -> Result<()> {
        self.process = Process(self.setup.spawn()?);
        self.wait_until_ready()
    }

    /// Gives it another configuration, which it has not read yet.
    ///
    /// # Errors
    /// Returns an error if it cannot be written.
    pub fn set_config(&mut self, text: &str) -> Result<()> {
        self.setup.set_config(text);
        self.setup.write_config().map(drop)
    }

    /// Runs it anew, after its end, with another configuration, by which it must come to its end by itself.
    ///
    /// # Errors
    /// Returns an error if it cannot be run.
    pub fn again_with(&mut self, text: &str) -> Result<Output> {
        self.setup.set_config(text);
        self.setup.run_to_end()
    }

    /// A command of tcpguard's, with the daemon's configuration, where the daemon runs.
    ///
    /// # Errors
    /// Returns an error if it cannot be run.
    pub fn tcpguard(&self, arguments: &[&str]) -> Result<Output> {
        self.setup.tcpguard(arguments)
    }

    /// What it was started with, to start it in another way. It must have ended.
    pub fn into_setup(self) -> Setup {
        let Self { process: _, setup, log: _ } = self;
        setup
    }

    /// Ends it with `signal`, and gives back what it was started with.
    ///
    /// # Errors
    /// Returns an error if it does not end.
    pub fn end_for_restart(mut self, signal: Signal) -> Result<(Lab, PathBuf)> {
        self.end(signal)?;
        Ok((self.setup.lab.clone(), self.socket()))
    }
}

/// A process that is killed when this is dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        if self.0.kill().is_ok() {
            self.0.wait().ok();
        }
    }
}

/// Runs `tcpguard` with these arguments, outside the lab.
///
/// # Errors
/// Returns an error if it cannot be run.
pub fn tcpguard(arguments: &[&str], socket: &Path) -> Result<Output> {
    Command::new(binary()?).args(arguments).arg("--socket").arg(socket).output().context("cannot run tcpguard")
}
