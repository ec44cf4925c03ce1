//! `cargo xtask mutants`: whether a test fails for each change of an operator or a result in the code (cargo-mutants).
//!
//! What no test can tell from the code is listed in .cargo/mutants.toml with the reason. Each part takes hours; a part
//! that was interrupted goes on with the mutants that have not been caught.

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use serde_json::Value;
use xtask::bpf::toolchain::{target_folder, workspace};

use crate::{
    command::{announced, step},
    setup,
};

const VERSION: &str = "27.1.0";

/// How cargo-mutants ends where mutants were missed, or tests took too long.
const MUTANTS_MISSED: i32 = 2;
const MUTANTS_TIMED_OUT: i32 = 3;

/// What mutants of one part are listed by, and the lab tests that are to fail, cheapest first.
struct Trial {
    /// The folder of the crate, in the workspace.
    folder: &'static str,
    /// cargo-mutants' selection of files.
    what: &'static [&'static str],
    /// Names, or parts of names.
    tests: &'static [&'static [&'static str]],
}

const COMMON: Trial = Trial { folder: ".", what: &["--package", "tcpguard-common"], tests: &[] };
const JUDGEMENT: Trial = Trial {
    folder: ".",
    what: &["--package", "tcpguard", "--file", "tcpguard/src/detect/**"],
    tests: &[&["enforcement::"], &["evidence::", "hostile::", "reload::", "restart::", "spoofed::"]],
};
const LISTS: Trial = Trial {
    folder: ".",
    what: &["--package", "tcpguard", "--file", "tcpguard/src/lists/**"],
    tests: &[&["lists::", "ssh::"], &["availability::", "list_size::", "reload::", "restart::"]],
};
const PIPELINE: Trial = Trial {
    folder: "tcpguard-ebpf",
    what: &["--file", "src/pipeline.rs", "--file", "src/stages/**"],
    tests: &[
        &["packet_tables::", "answers::"],
        &[
            "bypasses::",
            "counting::",
            "enforcement::",
            "evidence::",
            "explain::",
            "refusals::",
            "signatures::",
            "strays::",
        ],
    ],
};

/// What to change, and how.
#[derive(Args)]
pub struct Arguments {
    /// The code to change
    #[arg(value_enum)]
    part: Part,
    /// Arguments for cargo-mutants, as in `-- --re completes` (not for lab tests)
    #[arg(last = true)]
    others: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// tcpguard-common, tried with its unit tests
    Common,
    /// tcpguard/src/detect, tried with unit tests, and what they miss with lab tests (needs root)
    Judgement,
    /// tcpguard/src/lists, tried with unit tests, and what they miss with lab tests (needs root)
    Lists,
    /// The pipeline of tcpguard-ebpf and its stages, tried with lab tests (needs root)
    Pipeline,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Common => "common",
            Self::Judgement => "judgement",
            Self::Lists => "lists",
            Self::Pipeline => "pipeline",
        }
    }

    /// Where results are kept.
    fn folder(self) -> PathBuf {
        target_folder().join("mutants").join(self.name())
    }
}

/// Tries the mutants of one part.
///
/// # Errors
/// Returns an error where something cannot be installed or built, or a mutant is not caught.
pub fn run(arguments: &Arguments) -> Result<()> {
    setup::for_building()?;
    if arguments.part != Part::Common {
        setup::for_all_lab_tests()?;
    }
    let copy = copy_workspace(&arguments.part.folder())?;
    let folder = arguments.part.folder();
    match arguments.part {
        Part::Common => with_unit_tests(&copy, arguments, &COMMON, "").and_then(|missed| none(&missed)),
        Part::Judgement => {
            let missed = with_unit_tests(&copy, arguments, &JUDGEMENT, "detect::")?;
            with_lab_tests(&copy, &folder, &JUDGEMENT, |mutant| missed.contains(mutant))
        }
        Part::Lists => {
            let missed = with_unit_tests(&copy, arguments, &LISTS, "lists::")?;
            with_lab_tests(&copy, &folder, &LISTS, |mutant| missed.contains(mutant))
        }
        // cargo-mutants runs `cargo test`, which the BPF programs do not have.
        Part::Pipeline => with_lab_tests(&copy, &folder, &PIPELINE, |_| true),
    }
}

