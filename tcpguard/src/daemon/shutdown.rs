//! The end of the daemon: everything is undone, or left for the next daemon.

use tokio::time::sleep;
use tracing::{info, warn};

use super::Daemon;
use crate::{config::OnExit, response::challenge::COOKIES_UNDER_WAY};

impl Daemon {
    pub(super) async fn shut_down(mut self, hands_over: bool) {
        self.health.service_manager.stopping();
        self.save_situation();
        let on_exit = if hands_over { OnExit::Keep } else { self.on_exit() };
        // Decided first: it holds even if something below fails.
        match on_exit {
            OnExit::Detach => self.datapath.detach_when_dropped(),
            OnExit::Keep => self.datapath.keep_when_dropped(),
        }
        if hands_over {
            // The datapath keeps its lease for `heartbeat_timeout`, and the kernel settings it needs stay as well.
            info!("everything stays as it is for the next daemon");
        } else {
            self.stop_challenging().await;
            tokio::task::block_in_place(|| self.enforcer.restore());
        }
        tokio::task::block_in_place(|| self.store.flush());
        match on_exit {
            OnExit::Detach => {
                self.network.interfaces.detach(&mut self.datapath);
                info!("detached from all interfaces");
            }
            OnExit::Keep => info!("still attached to all interfaces; `tcpguard detach` detaches them"),
        }
    }

    /// Stops sending cookies, and waits for those that clients are about to return: the kernel accepts them only before
    /// its settings are restored.
    async fn stop_challenging(&mut self) {
        if !self.enforcer.has_cookies_under_way() {
            return;
        }
        if let Err(error) = self.lease.map.revoke() {
            warn!("{error}");
        }
        tokio::task::block_in_place(|| self.enforcer.stop_cookies());
        sleep(COOKIES_UNDER_WAY).await;
    }
}
