//! The daemon is killed at each step that changes something, and started again. The host must stay reachable, the
//! daemon must become calm, and in the end everything must be restored.
//!
//! The kill points are in the daemon (`tcpguard/src/fault.rs`). Each run executes everything that changes something;
//! the n-th run is killed at the n-th point. `cargo xtask test faults` tests all points, the normal test run some.

use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    os::unix::process::ExitStatusExt,
    panic::resume_unwind,
    process::Child,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use lab::{
    Client, Flood, FloodSpec, Lab, Neighbour, Setup, Sources,
    machine_lock::lock_machine,
    neighbour::{program_on, programs_at_tc},
    network::{SERVER_INTERFACE, SERVER_IPV4},
    server::listen,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Number of parallel runs; each mostly waits.
const AT_ONCE: usize = 4;
/// An upper limit for the number of points in a run.
const MAX_POINTS: u32 = 600;
const HAND_OVER: &str = "--hand-over";
/// Kernel settings that the daemon changes, with the values to restore.
const SETTINGS: [(&str, &str); 3] =
    [("net.ipv4.tcp_syncookies", "1"), ("net.ipv4.tcp_timestamps", "1"), ("net.ipv4.tcp_synack_retries", "5")];

/// The situation of the daemon that is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    /// There is nothing to take over.
    FreshStart,
    /// It takes over from a daemon that was killed.
    AfterAnotherDaemon,
    /// It runs in a chain before another XDP program.
    BeforeAnotherProgram,
    /// It is attached at traffic control.
    AtTrafficControl,
    /// It hands over to the next daemon when it ends.
    HandingOver,
}

const CASES: [Case; 5] =
    [Case::FreshStart, Case::AfterAnotherDaemon, Case::BeforeAnotherProgram, Case::AtTrafficControl, Case::HandingOver];
/// Distance between the points that the normal test run tests.
const STEP: u32 = 35;

impl Case {
    /// Returns the configuration: challenges from the start, so that kernel settings are changed immediately, and low
    /// thresholds.
    fn config(self) -> String {
        let key = match self {
            Self::BeforeAnotherProgram => "coexist = \"chain\"",
            Self::AtTrafficControl => "attach = \"tc\"",
            Self::FreshStart | Self::AfterAnotherDaemon | Self::HandingOver => "",
        };
        format!(
            "interfaces = [\"{SERVER_INTERFACE}\"]\n{key}\n[thresholds]\nmax_half_open = 20\nhold = \"1s\"\n\
             [source]\nmax_half_open = 5\nblock_for = \"1s\"\n[challenge]\nmode = \"always\"\n"
        )
    }
}

struct Fixture {
    lab: Lab,
    case: Case,
    neighbour: Option<Neighbour>,
    _listener: TcpListener,
}

impl Fixture {
    fn new(case: Case) -> Result<Self> {
        let lab = Lab::new()?;
        let listener = listen(&lab.server, SERVER_IPV4.into(), 80)?;
        for (name, value) in SETTINGS {
            lab.server.sysctl(name, value)?;
        }
        if case == Case::AtTrafficControl {
            lab.receive_without_daemon()?;
        }
        let neighbour = match case {
            Case::BeforeAnotherProgram => Some(Neighbour::attach(&lab, SERVER_INTERFACE)?),
            _ => None,
        };
        Ok(Self { lab, case, neighbour, _listener: listener })
    }

    /// Returns whether only the program from before tcpguard, if any, is attached.
    fn is_as_before(&self) -> Result<bool> {
        let before = self.neighbour.as_ref().map(|neighbour| neighbour.id);
        Ok(program_on(&self.lab, SERVER_INTERFACE)? == before && programs_at_tc(&self.lab, SERVER_INTERFACE)? == 0)
    }