fn none(missed: &BTreeSet<String>) -> Result<()> {
    ensure!(missed.is_empty(), "{} mutants are not caught", missed.len());
    Ok(())
}

/// Copies what git knows of, as it stands, to change it there. The copy keeps its build folder.
fn copy_workspace(folder: &Path) -> Result<PathBuf> {
    let copy = folder.join("tree");
    fs::create_dir_all(copy.join("target")).with_context(|| format!("cannot make {}", copy.display()))?;
    setup::for_copying()?;
    // Files that are gone from the workspace must go from the copy, and what changed has to be newer than what was built.
    let script = "find \"$0\" -mindepth 1 -maxdepth 1 ! -name target -exec rm -rf {} + && \
                  git ls-files -z --cached --others --exclude-standard | \
                  rsync --recursive --links --perms --from0 --files-from=- --ignore-missing-args . \"$0\"";
    step("copying the workspace", Command::new("sh").args(["-c", script]).arg(&copy).current_dir(workspace()))?;
    let tools = copy.join("target/bpf-tools");
    if !tools.exists() {
        symlink(target_folder().join("bpf-tools"), &tools).context("cannot link the BPF linker")?;
    }
    Ok(copy)
}

/// cargo-mutants as this project uses it, for a copy of the workspace.
fn cargo_mutants(copy: &Path) -> Result<Command> {
    // cargo runs its subcommands with their own name as the first argument.
    let mut command = Command::new(setup::cargo_tool("cargo-mutants", VERSION)?);
    command.arg("mutants").current_dir(copy).arg("--config").arg(copy.join(".cargo/mutants.toml"));
    Ok(command)
}

/// Tries the mutants with the unit tests whose names contain `own`, and those that are left with all; returns the names of
/// those that none catches.
fn with_unit_tests(copy: &Path, arguments: &Arguments, trial: &Trial, own: &str) -> Result<BTreeSet<String>> {
    let folder = arguments.part.folder();
    let passes: &[&[&str]] = if own.is_empty() { &[&[]] } else { &[&[own], &[]] };
    for filters in passes {
        let mut command = cargo_mutants(copy)?;
        command.args(trial.what).args(["--in-place", "--iterate", "--timeout", "300", "--output"]);
        // Other binaries of the package need not be built each time.
        command.arg(&folder).args(["--cargo-arg=--lib"]).args(&arguments.others).args(["--", "--"]).args(*filters);
        // Nobody reads a backtrace of a mutant, and no test needs the dashboard.
        command.env("CARGO_PROFILE_DEV_DEBUG", "none").env(xtask::dashboard::VARIABLE, "skip");
        announced(&format!("mutants of {}, unit tests {filters:?}", arguments.part.name()), || {
            let status = command.status().context("cannot run cargo-mutants")?;
            let is_done = matches!(status.code(), Some(0 | MUTANTS_MISSED | MUTANTS_TIMED_OUT));
            ensure!(is_done, "cargo-mutants ended with {status}");
            Ok(())
        })?;
    }
    let missed = fs::read_to_string(folder.join("mutants.out/missed.txt")).context("cannot read what was missed")?;
    Ok(missed.lines().map(str::to_owned).collect())
}

/// One change of the code.
struct Mutant {
    name: String,
    diff: String,
}

