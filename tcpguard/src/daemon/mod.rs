//! The daemon, from its start to its end.
//!
//! | module | subject |
//! | --- | --- |
//! | `start` | [`run`]: loading and connecting all parts, and attaching |
//! | `main_loop` | waiting for the next tick, command, event or change |
//! | `schedule` | when the next tick is due |
//! | `tick` | one tick: observe, judge, act, renew the lease |
//! | `command` | what the API and signals ask for |
//! | `reload` | applying a changed configuration |
//! | `network` | following interfaces and addresses |
//! | `publish` | passing the result of each tick on |
//! | `shutdown` | undoing everything, or handing over |

mod behind;
pub(crate) mod command;
mod main_loop;
mod network;
mod publish;
mod reload;
mod schedule;
mod shutdown;
mod start;
mod tick;
mod tick_report;

use std::{io, sync::Arc, time::Duration};

use thiserror::Error;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    api::ListenError,
    config::{Config, OnExit},
    cost::{CalmPace, CostMeter},
    datapath::{Datapath, DatapathError, maps::LeaseMap},
    detect::Detector,
    events::EventLog,
    lists::{ListError, Lists},
    monitor::Monitor,
    response::Enforcer,
    service_manager::ServiceManager,
    store::{Record, Store},
    time::{ClockWatch, DatapathTime, Every},
};
use behind::Behind;
pub use command::ConfigSource;
use network::Network;
use publish::Publisher;
use schedule::Schedule;
pub use start::run;
pub use tick_report::TickReport;

/// How the daemon is run, in addition to its configuration.
#[derive(Debug, Default)]
pub struct RunOptions {
    /// Where to read the configuration again for a reload; `None` if it cannot be reloaded.
    pub source: Option<ConfigSource>,
    /// Each message requests a reload.
    pub reload: Option<mpsc::Receiver<()>>,
    /// Ends the daemon.
    pub shutdown: CancellationToken,
    /// Whether the daemon ends for another one to take over at once: everything then stays as it is, whatever `on_exit`
    /// says, and `tcpguard detach` ends it for good.
    pub hands_over: bool,
}

/// The reason why the daemon could not start or had to stop.
#[derive(Debug, Error)]
pub enum RunError {
    /// It cannot listen.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The datapath cannot be loaded, attached or read.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// The lists cannot be applied.
    #[error("the lists of the configuration cannot be applied: {0}")]
    Lists(#[from] ListError),
    /// The kernel does not report its sockets.
    #[error("the kernel does not report its sockets: {0}; its configuration needs CONFIG_INET_DIAG and /proc")]
    Kernel(io::Error),
}

/// The running daemon.
struct Daemon {
    config: Arc<Config>,
    datapath: Datapath,
    network: Network,
    behind: Behind,
    monitor: Monitor,
    detector: Detector,
    enforcer: Enforcer,
    lists: Lists,
    events: EventLog,
    store: Store,
    lease: Lease,
    publisher: Publisher,
    schedule: Schedule,
    health: Health,
}

/// What the datapath is permitted to do, renewed with each tick.
struct Lease {
    map: LeaseMap,
    /// How long a lease is valid.
    lasts: Duration,
    /// The datapath time of the last tick, for the parts that do not tick.
    time: Arc<DatapathTime>,
    /// The number of CPUs that share the handshakes which may begin until the daemon is woken.
    cpus: u64,
    /// How often it was granted by a tick.
    tick: u32,
}

/// How the daemon itself is doing.
struct Health {
    cost: CostMeter,
    calm_pace: CalmPace,
    /// When it may be said again that the daemon looks less often.
    less_often_said: Every,
    /// Whether the last tick failed.
    is_blind: bool,
    service_manager: ServiceManager,
    clock_watch: ClockWatch,
}

impl Daemon {
    /// Saves the situation for the next daemon.
    fn save_situation(&mut self) {
        let situation = self.detector.situation(self.enforcer.attack_so_far());
        self.store.write(Record::Situation(Box::new(situation)));
    }

    fn on_exit(&self) -> OnExit {
        self.config.on_exit
    }
}
