//! `tcpguard detach`.

use std::{
    env,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;

use super::{load_config, print, print_json};
use crate::{
    challenge::COOKIES_UNDER_WAY,
    config::{Config, OnExit},
    datapath::{PinScope, remove_pins},
    enforce::{KernelSettings, Restored},
};

#[derive(Args)]
pub(super) struct Arguments {
    /// In every network namespace, not in this one alone
    #[arg(long)]
    all: bool,
    /// Do nothing where systemd is about to start this unit again, or `on_exit` is "keep": for its `ExecStopPost=`
    #[arg(long, value_name = "UNIT")]
    unless_restarting: Option<String>,
    /// Where it was pinned, instead of where the configuration says
    #[arg(long, value_name = "PATH")]
    pins: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What was done.
#[derive(Serialize)]
struct Done {
    /// Network namespaces in which something was attached, or pinned.
    namespaces: usize,
    /// What became of each kernel setting that was still changed.
    settings: Vec<Setting>,
}

#[derive(Serialize)]
struct Setting {
    name: String,
    /// What it is now.
    value: String,
    /// Why it was not put back.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

pub(super) fn detach(file: Option<&Path>, arguments: &Arguments) -> Result<()> {
    let mut config = load_config(file).unwrap_or_else(|error| {
        // Whoever wants it off wants it off whatever the file says.
        eprintln!("tcpguard: {error}; what is left is looked for where it is without a configuration");
        Config::default()
    });
    config.pins.path = arguments.pins.clone().unwrap_or(config.pins.path);
    let unit = arguments.unless_restarting.as_deref();
    if let Some(reason) = unit.and_then(reason_to_wait) {
        return print(&format!("everything stays as it is: {reason}\n"));
    }
    let socket = &config.listen.socket;
    if UnixStream::connect(socket).is_ok() {
        bail!("a daemon answers on {}, and nothing of it is taken off: end it first", socket.display());
    }
    let stays = unit.is_some() && config.on_exit == OnExit::Keep;
    let namespaces = if stays { 0 } else { take_off(&config, arguments)? };
    if KernelSettings::has_left(socket) {
        // Cookies that were sent a moment ago come back before the kernel does not take them any more.
        std::thread::sleep(COOKIES_UNDER_WAY);
    }
    let done = Done { namespaces, settings: put_back_settings(&config)? };
    if arguments.json { print_json(&done) } else { print(&told(&done)) }
}

fn take_off(config: &Config, arguments: &Arguments) -> Result<usize> {
    let scope = if arguments.all { PinScope::EveryNamespace } else { PinScope::ThisNamespace };
    let removed =
        remove_pins(&config.pins.path, scope).context("nothing of a running daemon is taken off: end it first")?;
    let socket = &config.listen.socket;
    // One that a killed daemon has left.
    if socket.exists() {
        std::fs::remove_file(socket).with_context(|| format!("cannot remove {}", socket.display()))?;
    }
    Ok(removed)
}

fn put_back_settings(config: &Config) -> Result<Vec<Setting>> {
    let restored =
        KernelSettings::put_back(&config.listen.socket).context("cannot tell which network namespace this is")?;
    let settings = restored.into_iter().map(|outcome| match outcome {
        Restored::Back(setting) => Setting { name: setting.name, value: setting.original, problem: None },
        Restored::LeftAlone(setting) => Setting {
            name: setting.name,
            value: "left".to_owned(),
            problem: Some("somebody else has changed it".to_owned()),
        },
        Restored::Failed(setting, problem) => {
            Setting { name: setting.name, value: setting.value, problem: Some(problem) }
        }
    });
    Ok(settings.collect())
}

fn told(done: &Done) -> String {
    let mut text = match done.namespaces {
        0 => "nothing was attached\n".to_owned(),
        1 => "detached\n".to_owned(),
        more => format!("detached in {more} network namespaces\n"),
    };
    for setting in &done.settings {
        text += &match &setting.problem {
            None => format!("{} was put back to {}\n", setting.name, setting.value),
            Some(problem) => format!("{} was not put back: {problem}\n", setting.name),
        };
    }
    text
}

/// Why nothing is to be done although the service has ended.
fn reason_to_wait(unit: &str) -> Option<String> {
    let job = job_of(unit);
    if matches!(job.as_deref(), Some("restart" | "start" | "try-restart")) {
        return Some(format!("{unit} is being restarted"));
    }
    // Set by systemd for ExecStopPost=; anything but success, and it is started again by itself.
    let result = env::var("SERVICE_RESULT").unwrap_or_default();
    let is_started_again = job.is_none() && !["", "success"].contains(&result.as_str());
    is_started_again.then(|| format!("{unit} ended by \"{result}\", and is started again"))
}

/// What systemd is about to do with a unit.
fn job_of(unit: &str) -> Option<String> {
    let output = Command::new("systemctl").args(["list-jobs", "--no-legend", "--plain", "--full"]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    parse_job(&text, unit)
}

/// Lines are: number, unit, job, state.
fn parse_job(text: &str, unit: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        (words.get(1) == Some(&unit)).then(|| words.get(2).map(|job| (*job).to_owned())).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_job_of_a_unit_is_found() {
        let text = " 812 tcpguard.service      restart running\n1043 other.service stop waiting\n";
        assert_eq!(parse_job(text, "tcpguard.service").as_deref(), Some("restart"));
        assert_eq!(parse_job(text, "other.service").as_deref(), Some("stop"));
        assert_eq!(parse_job(text, "guard.service"), None);
        assert_eq!(parse_job("No jobs running.\n", "tcpguard.service"), None);
    }
}
