//! Whether the sources of half-open handshakes look random: the first question when `SYN_RECV` rows accumulate.

use std::{collections::HashMap, fmt, net::IpAddr};

use ipnet::IpNet;
use tcpguard_common::address::Address;

/// The minimum number of rows for a statement about their spread.
const MIN_SAMPLE: usize = 16;

/// The distribution of half-open handshakes over addresses and networks (/24, /64).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spread {
    /// There are no rows.
    Empty,
    /// There are too few rows to tell.
    TooFew {
        /// The number of rows.
        rows: usize,
    },
    /// Half of the rows or more are from addresses that no remote host has: they are forged.
    Forged {
        /// The number of such rows, and of all rows.
        counts: [usize; 2],
    },
    /// Nearly every row has a different address, in many networks: such addresses are usually forged.
    Random {
        /// The number of rows, of addresses and of networks.
        counts: [usize; 3],
    },
    /// Most rows are from one network.
    OneNetwork {
        /// The network with the most rows.
        network: IpNet,
        /// The number of rows from the network, and of all rows.
        counts: [usize; 2],
    },
    /// The rows are from few addresses.
    FewSources {
        /// The number of rows and of addresses.
        counts: [usize; 2],
        /// The address with the most rows, and their number.
        most: (IpAddr, usize),
    },
    /// None of the other cases.
    Mixed {
        /// The number of rows, of addresses and of networks.
        counts: [usize; 3],
    },
}

impl Spread {
    /// Classifies the distribution of these sources. Impossible ones tell more than their number does.
    pub fn of(sources: impl Iterator<Item = IpAddr>) -> Self {
        let mut addresses = HashMap::<IpAddr, usize>::new();
        let mut networks = HashMap::<IpNet, usize>::new();
        let (mut rows, mut impossible) = (0, 0);
        for source in sources {
            rows += 1;
            impossible += usize::from(!Address::from(source).may_be_answered());
            *addresses.entry(source).or_default() += 1;
            *networks.entry(network(source)).or_default() += 1;
        }
        let most_from_one = addresses.iter().max_by_key(|(address, count)| (**count, **address));
        let busiest = networks.iter().max_by_key(|(network, count)| (**count, **network));
        let (Some((address, from_address)), Some((network, from_network))) = (most_from_one, busiest) else {
            return Self::Empty;
        };
        let counts = [rows, addresses.len(), networks.len()];
        if impossible * 2 >= rows {
            Self::Forged { counts: [impossible, rows] }
        } else if rows < MIN_SAMPLE {
            Self::TooFew { rows }
        } else if addresses.len() * 10 <= rows {
            Self::FewSources { counts: [rows, addresses.len()], most: (*address, *from_address) }
        } else if from_network * 2 > rows {
            Self::OneNetwork { network: *network, counts: [*from_network, rows] }
        } else if addresses.len() * 10 >= rows * 9 && networks.len() * 2 >= rows.min(busy_networks(rows)) {
            Self::Random { counts }
        } else {
            Self::Mixed { counts }
        }
    }
}

/// Returns the number of networks to expect. Random addresses from a small range (as in a laboratory) fill all of its
/// networks, so that more than this number cannot be required.
const fn busy_networks(rows: usize) -> usize {
    if rows < 256 { rows } else { 256 }
}

fn network(source: IpAddr) -> IpNet {
    let length = if source.is_ipv4() { 24 } else { 64 };
    IpNet::new(source, length).map_or_else(|_| IpNet::from(source), |network| network.trunc())
}

impl fmt::Display for Spread {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(formatter, "there are no half-open handshakes"),
            Self::TooFew { rows } => write!(formatter, "too few to tell whether the sources are random ({rows})"),
            Self::Forged { counts: [impossible, rows] } => write!(
                formatter,
                "the sources are forged: {impossible} of {rows} are addresses that no remote host has (loopback, multicast, \
                 reserved)"
            ),
            Self::Random { counts: [rows, addresses, networks] } => write!(
                formatter,
                "the sources look random and are probably forged: {rows} from {addresses} addresses in {networks} networks"
            ),
            Self::OneNetwork { network, counts: [from_network, rows] } => {
                write!(formatter, "the sources do not look random: {from_network} of {rows} are from {network}")
            }
            Self::FewSources { counts: [rows, addresses], most: (address, count) } => write!(
                formatter,
                "the sources do not look random: {rows} from {addresses} addresses, {count} of them from {address}"
            ),
            Self::Mixed { counts: [rows, addresses, networks] } => write!(
                formatter,
                "the sources do not look random: {rows} from {addresses} addresses in {networks} networks"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn scattered(n: u32) -> IpAddr {
        Ipv4Addr::from(n.wrapping_mul(2_654_435_761)).into()
    }

    #[test]
    fn random_sources_are_recognised() {
        assert!(matches!(Spread::of((0..500).map(scattered)), Spread::Random { .. }));
        // Within 198.18.0.0/15, as in a laboratory: at most 512 networks.
        let laboratory = |n: u32| IpAddr::from(Ipv4Addr::from(0xc612_0000 | n.wrapping_mul(2_654_435_761) >> 15));
        assert!(matches!(Spread::of((0..4000).map(laboratory)), Spread::Random { .. }));
        let everywhere = |n: u32| IpAddr::from(Ipv6Addr::from(u128::from(n.wrapping_mul(2_654_435_761)) << 90));
        assert!(matches!(Spread::of((0..500).map(everywhere)), Spread::Random { .. }));
    }

    #[test]
    fn few_sources_and_one_network_are_told_apart() {
        let one = Spread::of((0..500).map(|_| scattered(1)));
        assert!(one.to_string().contains("500 from 1 addresses"), "{one}");
        let network = Spread::of((0..200).map(|n| Ipv4Addr::new(198, 18, 7, n).into()));
        assert_eq!(network.to_string(), "the sources do not look random: 200 of 200 are from 198.18.7.0/24");
        let prefix = Spread::of((0..400u128).map(|n| Ipv6Addr::from((0x2001_0db8_u128 << 96) | (n * 7919)).into()));
        assert!(matches!(prefix, Spread::OneNetwork { .. }), "{prefix}");
    }

    #[test]
    fn impossible_sources_are_forged_however_few_there_are() {
        // A listing as floods of the nineties left behind.
        let rows = [
            "0.8.15.77",
            "240.1.2.3",
            "127.9.1.1",
            "231.7.7.7",
            "250.0.12.4",
            "192.0.2.1",
            "198.51.100.7",
            "203.0.113.9",
        ];
        let spread = Spread::of(rows.iter().map(|row| row.parse().expect("an address")));
        assert_eq!(spread, Spread::Forged { counts: [5, 8] });
        assert!(spread.to_string().starts_with("the sources are forged: 5 of 8"), "{spread}");
    }

    #[test]
    fn few_rows_say_nothing() {
        assert_eq!(Spread::of(std::iter::empty()), Spread::Empty);
        assert_eq!(Spread::of((0..15).map(scattered)), Spread::TooFew { rows: 15 });
    }

    #[test]
    fn real_clients_are_not_random() {
        let clients = (0..300u32).map(|n| Ipv4Addr::from(0xc612_0000 + (n % 60) * 256).into());
        assert!(matches!(Spread::of(clients), Spread::Mixed { .. }));
    }
}
