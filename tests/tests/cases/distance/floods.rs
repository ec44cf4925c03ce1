//! Floods that use a client's address, or those of its network, do not shut it out.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use lab::{
    Client, Connections, FloodSpec, Path, Scene, Sources,
    network::{SERVER_IPV4, SERVER_IPV6},
    scene::{Crowd, WEB},
};

/// The clients whose addresses are forged.
const VICTIM: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 60, 7));
const VICTIM_IPV6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x3c, 1, 0, 0, 0, 7));
/// The TTL with which their packets arrive: Linux' 64, less the hops of the path.
pub const CLIENTS_TIME_TO_LIVE: u8 = 53;
/// The TTL of a flood over another path.
const OTHER_TIME_TO_LIVE: u8 = 244;
const CLOSED_PORT: u16 = 7777;
const ROUND_TRIP: Duration = Duration::from_millis(80);
/// How long a client that has to retransmit twice may take.
const TWO_RETRANSMITS: Duration = Duration::from_millis(3500);

/// Whether the client has completed a handshake before the flood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acquaintance {
    Proven,
    New,
}

/// Which source addresses a flood uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forged {
    /// The client's.
    Address,
    /// All of the client's /24.
    Network,
    /// All of the client's /64; the client connects over IPv6.
    NetworkIpv6,
}

/// A flood that uses a client's address.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub forged: Forged,
    pub time_to_live: u8,
    pub port: u16,
    pub per_second: u32,
    pub client: Acquaintance,
    /// The client's host resets connections that it has not opened.
    pub sends_resets: bool,
}

impl Row {
    /// A flood from the client's address over its own path, to the port that it uses.
    pub const fn new(per_second: u32, client: Acquaintance) -> Self {
        Self {
            forged: Forged::Address,
            time_to_live: CLIENTS_TIME_TO_LIVE,
            port: WEB.port(),
            per_second,
            client,
            sends_resets: true,
        }
    }

    const fn victim(&self) -> IpAddr {
        match self.forged {
            Forged::NetworkIpv6 => VICTIM_IPV6,
            Forged::Address | Forged::Network => VICTIM,
        }
    }

    const fn server(&self) -> SocketAddr {
        match self.forged {
            Forged::NetworkIpv6 => SocketAddr::new(IpAddr::V6(SERVER_IPV6), WEB.port()),
            Forged::Address | Forged::Network => SocketAddr::new(IpAddr::V4(SERVER_IPV4), WEB.port()),
        }
    }

    const fn sources(&self) -> Sources {
        match self.forged {
            Forged::Address => Sources::Random(VICTIM, 1),
            Forged::Network => Sources::Random(IpAddr::V4(Ipv4Addr::new(198, 18, 60, 0)), 256),
            Forged::NetworkIpv6 => Sources::Random(VICTIM_IPV6, 0),
        }
    }

    /// Opens ten connections a second from the client's address during the flood, and returns them with the client's
    /// median connect time before it.
    fn run(&self) -> Result<(Connections, Duration)> {
        let scene = Scene::new("")?;
        let path = Path::milliseconds(ROUND_TRIP.as_millis() as u64);
        let far = scene.lab.far_client(&[self.victim()], path, self.sends_resets)?;
        let client = Client::in_namespace(&far.namespace);
        let calm = match self.client {
            Acquaintance::Proven => client.run(self.server(), 10, Duration::from_secs(2), || true)?,
            Acquaintance::New => Connections::default(),
        };
        ensure!(calm.served() == calm.tried, "{} of {} were served before the flood", calm.served(), calm.tried);
        let spec = FloodSpec { time_to_live: self.time_to_live, ..FloodSpec::syn(self.sources(), self.port) };
        let connections = scene.flood(&spec)?.during(self.per_second, || {
            // The client comes when the flood has been recognised.
            thread::sleep(Duration::from_secs(1));
            client.run(self.server(), 10, Duration::from_secs(4), || true)
        })?;
        let mut drops = scene.daemon.stats()?.drops;
        drops.retain(|_, count| *count > 0);
        println!(
            "{self:?}: {} of {} served, median {:?} (calm {:?}), at most {:?}; {} resets of its host; drops {drops:?}",
            connections.served(),
            connections.tried,
            connections.quantile(0.5),
            calm.quantile(0.5),
            connections.quantile(1.0),
            far.resets(),
        );
        Ok((connections, calm.quantile(0.5)))
    }

    /// Checks that a proven client does not notice the flood.
    pub fn is_unnoticed(&self) -> Result<()> {
        let (connections, calm) = self.run()?;
        ensure!(connections.share() == 1.0, "{self:?}: {:?}", connections.troubles);
        let median = connections.quantile(0.5);
        ensure!(median < calm + ROUND_TRIP, "{self:?}: the median is {median:?}, and {calm:?} without a flood");
        Ok(())
    }

