//! Values kept for ports between ticks. A host may have tens of thousands of ports: they are visited in one pass, together
//! with the accounts of the tick.

use super::PortSnapshot;

/// A value for each port, ordered by port.
#[derive(Clone, Debug)]
pub struct ByPort<T>(Vec<(u16, T)>);

impl<T> Default for ByPort<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> ByPort<T> {
    /// Returns the value of one port.
    pub fn get(&self, port: u16) -> Option<&T> {
        let place = self.0.binary_search_by_key(&port, |(port, _)| *port).ok()?;
        Some(&self.0[place].1)
    }

    /// Calls `visit` for each of `ports`, which are in ascending order, with the value that is kept for it; `None` if there
    /// is none yet. What it returns for these is kept.
    pub fn visit(&mut self, ports: &[PortSnapshot], mut visit: impl FnMut(&PortSnapshot, Option<&mut T>) -> Option<T>) {
        let mut new = Vec::new();
        let mut known = self.0.iter_mut().peekable();
        for port in ports {
            while known.next_if(|(other, _)| *other < port.port).is_some() {}
            match known.peek_mut().filter(|(other, _)| *other == port.port) {
                Some((_, value)) => drop(visit(port, Some(value))),
                None => new.extend(visit(port, None).map(|value| (port.port, value))),
            }
        }
        if !new.is_empty() {
            self.0.append(&mut new);
            self.0.sort_unstable_by_key(|(port, _)| *port);
        }
    }

    /// Forgets the ports that are not `wanted`.
    pub fn retain(&mut self, wanted: impl Fn(u16) -> bool) {
        self.0.retain(|(port, _)| wanted(*port));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(numbers: &[u16]) -> Vec<PortSnapshot> {
        numbers.iter().map(|port| PortSnapshot { port: *port, ..PortSnapshot::default() }).collect()
    }

    /// Counts how often each port was visited.
    fn count(by_port: &mut ByPort<u32>, numbers: &[u16]) {
        by_port.visit(&ports(numbers), |_, value| match value {
            Some(value) => {
                *value += 1;
                None
            }
            None => Some(1),
        });
    }

    #[test]
    fn values_stay_with_their_ports() {
        let mut by_port = ByPort::default();
        for numbers in [&[22, 443][..], &[80, 443], &[1, 22, 65_535], &[]] {
            count(&mut by_port, numbers);
        }
        assert_eq!(by_port.0, [(1, 1), (22, 2), (80, 1), (443, 2), (65_535, 1)]);
        assert_eq!([22, 23].map(|port| by_port.get(port).copied()), [Some(2), None]);
        by_port.retain(|port| port != 22);
        assert_eq!(by_port.get(22), None);
    }
}
