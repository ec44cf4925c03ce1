//! Delivery of a notification, with a timeout, and with retries for failures that may be temporary.

use std::{io, process::Stdio, time::Duration};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStderr, Command},
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use super::Notification;
use crate::{
    config::Notify,
    service_manager::{self, HOW_TO_OPEN},
};

/// Delay before the first retry; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Maximum number of bytes of a command's standard error included in a message.
const MAX_COMPLAINT: usize = 200;
/// How long to wait for the rest of a command's standard error after it has exited.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Why a notification was not delivered.
#[derive(Debug, Error)]
pub(super) enum DeliveryError {
    #[error("the command cannot be run: {0}")]
    CannotRun(io::Error),
    #[error("the command failed: {0}")]
    CommandFailed(String),
    #[error("delivery took longer than notify.timeout ({0:?})")]
    TooSlow(Duration),
    #[error("{0}")]
    Refused(String),
    #[error("the notification cannot be written as JSON: {0}")]
    Unwritable(#[from] serde_json::Error),
}

/// Runs the command once, with the notification on its standard input.
pub(super) async fn run_command(config: &Notify, notification: &Notification) -> Result<(), DeliveryError> {
    let Some((program, arguments)) = config.command.split_first() else { return Ok(()) };
    let body = serde_json::to_vec(notification)?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.env("TCPGUARD_EVENT", notification.event).process_group(0);
    let mut child = command.spawn().map_err(DeliveryError::CannotRun)?;
    let mut group = Group::of(&child);
    let complaints = AbortOnDropHandle::new(tokio::spawn(read_complaints(child.stderr.take())));
    let run = async {
        if let Some(mut input) = child.stdin.take() {
            // An error means that the command does not read its input, which is allowed.
            input.write_all(&body).await.ok();
        }
        child.wait().await.map_err(DeliveryError::CannotRun)
    };
    let status = timeout(config.timeout, run).await.map_err(|_| DeliveryError::TooSlow(config.timeout))??;
    // It exited by itself; processes that it started may continue.
    group.spare();
    if status.success() {
        return Ok(());
    }
    // Those processes may keep its standard error open.
    let said = timeout(LAST_WORDS, complaints).await.ok().and_then(Result::ok).unwrap_or_default();
    Err(DeliveryError::CommandFailed(if said.is_empty() { status.to_string() } else { format!("{status}: {said}") }))
}

/// Returns the beginning of a command's standard error. The rest is read too, because the command would block
/// otherwise.
async fn read_complaints(output: Option<ChildStderr>) -> String {
    let Some(mut output) = output else { return String::new() };
    let (mut said, mut chunk) = (Vec::new(), [0; 1024]);
    while let Ok(read @ 1..) = output.read(&mut chunk).await {
        let room = MAX_COMPLAINT.saturating_sub(said.len());
        said.extend_from_slice(&chunk[..read.min(room)]);
    }
    String::from_utf8_lossy(&said).trim().to_owned()
}

/// The process group of a command and of all processes that it started. Dropping this kills the group.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw))
    }

    const fn spare(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.map(|group| killpg(group, Signal::SIGKILL)) {
            debug!("a command that timed out could not be killed: {error}");
        }
    }
}

/// Posts the notification, with up to `notify.retries` retries if the receiver does not respond or reports a
/// temporary failure.
pub(super) async fn post(config: &Notify, url: &str, notification: &Notification) -> Result<(), DeliveryError> {
    let body = serde_json::to_vec(notification)?;
    let mut pause = FIRST_PAUSE;
    for _ in 0..config.retries {
        match post_once(config.timeout, url, &body).await {
            Err(Attempt::MayHelpAgain(error)) => debug!("retrying the webhook in {pause:?}: {error}"),
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

/// Why one attempt failed, and whether a retry may succeed.
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
        // The request itself was rejected; a retry would be too.
        ureq::Error::StatusCode(status @ 400..500) if ![408, 429].contains(&status) => {
            Attempt::Hopeless(DeliveryError::Refused(format!("the receiver responded with status {status}")))
        }
        error if service_manager::is_network_closed() => {
            Attempt::MayHelpAgain(DeliveryError::Refused(format!("{error}; {HOW_TO_OPEN}")))
        }
        error => Attempt::MayHelpAgain(DeliveryError::Refused(error.to_string())),
    })
}