    /// Executes everything that changes something once. The daemon may be killed at any point. Returns true if the
    /// command that allows an address succeeded.
    fn go_through_all(&self, setup: &Setup, process: &mut Child) -> Result<bool> {
        let mut flood = Flood::new(&self.lab, &FloodSpec::syn(Sources::InTurn("198.18.1.1".parse()?, 3), 9))?;
        let does = |arguments: &[&str]| setup.tcpguard(arguments).is_ok_and(|output| output.status.success());
        let is_ready =
            || Ok(lab::http::get(std::os::unix::net::UnixStream::connect(setup.socket())?, "/readyz")?.0 == 200);
        let until = |process: &mut Child, done: &dyn Fn() -> Result<bool>| -> Result<bool> {
            let deadline = Instant::now() + Duration::from_secs(8);
            while process.try_wait().context("cannot wait for the daemon")?.is_none() {
                if done().unwrap_or(false) {
                    return Ok(true);
                }
                ensure!(Instant::now() < deadline, "the daemon neither continued nor exited: {}", log(setup));
                thread::sleep(Duration::from_millis(20));
            }
            Ok(false)
        };
        if !until(process, &is_ready)? {
            return Ok(false);
        }
        // A client's handshake, and a flood that is an attack and whose sources are blocked. The handshake may fail,
        // since the daemon may be exiting.
        Client::new(&self.lab).connect((SERVER_IPV4, 80).into()).ok();
        // Every port is challenged, so that sources get an entry late.
        for _ in 0..3 {
            flood.send(600)?;
        }
        let is_blocked = || Ok(said(setup, &["lists", "--json"])?.contains("198.18.1.1"));
        if !until(process, &is_blocked)? {
            return Ok(false);
        }
        does(&["block", "203.0.113.1", "--for", "1h"]);
        let is_allowed = does(&["allow", "203.0.113.2"]);
        does(&["unblock", "203.0.113.1"]);
        does(&["reload"]);
        if process.try_wait().context("cannot wait for the daemon")?.is_none() {
            kill(Pid::from_raw(process.id() as i32), Signal::SIGTERM).context("cannot signal the daemon")?;
        }
        Ok(is_allowed)
    }

    /// Kills a run at point `number` and tests the recovery. Returns false if the run has fewer points.
    fn is_killed_at(&self, number: u32) -> Result<bool> {
        let mut setup = Setup::new(&self.lab)?.config(&self.case.config());
        match self.case {
            Case::AfterAnotherDaemon => setup = self.after_another(setup)?,
            Case::HandingOver => setup = setup.argument(HAND_OVER),
            Case::FreshStart | Case::BeforeAnotherProgram | Case::AtTrafficControl => {}
        }
        let setup = setup.environment("TCPGUARD_KILL_AT", &number.to_string());
        let points = setup.file("points");
        let setup = setup.environment("TCPGUARD_KILL_LOG", &points.to_string_lossy());
        let mut process = setup.spawn()?;
        let is_allowed = self.go_through_all(&setup, &mut process)?;
        let status = process.wait().context("cannot wait for the daemon's exit")?;
        let step = fs::read_to_string(&points).unwrap_or_default().lines().last().unwrap_or_default().to_owned();
        if status.signal() != Some(Signal::SIGKILL as i32) {
            ensure!(status.success(), "the daemon exited with {status}: {}", log(&setup));
            return Ok(false);
        }
        // The host stays reachable, whatever the daemon left.
        Client::new(&self.lab)
            .connect((SERVER_IPV4, 80).into())
            .with_context(|| format!("the host is unreachable after {step}"))?;
        self.recovers(setup, is_allowed).with_context(|| format!("killed at {step}"))?;
        Ok(true)
    }

    /// Runs a daemon and kills it during an attack, for the next daemon to take over.
    fn after_another(&self, setup: Setup) -> Result<Setup> {
        let mut daemon = setup.start()?;
        let mut flood = Flood::new(&self.lab, &FloodSpec::syn(Sources::InTurn("198.18.2.1".parse()?, 3), 9))?;
        for _ in 0..3 {
            flood.send(40)?;
        }
        daemon.stats_when("the state is attack", |stats| stats.state == "attack")?;
        daemon.end(Signal::SIGKILL)?;
        Ok(daemon.into_setup())
    }

