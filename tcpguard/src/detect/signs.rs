//! Signs that accompany an attack: forged source addresses, and queues that fill. They are shown with the evidence and
//! decide nothing, because whoever forges addresses can avoid each of them.

use super::Observation;
use crate::monitor::{HeaderReading, PortSnapshot, Rates};

/// The number of SYNs per second from which their headers tell something.
const MIN_SYNS: u64 = 100;
/// The number of sources per second whose TTLs cannot all be the same.
const MANY_SOURCES: f64 = 1000.0;
/// The share of SYNs with one of two TTLs from which they come from one place or two.
const SAME_PATH: f64 = 0.95;
/// The share of SYNs without TCP options from which they are not made by usual systems.
const WITHOUT_OPTIONS: f64 = 0.5;
/// The rate of resets from which they tell something, and their share of the SYNs.
const MIN_RESETS: f64 = 10.0;
const RESETS_OF_SYNS: f64 = 0.1;

/// Returns the signs in words.
pub(super) fn signs(observation: &Observation) -> Vec<String> {
    let (rates, headers) = (observation.rates, observation.headers);
    let of_forgery = [impossible_sources(rates), same_path(rates, headers), no_options(headers), resets(rates)];
    of_forgery.into_iter().flatten().chain(observation.ports.busy().filter_map(queue)).collect()
}

fn impossible_sources(rates: &Rates) -> Option<String> {
    (rates.impossible >= 1.0).then(|| {
        format!(
            "{:.0} SYNs per second from addresses that no remote host has (loopback, multicast, reserved, this host's)",
            rates.impossible
        )
    })
}

fn same_path(rates: &Rates, headers: &HeaderReading) -> Option<String> {
    let with_these: u64 = headers.times_to_live.iter().map(|(_, count)| count).sum();
    let share = share(with_these, headers.syn)?;
    if share < SAME_PATH || rates.distinct_sources < MANY_SOURCES {
        return None;
    }
    // A second value that is rare is not worth telling.
    let telling = headers.times_to_live.iter().filter(|(_, count)| *count * 100 >= headers.syn);
    let values: Vec<String> = telling.map(|(value, _)| value.to_string()).collect();
    Some(format!(
        "{:.0} % of the SYNs arrive with TTL {}, whichever of about {:.0} sources per second they name: most are forged",
        share * 100.0,
        values.join(" or "),
        rates.distinct_sources
    ))
}

fn no_options(headers: &HeaderReading) -> Option<String> {
    let share = share(headers.without_options, headers.syn)?;
    (share >= WITHOUT_OPTIONS)
        .then(|| format!("{:.0} % of the SYNs have no TCP options, which every usual system sends", share * 100.0))
}

/// Hosts that receive the SYN-ACK of a SYN that they have not sent answer with a reset.
fn resets(rates: &Rates) -> Option<String> {
    let is_telling =
        rates.rst >= MIN_RESETS && rates.rst >= RESETS_OF_SYNS * rates.syn && rates.rst > 2.0 * rates.completed;
    is_telling.then(|| {
        format!(
            "{:.0} resets per second, and {:.0} handshakes completed: hosts receive SYN-ACKs for SYNs they have not sent",
            rates.rst, rates.completed
        )
    })
}

fn queue(port: &PortSnapshot) -> Option<String> {
    port.is_queue_filling().then(|| {
        let percent = port.half_open * 100 / port.backlog;
        format!("port {}: {} half-open handshakes fill {percent} % of its backlog", port.port, port.half_open)
    })
}

