//! Delivering a notification: within a time, and again where that may help.

use std::{io, process::Stdio, time::Duration};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use thiserror::Error;
use tokio::{
    io::AsyncWriteExt,
    process::Command,
    time::{sleep, timeout},
};
use tracing::debug;

use super::Notification;
use crate::config::Notify;

/// Time to wait before the first repeat; each further one waits twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Bytes that are shown of what a command says.
const LONGEST_COMPLAINT: usize = 200;

/// Why a notification did not arrive.
#[derive(Debug, Error)]
pub(super) enum DeliveryError {
    #[error("the command cannot be run: {0}")]
    CannotRun(io::Error),
    #[error("the command ended with {0}")]
    CommandFailed(String),
    #[error("it took longer than notify.timeout ({0:?})")]
    TooSlow(Duration),
    #[error("{0}")]
    Refused(String),
    #[error("it cannot be written as JSON: {0}")]
    Unwritable(#[from] serde_json::Error),
}

/// Runs the command once, with the notification on its standard input.
pub(super) async fn run_command(config: &Notify, notification: &Notification) -> Result<(), DeliveryError> {
    let Some((program, arguments)) = config.command.split_first() else { return Ok(()) };
    let body = serde_json::to_vec(notification)?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    // A group of its own, so that what it starts ends with it.
    command.env("TCPGUARD_EVENT", notification.event).kill_on_drop(true).process_group(0);
    let mut child = command.spawn().map_err(DeliveryError::CannotRun)?;
    let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
    let run = async {
        if let Some(mut input) = child.stdin.take() {
            // It may not care for what it is told.
            input.write_all(&body).await.ok();
        }
        child.wait_with_output().await.map_err(DeliveryError::CannotRun)
    };
    let Ok(output) = timeout(config.timeout, run).await else {
        if let Some(Err(error)) = group.map(|group| killpg(group, Signal::SIGKILL)) {
            debug!("a command that took too long could not be killed: {error}");
        }
        return Err(DeliveryError::TooSlow(config.timeout));
    };
    let output = output?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().chars().take(LONGEST_COMPLAINT).collect::<String>();
    Err(DeliveryError::CommandFailed(if said.is_empty() {
        output.status.to_string()
    } else {
        format!("{}: {said}", output.status)
    }))
}

/// Posts the notification, up to `notify.retries` times more where the receiver does not answer, or is not well.
pub(super) async fn post(config: &Notify, url: &str, notification: &Notification) -> Result<(), DeliveryError> {
    let body = serde_json::to_vec(notification)?;
    let mut pause = FIRST_PAUSE;
    for _ in 0..config.retries {
        match post_once(config.timeout, url, &body).await {
            Err(Attempt::MayHelpAgain(error)) => debug!("a webhook is tried again in {pause:?}: {error}"),
            Err(Attempt::Hopeless(error)) => return Err(error),
            Ok(()) => return Ok(()),
        }
        sleep(pause).await;
        pause *= 2;
    }
    post_once(config.timeout, url, &body).await.map_err(|failed| match failed {
        Attempt::MayHelpAgain(error) | Attempt::Hopeless(error) => error,
    })
}

/// Why one attempt failed.
enum Attempt {
    MayHelpAgain(DeliveryError),
    Hopeless(DeliveryError),
}

async fn post_once(patience: Duration, url: &str, body: &[u8]) -> Result<(), Attempt> {
    let (url, body) = (url.to_owned(), body.to_owned());
    let posted = tokio::task::spawn_blocking(move || {
        let agent = ureq::Agent::config_builder().timeout_global(Some(patience)).max_redirects(3).build().new_agent();
        agent.post(&url).content_type("application/json").send(&body).map(drop)
    });
    let answer = posted.await.map_err(|error| Attempt::Hopeless(DeliveryError::Refused(error.to_string())))?;
    answer.map_err(|error| match error {
        ureq::Error::Timeout(_) => Attempt::MayHelpAgain(DeliveryError::TooSlow(patience)),
        // The request is at fault, and would be again.
        ureq::Error::StatusCode(status @ 400..500) if ![408, 429].contains(&status) => {
            Attempt::Hopeless(DeliveryError::Refused(format!("it was answered with the status {status}")))
        }
        error => Attempt::MayHelpAgain(DeliveryError::Refused(error.to_string())),
    })
}