    /// Checks that the next daemon takes over, becomes calm, and leaves nothing behind.
    fn recovers(&self, setup: Setup, is_allowed: bool) -> Result<()> {
        let mut daemon = setup.environment("TCPGUARD_KILL_AT", "").without_argument(HAND_OVER).start()?;
        Client::new(&self.lab)
            .connect((SERVER_IPV4, 80).into())
            .context("the host is unreachable after the restart")?;
        daemon.stats_when("the state is calm", |stats| stats.state == "calm" && stats.attack.is_none())?;
        let lists = daemon.json("/lists")?.to_string();
        ensure!(lists.contains("203.0.113.2") || !is_allowed, "an acknowledged list entry is missing: {lists}");
        let status = daemon.end(Signal::SIGTERM)?;
        ensure!(status.success(), "{status}: {}", daemon.log()?);
        for (name, value) in SETTINGS {
            let now = self.lab.server.setting(name)?;
            ensure!(now == value, "{name} is {now}: {}", daemon.log()?);
        }
        ensure!(self.is_as_before()?, "the attached programs are not those from before");
        ensure!(!daemon.socket().exists(), "the socket is still there");
        Ok(())
    }
}

fn log(setup: &Setup) -> String {
    fs::read_to_string(setup.log()).unwrap_or_default()
}

fn said(setup: &Setup, arguments: &[&str]) -> Result<String> {
    Ok(String::from_utf8_lossy(&setup.tcpguard(arguments)?.stdout).into_owned())
}

/// Kills runs at every `step`-th point, in `at_once` labs in parallel, and returns the number of runs killed.
fn kill_at_every(step: u32, case: Case, at_once: usize) -> Result<u32> {
    let _machine = lock_machine()?;
    let (next, killed) = (AtomicU32::new(1), AtomicU32::new(0));
    let problems = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(step, Ordering::Relaxed);
                    match Fixture::new(case).and_then(|fixture| fixture.is_killed_at(number)) {
                        Ok(true) => drop(killed.fetch_add(1, Ordering::Relaxed)),
                        Ok(false) => return next.store(MAX_POINTS, Ordering::Relaxed),
                        Err(error) => {
                            problems
                                .lock()
                                .unwrap_or_else(std::sync::PoisonError::into_inner)
                                .insert(number, format!("{error:#}"));
                        }
                    }
                    if number > MAX_POINTS {
                        return;
                    }
                }
            });
        }
    });
    let problems = problems.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    if !problems.is_empty() {
        let told: Vec<String> = problems.iter().map(|(number, problem)| format!("{number}: {problem}")).collect();
        bail!("{case:?}, at {} points:\n{}", problems.len(), told.join("\n"));
    }
    Ok(killed.into_inner())
}

#[test]
#[ignore = "takes minutes: cargo xtask test faults"]
fn at_every_point() -> Result<()> {
    let mut all = 0;
    for case in CASES {
        let killed = kill_at_every(1, case, AT_ONCE)?;
        println!("{case:?}: killed at {killed} points");
        all += killed;
    }
    ensure!(all >= 100, "only {all} points were tested");
    Ok(())
}

#[test]
fn at_some_points() -> Result<()> {
    thread::scope(|scope| {
        let cases = CASES.map(|case| (case, scope.spawn(move || kill_at_every(STEP, case, 1))));
        cases.into_iter().try_for_each(|(case, killed)| {
            let killed = killed.join().unwrap_or_else(|panic| resume_unwind(panic))?;
            ensure!(killed >= 2, "{case:?}: only {killed} points were tested");
            Ok(())
        })
    })
}