    /// Checks that the client is served, if with delay.
    pub fn is_served(&self) -> Result<()> {
        let (connections, _) = self.run()?;
        ensure!(connections.share() >= 0.99, "{self:?}: {:?}", connections.troubles);
        let slowest = connections.quantile(1.0);
        ensure!(slowest < TWO_RETRANSMITS, "{self:?}: one took {slowest:?}");
        Ok(())
    }
}

#[test]
fn a_flood_with_a_clients_address_over_another_path_is_not_noticed() -> Result<()> {
    Row { time_to_live: OTHER_TIME_TO_LIVE, ..Row::new(100_000, Acquaintance::Proven) }.is_unnoticed()
}

#[test]
fn nor_is_one_of_a_closed_port() -> Result<()> {
    let open = Row { time_to_live: OTHER_TIME_TO_LIVE, ..Row::new(100_000, Acquaintance::Proven) };
    Row { port: CLOSED_PORT, ..open }.is_unnoticed()
}

#[test]
fn a_flood_with_a_clients_address_and_path_does_not_shut_it_out() -> Result<()> {
    Row::new(100_000, Acquaintance::Proven).is_served()
}

#[test]
#[ignore = "one more row: cargo xtask test distance"]
fn nor_where_its_host_sends_no_resets() -> Result<()> {
    Row { sends_resets: false, ..Row::new(100_000, Acquaintance::Proven) }.is_served()
}

#[test]
fn a_client_is_let_in_that_comes_for_the_first_time_during_a_flood_with_its_address() -> Result<()> {
    Row::new(100_000, Acquaintance::New).is_served()
}

#[test]
fn a_flood_with_the_addresses_of_its_network_does_not_shut_a_proven_client_out() -> Result<()> {
    Row { forged: Forged::Network, ..Row::new(100_000, Acquaintance::Proven) }.is_served()
}

#[test]
#[ignore = "one more row: cargo xtask test distance"]
fn nor_a_new_one() -> Result<()> {
    Row { forged: Forged::Network, ..Row::new(100_000, Acquaintance::New) }.is_served()
}

#[test]
#[ignore = "one more row: cargo xtask test distance"]
fn nor_one_of_an_ipv6_network() -> Result<()> {
    Row { forged: Forged::NetworkIpv6, ..Row::new(100_000, Acquaintance::New) }.is_served()
}

#[test]
fn five_hundred_forged_syns_shut_nobody_out() -> Result<()> {
    let scene = Scene::new("")?;
    let far = scene.lab.far_client(&[VICTIM], Path::milliseconds(80), true)?;
    scene.flood(&FloodSpec::syn(Sources::InTurn("198.18.70.1".parse()?, 8), WEB.port()))?.send(450)?;
    scene.flood(&FloodSpec::syn(Sources::Random(VICTIM, 1), CLOSED_PORT))?.send(70)?;
    let connections = Client::in_namespace(&far.namespace).run(WEB, 5, Duration::from_secs(6), || true)?;
    ensure!(connections.share() == 1.0, "{} of {} were served", connections.served(), connections.tried);
    ensure!(scene.blocked()?.is_empty(), "{:?}", scene.blocked()?);
    Ok(())
}

#[test]
fn more_syns_than_its_rate_with_a_clients_address_do_not_shut_it_out() -> Result<()> {
    Row { time_to_live: OTHER_TIME_TO_LIVE, ..Row::new(2500, Acquaintance::New) }.is_served()
}

#[test]
fn connections_under_way_when_an_attack_begins_are_served() -> Result<()> {
    // The kernel answers with cookies of its own until the attack is recognised, because its queue is full by then. What
    // has been answered so is returned half a round trip later, whatever has changed meanwhile.
    let scene = Scene::at_distance(Path::milliseconds(ROUND_TRIP.as_millis() as u64), "")?;
    let addresses: Vec<IpAddr> = (1..=100).map(|n| IpAddr::from([198, 18, 63, n])).collect();
    addresses.iter().try_for_each(|address| scene.lab.add_client_address(*address))?;
    let mut flood = scene.flood(&FloodSpec::syn(Sources::RANDOM_IPV4, WEB.port()))?;
    let clients = thread::scope(|scope| {
        let crowd = Crowd { lab: &scene.lab, addresses, rate: 400, threads: 100 };
        let clients = scope.spawn(move || crowd.run(WEB, Duration::from_secs(5)));
        thread::sleep(Duration::from_secs(1));
        flood.during(50_000, || clients.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    println!("{} of {} served, at most {:?}", clients.served(), clients.tried, clients.quantile(1.0));
    let challenge = scene.daemon.stats()?.measures;
    ensure!(clients.share() == 1.0, "{} of {}: {:?}", clients.served(), clients.tried, clients.troubles);
    ensure!(scene.setting("net.ipv4.tcp_timestamps")? == "2", "cookies carry no timestamps: {challenge:?}");
    Ok(())
}