/// Tries mutants in a copy of the workspace, one after the other.
fn with_lab_tests(copy: &Path, folder: &Path, trial: &Trial, is_wanted: impl Fn(&String) -> bool) -> Result<()> {
    ensure!(outcome(copy, trial)? == Outcome::Missed, "the tests fail without a mutant: {:?}", trial.tests);
    let results = folder.join("results");
    let settled: BTreeSet<String> = fs::read_to_string(&results)
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(outcome, _)| *outcome != Outcome::Missed.name())
        .map(|(_, name)| name.to_owned())
        .collect();
    let mut mutants = list(copy, trial)?;
    mutants.retain(|mutant| is_wanted(&mutant.name));
    let mut missed = 0;
    for (number, mutant) in mutants.iter().enumerate().filter(|(_, mutant)| !settled.contains(&mutant.name)) {
        let outcome = try_out(copy, trial, mutant)?;
        missed += u32::from(outcome == Outcome::Missed);
        println!("{} of {}: {} {}", number + 1, mutants.len(), outcome.name(), mutant.name);
        let mut results = OpenOptions::new().create(true).append(true).open(&results).context("no file for results")?;
        writeln!(results, "{} {}", outcome.name(), mutant.name).context("cannot write a result")?;
    }
    ensure!(missed == 0, "{missed} mutants are not caught; {} names them", results.display());
    Ok(())
}

fn list(copy: &Path, trial: &Trial) -> Result<Vec<Mutant>> {
    let mut list = cargo_mutants(copy)?;
    list.args(["--dir", trial.folder, "--list", "--json", "--diff"]).args(trial.what);
    let output = list.stderr(Stdio::inherit()).output().context("cannot run cargo-mutants")?;
    ensure!(output.status.success(), "cargo-mutants cannot list mutants");
    let listed: Vec<Value> = serde_json::from_slice(&output.stdout).context("cargo-mutants lists something else")?;
    let text = |mutant: &Value, key: &str| mutant.get(key).and_then(Value::as_str).map(str::to_owned);
    listed
        .iter()
        .map(|mutant| Some(Mutant { name: text(mutant, "name")?, diff: text(mutant, "diff")? }))
        .collect::<Option<_>>()
        .context("cargo-mutants lists a mutant without name or difference")
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Caught,
    Missed,
    /// It does not compile.
    Unviable,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Self::Caught => "caught",
            Self::Missed => "missed",
            Self::Unviable => "unviable",
        }
    }
}

fn try_out(copy: &Path, trial: &Trial, mutant: &Mutant) -> Result<Outcome> {
    let folder = copy.join(trial.folder);
    patch(&folder, &mutant.diff, &[])?;
    let outcome = outcome(copy, trial);
    patch(&folder, &mutant.diff, &["--reverse"])?;
    outcome
}

fn outcome(copy: &Path, trial: &Trial) -> Result<Outcome> {
    if !succeeds(lab(copy).arg("--list"))? {
        return Ok(Outcome::Unviable);
    }
    for filters in trial.tests {
        if !succeeds(lab(copy).args(*filters))? {
            return Ok(Outcome::Caught);
        }
    }
    Ok(Outcome::Missed)
}

fn lab(copy: &Path) -> Command {
    // A mutant that hangs is caught, too.
    let mut command = Command::new("timeout");
    command.args(["--kill-after=10", "600", "cargo", "xtask", "lab"]).current_dir(copy);
    command
}

fn succeeds(command: &mut Command) -> Result<bool> {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    Ok(status.context("cannot run timeout")?.success())
}

/// Applies a difference to files below a folder.
fn patch(folder: &Path, diff: &str, options: &[&str]) -> Result<()> {
    let mut command = Command::new("patch");
    command.args(["--quiet", "--strip=1"]).args(options).current_dir(folder);
    let mut process = command.stdin(Stdio::piped()).spawn().context("cannot run patch")?;
    process.stdin.take().context("patch reads nothing")?.write_all(diff.as_bytes()).context("patch reads nothing")?;
    ensure!(process.wait().context("patch has no end")?.success(), "a mutant cannot be patched in:\n{diff}");
    Ok(())
}
