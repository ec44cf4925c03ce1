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

use super::{load_config, print, print_json, privileges};
use crate::{
    config::{Config, OnExit},
    datapath::{PinScope, remove_pins},
    response::{KernelSettings, Restored, challenge::COOKIES_UNDER_WAY},
};

#[derive(Args)]
pub(super) struct Arguments {
    /// Detach in every network namespace instead of the current one only
    #[arg(long)]
    all: bool,
    /// Do nothing if systemd is about to restart this unit, and keep the datapath if `on_exit` is "keep"; for
    /// `ExecStopPost=`
    #[arg(long, value_name = "UNIT")]
    unless_restarting: Option<String>,
    /// Pin directory (default: the one in the configuration)
    #[arg(long, value_name = "PATH")]
    pins: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The result of a detach.
#[derive(Serialize)]
struct Done {
    /// Number of network namespaces in which something was attached or pinned.
    namespaces: usize,
    /// The outcome for each kernel setting that was still changed.
    settings: Vec<Setting>,
}

#[derive(Serialize)]
struct Setting {
    name: String,
    /// Current value.
    value: String,
    /// Reason why the setting was not put back.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

pub(super) fn detach(file: Option<&Path>, arguments: &Arguments) -> Result<()> {
    let mut config = load_config(file).unwrap_or_else(|error| {
        // An invalid file must not prevent a detach.
        eprintln!("tcpguard: {error}; using the default configuration");
        Config::default()
    });
    config.pins.path = arguments.pins.clone().unwrap_or(config.pins.path);
    let unit = arguments.unless_restarting.as_deref();
    if let Some(reason) = unit.and_then(reason_to_wait) {
        return print(&format!("nothing is detached: {reason}\n"));
    }
    // What a service's user owns is undone with no more than that user's rights.
    let pins = privileges::become_owner(&config.pins.path)?;
    if let Some(pins) = &pins {
        config.pins.path = pins.path();
    }
    let socket = &config.listen.socket;
    if UnixStream::connect(socket).is_ok() {
        bail!("a daemon answers on {}: stop it before detaching", socket.display());
    }
    let stays = unit.is_some() && config.on_exit == OnExit::Keep;
    let namespaces = if stays { 0 } else { take_off(&config, arguments)? };
    if KernelSettings::has_left(socket) {
        // Cookies that were just sent can still be returned before the kernel stops accepting them.
        std::thread::sleep(COOKIES_UNDER_WAY);
    }
    let done = Done { namespaces, settings: put_back_settings(&config)? };
    if arguments.json { print_json(&done) } else { print(&told(&done)) }
}

fn take_off(config: &Config, arguments: &Arguments) -> Result<usize> {
    let scope = if arguments.all { PinScope::EveryNamespace } else { PinScope::ThisNamespace };
    let removed = remove_pins(&config.pins.path, scope)
        .context("cannot remove the pins: if a daemon is running, stop it first")?;
    let socket = &config.listen.socket;
    // Left behind by a killed daemon.
    if socket.exists() {
        std::fs::remove_file(socket).with_context(|| format!("cannot remove {}", socket.display()))?;
    }
    Ok(removed)
}

fn put_back_settings(config: &Config) -> Result<Vec<Setting>> {
    let restored =
        KernelSettings::put_back(&config.listen.socket).context("cannot determine the current network namespace")?;
    let settings = restored.into_iter().map(|outcome| match outcome {
        Restored::Back(setting) => Setting { name: setting.name, value: setting.original, problem: None },
        Restored::LeftAlone(setting) => Setting {
            name: setting.name,
            value: "left".to_owned(),
            problem: Some("another program has changed it".to_owned()),
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

/// Returns the reason not to detach: the service is being restarted, or is about to be.
fn reason_to_wait(unit: &str) -> Option<String> {
    let job = job_of(unit);
    if matches!(job.as_deref(), Some("restart" | "start" | "try-restart")) {
        return Some(format!("{unit} is being restarted"));
    }
    // Set by systemd for ExecStopPost=. With any result but success, the unit is restarted automatically.
    let result = env::var("SERVICE_RESULT").unwrap_or_default();
    let is_started_again = job.is_none() && !["", "success"].contains(&result.as_str());
    is_started_again.then(|| format!("{unit} ended with result \"{result}\" and is about to be restarted"))
}

/// Returns the type of systemd's pending job for a unit, such as `restart`.
fn job_of(unit: &str) -> Option<String> {
    let output = Command::new("systemctl").args(["list-jobs", "--no-legend", "--plain", "--full"]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    parse_job(&text, unit)
}

/// Finds the unit's job in the output of `systemctl list-jobs`: lines of number, unit, job and state.
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
