//! Notifications when an attack begins and ends, by running a command and by a webhook. They are delivered by a task
//! of their own, so that a slow receiver delays nothing else.

mod deliver;
mod limit;

use std::{sync::Arc, time::Instant};

use serde::Serialize;
use tokio::sync::{
    broadcast::{self, error::RecvError},
    watch,
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Config, Notify},
    events::{Event, EventKind, EventLog, Note},
};
use limit::Limit;

/// A notification: the JSON on the command's standard input, and the body of the webhook's request.
#[derive(Clone, Debug, Serialize)]
pub struct Notification {
    /// `attack_started` or `attack_ended`.
    pub event: &'static str,
    /// The host name.
    pub host: String,
    /// When the event occurred, in RFC 3339 format.
    pub time: jiff::Timestamp,
    /// What happened, in one sentence.
    pub message: String,
    /// The kind of attack.
    pub attack: Option<String>,
    /// The measured values behind the event, one sentence each.
    pub evidence: Vec<String>,
    /// The event's id.
    pub id: u64,
    /// Number of notifications omitted since the last one because of the hourly limit.
    pub left_out: u64,
    /// Version of tcpguard.
    pub version: &'static str,
}

impl Notification {
    fn of(event: &Event, left_out: u64) -> Self {
        Self {
            event: event.kind.name(),
            host: nix::unistd::gethostname().map_or_else(|_| String::new(), |name| name.to_string_lossy().into_owned()),
            time: event.time,
            message: event.message.clone(),
            attack: event.attack.clone(),
            evidence: event.evidence.clone(),
            id: event.id,
            left_out,
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

/// Sends notifications until `shutdown`, without waiting for one in progress then.
pub async fn run(
    config: watch::Receiver<Arc<Config>>,
    events: EventLog,
    mut happening: broadcast::Receiver<Arc<Event>>,
    shutdown: CancellationToken,
) {
    let mut limit = Limit::new(config.borrow().notify.most_per_hour);
    let tell = async {
        loop {
            match happening.recv().await {
                Ok(event) => {
                    let is_start = match event.kind {
                        EventKind::AttackStarted => true,
                        EventKind::AttackEnded => false,
                        _ => continue,
                    };
                    let config = config.borrow().notify.clone();
                    if config.command.is_empty() && config.webhook.is_none() {
                        continue;
                    }
                    limit.set_most(config.most_per_hour);
                    if let Some(left_out) = limit.admit(is_start, Instant::now()) {
                        tell(&config, &events, &Notification::of(&event, left_out)).await;
                    }
                }
                // Delivery took so long that the channel overflowed.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    };
    // Being cancelled is not a failure.
    shutdown.run_until_cancelled(tell).await;
}

/// Delivers a notification to the command and the webhook concurrently. A failure becomes an event.
async fn tell(config: &Notify, events: &EventLog, notification: &Notification) {
    let failed = |what: &str, error: deliver::DeliveryError| {
        let message = format!("{what} was not notified of {}: {error}", notification.event);
        events.record(Note::new(EventKind::NotifyFailed, message).about(what));
    };
    let command = async {
        if !config.command.is_empty()
            && let Err(error) = deliver::run_command(config, notification).await
        {
            failed("the command of [notify]", error);
        }
    };
    let webhook = async {
        if let Some(url) = &config.webhook
            && let Err(error) = deliver::post(config, url, notification).await
        {
            failed("the webhook of [notify]", error);
        }
    };
    tokio::join!(command, webhook);
}
