//! What would make a backlog large enough: a listener can hold as many handshakes as the application asked
//! for (`listen`'s backlog), and no more than `net.core.somaxconn` allowed when it did.

use crate::{kernel::Listener, monitor::PortSnapshot};

/// A backlog of which this share is used is too small.
const TIGHT: f64 = 0.8;
/// What is advised at least, and at most: the kernel's own maximum before 5.4 was 65,535.
const LEAST: u64 = 1024;
const MOST: u64 = 65_535;

/// Advice for one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BacklogAdvice {
    /// The port.
    pub port: u16,
    /// What its listener should be able to hold.
    pub backlog: u64,
    /// In a sentence.
    pub text: String,
}

/// Advice for the ports whose backlog is too small, by what is half open there and by the SYNs of a second.
pub fn advise(
    ports: &[PortSnapshot],
    listeners: &[Listener],
    somaxconn: u64,
    syn_per_second: f64,
) -> Vec<BacklogAdvice> {
    ports.iter().filter_map(|port| advise_port(port, listeners, somaxconn, syn_per_second)).collect()
}

fn advise_port(
    port: &PortSnapshot,
    listeners: &[Listener],
    somaxconn: u64,
    syn_per_second: f64,
) -> Option<BacklogAdvice> {
    let smallest = listeners.iter().filter(|listener| listener.local.port() == port.port).map(|l| l.backlog).min()?;
    let smallest = u64::from(smallest);
    if port.is_full || (port.half_open as f64) < TIGHT * smallest as f64 {
        return None;
    }
    // A second's SYNs: an answer takes less, and a lost one is asked for again after that.
    let needed = (syn_per_second as u64).max(2 * port.half_open).next_power_of_two().clamp(LEAST, MOST);
    if needed <= smallest {
        return None;
    }
    let number = port.port;
    let system = if somaxconn < needed {
        format!("`sysctl net.core.somaxconn={needed}` (it is {somaxconn}), then have")
    } else {
        "have".to_owned()
    };
    let text = format!(
        "port {number}: {} handshakes are half open, and its listener has room for {smallest}: {system} the application \
         listen with a backlog of {needed} (nginx: `listen {number} backlog={needed}`) and restart it",
        port.half_open
    );
    Some(BacklogAdvice { port: number, backlog: needed, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(port: u16, backlog: u32) -> Listener {
        Listener::new(([0, 0, 0, 0], port).into(), 0, backlog)
    }

    #[test]
    fn a_small_backlog_is_told_of_with_the_reason() {
        let port = PortSnapshot { port: 443, half_open: 120, backlog: 128, ..PortSnapshot::default() };
        let advice = advise(&[port], &[listener(443, 128)], 128, 3000.0);
        assert_eq!(advice[0].backlog, 4096);
        assert!(advice[0].text.contains("net.core.somaxconn=4096` (it is 128)"), "{}", advice[0].text);
        assert!(advice[0].text.contains("listen 443 backlog=4096"));
    }

    #[test]
    fn a_backlog_that_is_large_enough_is_left_alone() {
        let port = PortSnapshot { port: 443, half_open: 50, ..PortSnapshot::default() };
        assert!(advise(&[port], &[listener(443, 128)], 4096, 3000.0).is_empty());
        let port = PortSnapshot { port: 443, half_open: 4000, ..PortSnapshot::default() };
        assert!(advise(&[port], &[listener(443, 65_535)], 65_535, 3000.0).is_empty());
    }

    #[test]
    fn an_application_that_accepts_too_slowly_needs_no_larger_backlog() {
        let port = PortSnapshot { port: 443, half_open: 128, is_full: true, ..PortSnapshot::default() };
        assert!(advise(&[port], &[listener(443, 128)], 128, 10.0).is_empty());
    }
}
