//! The main loop: waits for the next tick, command, event of the datapath, or change of an interface, and for readers who
//! want to know more than the last tick tells.

use std::{sync::Arc, time::Duration};

use tcpguard_common::abi::{
    counters::DropReason,
    event::{Event, kind},
};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, interval, sleep_until},
};
use tracing::{error, warn};

use super::{
    Daemon, RunOptions,
    command::{Command, ConfigSource},
};
use crate::{
    datapath::{DatapathError, maps::EventRing},
    events::{EventKind, Note},
    interfaces::{LinkChange, LinkWatch},
};

/// The maximum number of events received at once, so that a flood of them does not delay the rest.
const EVENTS_AT_ONCE: usize = 256;
/// The time between two reviews of all interfaces. Changes are received at once; a review finds those that were missed.
const REVIEW: Duration = Duration::from_secs(10);

impl Daemon {
    /// Runs until `options.shutdown`, then shuts down.
    pub(super) async fn main_loop(
        mut self,
        watch: LinkWatch,
        mut events: EventRing,
        mut commands: mpsc::Receiver<Command>,
        wanted: Arc<Notify>,
        mut options: RunOptions,
    ) {
        self.health.service_manager.ready();
        let mut watch = Some(watch);
        let mut reviews = interval(REVIEW);
        loop {
            tokio::select! {
                biased;
                () = options.shutdown.cancelled() => break,
                () = sleep_until(self.schedule.due()) => {
                    if self.network.has_new_addresses {
                        self.network.update_local().await;
                    }
                    self.tick();
                }
                () = wanted.notified() => self.schedule.hurry(Instant::now()),
                Some(command) = commands.recv() => self.execute(command, options.source.as_ref()).await,
                () = next_hangup(&mut options.reload) => self.reload_at_signal(options.source.as_ref()).await,
                change = next_change(&mut watch) => self.follow(&change).await,
                _ = reviews.tick() => self.review(&mut watch).await,
                received = events.receive(EVENTS_AT_ONCE) => match received {
                    Ok(received) => received.iter().for_each(|event| self.note(event)),
                    Err(error) => warn!("the datapath's events cannot be received: {error}"),
                },
            }
        }
        self.shut_down(options.hands_over).await;
    }

    /// Handles an event of the datapath.
    fn note(&mut self, event: &Event) {
        match event.kind {
            kind::HANDSHAKES_BEGUN | kind::SIGNATURE_REFUTED => self.schedule.wake(Instant::now()),
            kind::SOURCE_BUSY => {
                self.monitor.note_busy(event.source);
                self.schedule.wake(Instant::now());
            }
            kind::FIRST_DROP => {
                let reason = DropReason::ALL.get(event.reason as usize).map_or("unknown", |reason| reason.name());
                let message = format!("a SYN of {} was dropped for the first time ({reason})", event.source);
                self.events.record(Note::new(EventKind::FirstDrop, message).about(event.source));
            }
            kind::LISTENERS_CHANGED => {
                self.monitor.note_listeners(event.reason as u16);
                self.schedule.hurry(Instant::now());
            }
            kind::CHALLENGE_TRIGGERED => {
                self.enforcer.note_triggered(event.reason);
                self.schedule.wake(Instant::now());
            }
            _ => {}
        }
    }

    /// Executes a command. The reply is lost if the client that asked has disconnected.
    async fn execute(&mut self, command: Command, source: Option<&ConfigSource>) {
        match command {
            Command::Lift { network, lifted } => {
                lifted.send(self.enforcer.lift(network, &self.datapath, self.detector.now())).ok();
            }
            Command::ApplyLists { applied } => {
                if let Err(error) = self.apply_lists() {
                    warn!("the lists take effect only at the next tick: {error}");
                }
                applied.send(()).ok();
            }
            Command::Reload { done } => drop(done.send(self.reload(source).await)),
        }
        self.schedule.hurry(Instant::now());
    }

    /// Grants the last lease again, with the present lists. It expires no later than before.
    fn apply_lists(&mut self) -> Result<(), DatapathError> {
        let lease = self.lease.map.read()?;
        self.lease.map.grant(&self.lists.added_to(lease))
    }

    async fn reload_at_signal(&mut self, source: Option<&ConfigSource>) {
        if let Err(problem) = self.reload(source).await {
            error!("{problem}");
        }
    }
}

/// Waits for the next request to reload; forever if there is no channel for it.
async fn next_hangup(reload: &mut Option<mpsc::Receiver<()>>) {
    if let Some(requests) = reload {
        if requests.recv().await.is_some() {
            return;
        }
        *reload = None;
    }
    std::future::pending().await
}

/// Waits for the next change of an interface; forever while changes are not received.
async fn next_change(watch: &mut Option<LinkWatch>) -> LinkChange {
    if let Some(listening) = watch {
        if let Some(change) = listening.next().await {
            return change;
        }
        *watch = None;
    }
    std::future::pending().await
}