fn share(part: u64, of: u64) -> Option<f64> {
    (of >= MIN_SYNS).then(|| part as f64 / of as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forged_sources_share_a_path() {
        let headers = HeaderReading {
            syn: 100_000,
            times_to_live: vec![(57, 97_000), (58, 2500)],
            without_options: 99_000,
            ..HeaderReading::default()
        };
        let rates = Rates { distinct_sources: 12_000.0, ..Rates::default() };
        let text = same_path(&rates, &headers).expect("a sign");
        assert!(text.starts_with("100 % of the SYNs arrive with TTL 57 or 58, whichever of about 12000"), "{text}");
        assert!(no_options(&headers).is_some_and(|text| text.starts_with("99 % of the SYNs have no TCP options")));
        let few = Rates { distinct_sources: 16.0, ..rates };
        assert_eq!(same_path(&few, &headers), None, "clients of one network share a path");
        let varied = HeaderReading { times_to_live: vec![(57, 30_000), (113, 9000)], ..headers };
        assert_eq!(same_path(&rates, &varied), None);
        let hardly_any =
            HeaderReading { syn: 99, times_to_live: vec![(57, 99)], without_options: 99, ..HeaderReading::default() };
        assert_eq!((same_path(&rates, &hardly_any), no_options(&hardly_any)), (None, None));
    }

    #[test]
    fn a_sign_begins_at_its_bound() {
        let rates = |impossible| Rates { impossible, ..Rates::default() };
        assert_eq!(impossible_sources(&rates(0.9)), None);
        assert!(impossible_sources(&rates(1.0)).is_some_and(|text| text.starts_with("1 SYNs per second from")));

        let headers = |syn, first, second, without_options| HeaderReading {
            syn,
            times_to_live: vec![(57, first), (58, second)],
            without_options,
            ..HeaderReading::default()
        };
        let sources = |distinct_sources| Rates { distinct_sources, ..Rates::default() };
        let many = sources(1000.0);
        assert_eq!(same_path(&many, &headers(1000, 940, 9, 0)), None);
        assert_eq!(same_path(&sources(999.0), &headers(1000, 941, 9, 0)), None);
        let text = same_path(&many, &headers(1000, 941, 9, 0)).expect("a sign");
        assert!(text.starts_with("95 % of the SYNs arrive with TTL 57, whichever"), "{text}");
        let text = same_path(&many, &headers(1000, 941, 10, 0)).expect("a sign");
        assert!(text.starts_with("95 % of the SYNs arrive with TTL 57 or 58, whichever"), "{text}");

        assert_eq!(no_options(&headers(100, 0, 0, 49)), None);
        assert!(no_options(&headers(100, 0, 0, 50)).is_some_and(|text| text.starts_with("50 % of the SYNs")));
        assert_eq!(no_options(&headers(99, 0, 0, 99)), None);

        let resets = |rst, syn, completed| resets(&Rates { rst, syn, completed, ..Rates::default() });
        assert!(resets(10.0, 100.0, 4.9).is_some());
        assert_eq!((resets(9.9, 99.0, 0.0), resets(10.0, 101.0, 0.0), resets(10.0, 100.0, 5.0)), (None, None, None));
    }

    #[test]
    fn signs_are_listed_with_queues_last() {
        let pressure = crate::monitor::Pressure::default();
        let rates = Rates { impossible: 3.0, ..Rates::default() };
        let port = PortSnapshot { port: 22, half_open: 128, backlog: 128, ..PortSnapshot::default() };
        let observation = Observation {
            at: std::time::Duration::ZERO,
            pressure: &pressure,
            sources: &[],
            prefixes: &[],
            rates: &rates,
            headers: &HeaderReading::default(),
            ports: &[port].into_iter().collect(),
            kernel_rows: &[],
        };
        let signs = signs(&observation);
        assert_eq!(signs.len(), 2, "{signs:?}");
        assert!(signs[0].starts_with("3 SYNs per second") && signs[1].starts_with("port 22: 128"), "{signs:?}");
    }

    #[test]
    fn clients_that_reset_their_connections_are_no_sign() {
        let rates = |rst, syn, completed| Rates { rst, syn, completed, ..Rates::default() };
        assert!(resets(&rates(900.0, 1000.0, 10.0)).is_some());
        assert_eq!(resets(&rates(900.0, 1000.0, 950.0)), None);
        assert_eq!(resets(&rates(5.0, 10.0, 0.0)), None);
        assert_eq!(resets(&rates(50.0, 100_000.0, 0.0)), None);
    }

    #[test]
    fn a_queue_that_fills_is_named_with_its_backlog() {
        let port = PortSnapshot { port: 22, half_open: 96, backlog: 128, ..PortSnapshot::default() };
        assert_eq!(queue(&port).as_deref(), Some("port 22: 96 half-open handshakes fill 75 % of its backlog"));
        assert_eq!(queue(&PortSnapshot { half_open: 63, ..port }), None);
        assert_eq!(queue(&PortSnapshot { backlog: 0, ..port }), None);
    }
}
