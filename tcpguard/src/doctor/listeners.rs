//! Checks of the listeners' backlogs.

use std::{collections::BTreeMap, io};

use super::Finding;
use crate::kernel::{KernelView, Listener, LiveKernel};

const AREA: &str = "listener";
/// Minimum backlog: a smaller one fills up at rates that are not yet an attack.
const MIN_BACKLOG: u32 = 128;

/// Returns the listeners of this network namespace.
pub(super) fn list() -> io::Result<Vec<Listener>> {
    LiveKernel::open()?.listeners()
}

pub(super) fn examine(listeners: &io::Result<Vec<Listener>>) -> Vec<Finding> {
    match listeners {
        Ok(listeners) => examine_all(listeners),
        Err(error) => {
            let meaning = "listeners and their half-open handshakes";
            vec![
                Finding::new(AREA, "all", format!("not known: {error}"), meaning)
                    .fix("use a kernel with CONFIG_INET_DIAG"),
            ]
        }
    }
}

fn examine_all(listeners: &[Listener]) -> Vec<Finding> {
    let mut ports = BTreeMap::<u16, Vec<&Listener>>::new();
    for listener in listeners.iter().filter(|listener| listener.is_reachable()) {
        ports.entry(listener.local.port()).or_default().push(listener);
    }
    ports.into_iter().map(|(port, listeners)| examine_port(port, &listeners)).collect()
}

fn examine_port(port: u16, listeners: &[&Listener]) -> Finding {
    let smallest = listeners.iter().map(|listener| listener.backlog).min().unwrap_or(0);
    let meaning = "maximum number of half-open handshakes, and of completed connections waiting to be accepted";
    let value = match listeners.len() {
        1 => format!("room for {smallest}"),
        count => format!("{count} listeners, the smallest with room for {smallest}"),
    };
    let finding = Finding::new(AREA, format!("port {port} backlog"), value, meaning);
    if listeners.iter().any(|listener| listener.is_full()) {
        return Finding { value: "full: the application does not accept connections".to_owned(), ..finding }
            .fix("check the application: it is overloaded or stuck");
    }
    finding.fix_if(
        smallest < MIN_BACKLOG,
        format!("configure the application to listen with a backlog of 1024 or more (nginx: `listen {port} backlog=4096`) and restart it"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    #[test]
    fn small_backlogs_are_to_be_raised() {
        let listener = |address: &str, backlog| Listener::new(address.parse().expect("an address"), 0, backlog);
        let listeners = [
            listener("0.0.0.0:80", 511),
            listener("[::]:80", 511),
            listener("0.0.0.0:8000", 5),
            listener("127.0.0.1:9477", 5),
            Listener::new("0.0.0.0:25".parse().expect("an address"), 129, 128),
        ];
        let found = examine_all(&listeners);
        let status: Vec<_> = found.iter().map(|finding| (finding.name.as_str(), finding.status)).collect();
        assert_eq!(
            status,
            [("port 25 backlog", Status::Fix), ("port 80 backlog", Status::Good), ("port 8000 backlog", Status::Fix)]
        );
    }
}
