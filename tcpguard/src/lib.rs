//! tcpguard watches TCP handshakes on a Linux host. This library is the daemon; the life of it is
//! [`run`].
//!
//! | module | subject |
//! | --- | --- |
//! | [`config`] | what the operator wants |
//! | [`datapath`] | the BPF programs and their maps |
//! | [`interfaces`] | where they are attached |
//! | [`kernel`] | what the kernel itself holds |
//! | [`monitor`] | both sides, ten times a second |
//! | [`api`] | telling others |
//! | [`cli`] | the commands |

pub mod api;
pub mod cli;
pub mod config;
pub mod datapath;
pub mod interfaces;
pub mod kernel;
pub mod monitor;

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use thiserror::Error;
use tokio::{
    sync::{Semaphore, watch},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::{
    api::{About, ApiState, ListenError, Listeners},
    config::Config,
    datapath::{Datapath, DatapathError, DatapathOptions, Feature, maps::EventRing, maps::GuardedInterfaces},
    interfaces::{Guards, LinkChange, LinkWatch, Links},
    kernel::LiveKernel,
    monitor::{Monitor, Snapshot, TICK},
};

/// Why the daemon could not start, or stopped.
#[derive(Debug, Error)]
pub enum RunError {
    /// It cannot listen.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The datapath cannot be loaded, attached or read.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// The kernel does not tell what it holds.
    #[error("the kernel does not tell what it holds: {0}; its configuration needs CONFIG_INET_DIAG and /proc")]
    Kernel(io::Error),
}

/// Runs the daemon until `shutdown` is cancelled, and leaves nothing behind. It wants tokio's
/// multi-threaded runtime, since taking a snapshot blocks for some milliseconds.
///
/// # Errors
/// Where something that it cannot do without is missing; nothing is attached then.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), RunError> {
    warn_of_what_may_surprise(&config);
    let listeners = Listeners::bind(&config.listen).await?;
    let (mut datapath, maps) = Datapath::load(&datapath_options(&config))?;
    report_missing_features(&datapath);
    let links = Links::open()?;
    let watch = LinkWatch::start()?;
    let guards = Guards::attach(&config, &links, &mut datapath).await?;
    let kernel = LiveKernel::open().map_err(RunError::Kernel)?;
    let (monitor, others) = Monitor::new(maps, Box::new(kernel)).map_err(RunError::Kernel)?;

    let (publish, snapshot) = watch::channel(None);
    let about = About { started: Instant::now(), features: datapath.features.clone(), config };
    let router = api::router(ApiState {
        snapshot,
        sources: others.sources,
        about: Arc::new(about),
        scans: Arc::new(Semaphore::new(1)),
    });
    let server = tokio::spawn(listeners.serve(router, shutdown.clone()));

    let daemon = Daemon { datapath, guards, links, monitor, guarded: others.guarded, publish, is_blind: false };
    daemon.watch(watch, others.events, shutdown).await;
    if let Err(error) = server.await {
        error!("the HTTP server ended badly: {error}");
    }
    info!("detached from all interfaces");
    Ok(())
}

fn datapath_options(config: &Config) -> DatapathOptions {
    DatapathOptions {
        max_sources: config.limits.max_sources,
        prefix_v4: config.source.prefix_v4,
        prefix_v6: config.source.prefix_v6,
        log_level: cli::datapath_log_level(),
    }
}

fn warn_of_what_may_surprise(config: &Config) {
    info!("this version watches and reports; it does not limit, challenge or drop anything yet");
    if !config.listen.http.ip().is_loopback() {
        warn!("statistics are served on {} to whoever reaches that address, without a password", config.listen.http);
    }
}

fn report_missing_features(datapath: &Datapath) {
    if let Feature::Unavailable(reason) = &datapath.features.completions {
        warn!("completed handshakes are not seen on this kernel, so they stay 0: {reason}");
    }
    if let Feature::Unavailable(reason) = &datapath.features.retries {
        warn!("repeated SYN-ACKs are not seen per source on this kernel: {reason}");
    }
}

/// What runs between start and shutdown.
struct Daemon {
    datapath: Datapath,
    guards: Guards,
    links: Links,
    monitor: Monitor,
    guarded: GuardedInterfaces,
    publish: watch::Sender<Option<Arc<Snapshot>>>,
    /// The last snapshot could not be taken.
    is_blind: bool,
}

/// Events taken from the ring at once, so that a flood of them does not hold up the rest.
const EVENTS_AT_ONCE: usize = 256;
/// Time between two reviews of all interfaces; changes are heard of at once.
const REVIEW: Duration = Duration::from_secs(10);

impl Daemon {
    /// Takes snapshots and follows interfaces until `shutdown`.
    async fn watch(mut self, watch: LinkWatch, mut events: EventRing, shutdown: CancellationToken) {
        let mut watch = Some(watch);
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut reviews = interval(REVIEW);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                _ = ticks.tick() => self.tick(),
                change = next_change(&mut watch) => self.follow(&change).await,
                _ = reviews.tick() => self.review(&mut watch).await,
                received = events.receive(EVENTS_AT_ONCE) => match received {
                    Ok(received) => received.iter().for_each(|event| self.monitor.note_busy(event)),
                    Err(error) => warn!("the datapath's events cannot be received: {error}"),
                },
            }
        }
    }

    async fn follow(&mut self, change: &LinkChange) {
        if self.guards.follow(change, &mut self.datapath) {
            self.update_guarded().await;
        }
    }

    /// Brings everything in line with the interfaces there are: the kernel drops messages about
    /// changes when too many come at once, and may close the channel.
    async fn review(&mut self, watch: &mut Option<LinkWatch>) {
        if watch.is_none() {
            *watch =
                LinkWatch::start().inspect_err(|error| warn!("changes of interfaces are not heard of: {error}")).ok();
        }
        if let Err(error) = self.guards.review(&self.links, &mut self.datapath).await {
            warn!("changes of interfaces may have been missed: {error}");
        }
        self.update_guarded().await;
    }

    fn tick(&mut self) {
        let interfaces = self.guards.status();
        // Some milliseconds of system calls, which other tasks need not wait for.
        match tokio::task::block_in_place(|| self.monitor.tick(&self.datapath, interfaces)) {
            Ok(snapshot) => {
                self.is_blind = false;
                drop(self.publish.send_replace(Some(Arc::new(snapshot))));
            }
            Err(error) if self.is_blind => debug!("still no snapshot could be taken: {error}"),
            Err(error) => {
                self.is_blind = true;
                error!("no snapshot could be taken: {error}");
            }
        }
    }

    /// Tells the datapath whose handshakes count.
    async fn update_guarded(&mut self) {
        let result = match self.links.all().await {
            Ok(links) => self.guarded.set(&self.guards.receiving_indices(&links)),
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            warn!("the set of guarded interfaces could not be updated: {error}");
        }
    }
}

/// The next change of an interface; never, while none are heard of.
async fn next_change(watch: &mut Option<LinkWatch>) -> LinkChange {
    if let Some(listening) = watch {
        if let Some(change) = listening.next().await {
            return change;
        }
        *watch = None;
    }
    std::future::pending().await
}
