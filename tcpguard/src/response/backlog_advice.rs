//! Advice on backlogs that are too small. A listener holds as many handshakes as the application requested in
//! `listen(2)`, but no more than `net.core.somaxconn` allowed at that time.

use crate::{
    kernel::Listeners,
    monitor::{PortSnapshot, Ports},
};

/// A backlog is too small if at least this share of it is in use.
const TIGHT: f64 = 0.8;
/// The lowest and highest backlog that is advised; 65,535 was the kernel's maximum before 5.4.
const MIN_BACKLOG: u64 = 1024;
const MAX_BACKLOG: u64 = 65_535;

/// Advice for one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BacklogAdvice {
    /// The port.
    pub port: u16,
    /// The backlog its listeners should have.
    pub backlog: u64,
    /// The advice as a sentence.
    pub text: String,
}

/// Returns advice for the ports whose backlog is too small, based on their half-open handshakes and the rate of SYNs.
pub fn advise(ports: &Ports, listeners: &Listeners, somaxconn: u64, syn_per_second: f64) -> Vec<BacklogAdvice> {
    ports.busy().filter_map(|port| advise_port(port, listeners, somaxconn, syn_per_second)).collect()
}

fn advise_port(
    port: &PortSnapshot,
    listeners: &Listeners,
    somaxconn: u64,
    syn_per_second: f64,
) -> Option<BacklogAdvice> {
    let smallest = listeners.of_port(port.port).iter().map(|listener| listener.backlog).min()?;
    let smallest = u64::from(smallest);
    if port.is_full || (port.half_open as f64) < TIGHT * smallest as f64 {
        return None;
    }
    // One second of SYNs: an answer takes less, and a lost one is requested again after that.
    let needed = (syn_per_second as u64).max(2 * port.half_open).next_power_of_two().clamp(MIN_BACKLOG, MAX_BACKLOG);
    if needed <= smallest {
        return None;
    }
    let number = port.port;
    let system = if somaxconn < needed {
        format!("run `sysctl net.core.somaxconn={needed}` (now {somaxconn}), then configure")
    } else {
        "configure".to_owned()
    };
    let text = format!(
        "port {number}: {} handshakes are half open and the listener's backlog is {smallest}: {system} a backlog of \
         {needed} in the application (nginx: `listen {number} backlog={needed}`) and restart it",
        port.half_open
    );
    Some(BacklogAdvice { port: number, backlog: needed, text })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Listener;

    fn listener(port: u16, backlog: u32) -> Listeners {
        Listeners::new(vec![Listener::new(([0, 0, 0, 0], port).into(), 0, backlog)])
    }

    #[test]
    fn a_small_backlog_is_told_of_with_the_reason() {
        let port = PortSnapshot { port: 443, half_open: 120, backlog: 128, ..PortSnapshot::default() };
        let advice = advise(&[port].into_iter().collect(), &listener(443, 128), 128, 3000.0);
        assert_eq!(advice[0].backlog, 4096);
        assert!(advice[0].text.contains("net.core.somaxconn=4096` (now 128)"), "{}", advice[0].text);
        assert!(advice[0].text.contains("listen 443 backlog=4096"));
    }

    #[test]
    fn a_backlog_that_is_large_enough_is_left_alone() {
        let port = PortSnapshot { port: 443, half_open: 50, ..PortSnapshot::default() };
        assert!(advise(&[port].into_iter().collect(), &listener(443, 128), 4096, 3000.0).is_empty());
        let port = PortSnapshot { port: 443, half_open: 4000, ..PortSnapshot::default() };
        assert!(advise(&[port].into_iter().collect(), &listener(443, 65_535), 65_535, 3000.0).is_empty());
    }

    #[test]
    fn an_application_that_accepts_too_slowly_needs_no_larger_backlog() {
        let port = PortSnapshot { port: 443, half_open: 128, is_full: true, ..PortSnapshot::default() };
        assert!(advise(&[port].into_iter().collect(), &listener(443, 128), 128, 10.0).is_empty());
    }
}
