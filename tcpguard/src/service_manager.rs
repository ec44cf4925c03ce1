//! The service manager, if there is one: it is notified of the daemon's state (sd_notify(3)), and may close the network to it.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    time::{Duration, Instant},
};

use sd_notify::NotifyState;
use tracing::warn;

use crate::{daemon::TickReport, detect::Phase};

/// The interval between two status lines.
const STATUS_EVERY: Duration = Duration::from_secs(2);

/// What to do about a network that is closed to the service.
pub(crate) const HOW_TO_OPEN: &str = "systemd lets tcpguard.service reach this host only (IPAddressDeny=); see \"Network\" \
     in docs/service.md";

/// Returns whether the service manager lets this process exchange packets with this host only, as `IPAddressDeny=any` with
/// `IPAddressAllow=localhost` does. No packet leaves the host; if it has no address, the answer is no.
pub(crate) fn is_network_closed() -> bool {
    // The addresses are for documentation (RFC 5737, RFC 3849); connecting a UDP socket only selects the own address.
    const ELSEWHERE: [(IpAddr, IpAddr); 2] = [
        (IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))),
        (IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))),
    ];
    let send_to_itself = |own: IpAddr| -> io::Result<()> {
        let socket = UdpSocket::bind((own, 0))?;
        socket.send_to(&[], socket.local_addr()?).map(drop)
    };
    let own_addresses = ELSEWHERE.into_iter().filter_map(|(any, there)| {
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect((there, 9)).ok()?;
        socket.local_addr().ok().map(|address| address.ip()).filter(|own| !own.is_loopback())
    });
    own_addresses
        .map(send_to_itself)
        .any(|sent| sent.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied))
}

/// Sends notifications to the service manager.
pub(crate) struct ServiceManager {
    /// The interval of watchdog notifications; `None` if the service manager does not expect any.
    watchdog: Option<Duration>,
    fed: Option<Instant>,
    status: Option<(Instant, String)>,
    has_failed: bool,
}

impl ServiceManager {
    /// Creates a notifier for the service manager that started this process.
    pub fn of_this_process() -> Self {
        // Twice the required frequency, and once more because a tick may be late.
        let watchdog = sd_notify::watchdog_enabled().map(|timeout| timeout / 3);
        Self { watchdog, fed: None, status: None, has_failed: false }
    }

    /// Returns the interval of watchdog notifications, if the service manager expects any.
    pub const fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Reports that the host is guarded.
    pub fn ready(&mut self) {
        self.tell(&[NotifyState::Ready]);
    }

    /// Reports that the configuration is being reloaded.
    pub fn reloading(&mut self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[NotifyState::Reloading, now]),
            Err(error) => warn!("the service manager cannot be notified of a reload: {error}"),
        }
    }

    /// Reports that the daemon is about to end.
    pub fn stopping(&mut self) {
        self.tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
    }

    /// Reports the end of a tick, with its results.
    pub fn note_tick(&mut self, report: &TickReport) {
        let now = Instant::now();
        if let Some(every) = self.watchdog
            && self.fed.is_none_or(|fed| now.duration_since(fed) >= every)
        {
            self.fed = Some(now);
            self.tell(&[NotifyState::Watchdog]);
        }
        if self.status.as_ref().is_none_or(|(told, _)| now.duration_since(*told) >= STATUS_EVERY) {
            let line = status(report);
            if self.status.as_ref().is_none_or(|(_, told)| *told != line) {
                self.tell(&[NotifyState::Status(&line)]);
            }
            self.status = Some((now, line));
        }
    }

    fn tell(&mut self, states: &[NotifyState<'_>]) {
        if let Err(error) = sd_notify::notify(states)
            && !std::mem::replace(&mut self.has_failed, true)
        {
            warn!("the service manager cannot be notified: {error}");
        }
    }
}

fn status(report: &TickReport) -> String {
    let guarded: Vec<String> = report
        .snapshot
        .interfaces
        .iter()
        .map(|interface| format!("{} ({})", interface.name, interface.mode.unwrap_or("detached")))
        .collect();
    let kind = report.state.kind.map_or_else(String::new, |kind| format!(" ({})", kind.name()));
    let state = match report.state.phase() {
        Phase::Calm => "calm".to_owned(),
        phase => format!("{}{kind}, {} blocked", phase.name(), report.measures.blocks.len()),
    };
    format!("{state}; guarding {}; {:.0} SYN/s", guarded.join(", "), report.snapshot.rates.syn)
}
