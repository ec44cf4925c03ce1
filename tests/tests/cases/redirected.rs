//! Ports of this host that are redirected, to a container, another host or another port: they are judged, and challenged by
//! reset, without configuration.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Result, ensure};
use lab::{
    Client, FloodSpec, Namespace, Path, Scene, Sources, Stats,
    daemon::{challenge_of, port_of},
    network::SERVER_IPV4,
    redirect::{PUBLISHED, host_behind, masquerade, nft, publish, until_found},
    server::{self, Echo},
};

const ROUND_TRIP: Duration = Duration::from_millis(80);
const PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(SERVER_IPV4), PUBLISHED);

/// How the port is redirected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// To another namespace (DNAT), as container engines do.
    Container,
    /// The same, and the server sees this host as the client (SNAT), as with Kubernetes' NodePorts.
    NodePort,
    /// To another port of this host.
    Local,
}

fn redirect(scene: &Scene, way: Way) -> Result<(Option<Namespace>, Echo)> {
    if way == Way::Local {
        let rule = format!(
            "table ip lab {{\nchain prerouting {{\ntype nat hook prerouting priority -100;\n\
             tcp dport {PUBLISHED} redirect to :9090\n}}\n}}\n"
        );
        nft(&scene.lab.server, &rule)?;
        return Ok((None, server::echo(&scene.lab.server, "0.0.0.0:9090", 1)?));
    }
    let behind = host_behind(&scene.lab)?;
    let service = server::echo(&behind, "0.0.0.0:80", 1)?;
    publish(&scene.lab)?;
    if way == Way::NodePort {
        masquerade(&scene.lab)?;
    }
    Ok((Some(behind), service))
}

/// Checks that a redirected port is found, counted exactly, challenged during a flood, and that clients are served.
fn is_protected(way: Way) -> Result<()> {
    let scene = Scene::new("")?;
    let _redirected = redirect(&scene, way)?;
    let address = Ipv4Addr::new(198, 18, 61, 7).into();
    let far = scene.lab.far_client(&[address], Path::milliseconds(ROUND_TRIP.as_millis() as u64), true)?;
    let client = Client::in_namespace(&far.namespace);
    // What a stranger tries at a port without anything behind it tells nothing.
    ensure!(client.fetch((SERVER_IPV4, PUBLISHED + 1).into()).is_err());
    until_found(&client, &scene.daemon, PORT)?;
    let before = scene.daemon.stats()?;
    let completed = |stats: &Stats| port_of(stats, PUBLISHED).map_or(0, |port| port.completed);
    for _ in 0..20 {
        client.fetch(PORT)?;
    }
    let expected = completed(&before) + 20;
    let stats = scene.daemon.stats_when("all have completed", |stats| completed(stats) == expected)?;
    ensure!(stats.totals.completed - before.totals.completed == 20, "{way:?}: {:?}", stats.totals);
    ensure!(stats.half_open.datapath == 0, "{way:?}: {:?}", stats.half_open);

    let mut flood = scene.flood(&FloodSpec::syn(Sources::RANDOM_IPV4, PUBLISHED))?;
    let served = flood.during(50_000, || {
        scene.daemon.stats_when("the port is challenged", |stats| challenge_of(stats, PUBLISHED) == Some("reset"))?;
        client.run(PORT, 10, Duration::from_secs(4), || true)
    })?;
    let stats = scene.daemon.stats()?;
    println!("{way:?}: {:?} of {:?}", served.quantile(0.5), served.quantile(1.0));
    ensure!(served.share() == 1.0, "{way:?}: {:?}", served.troubles);
    ensure!(scene.blocked()?.is_empty() && scene.has_cookie_settings_back()?, "{way:?}");
    let let_in = stats.totals.syn - stats.totals.challenged;
    ensure!(let_in < 30_000, "{way:?}: {let_in} SYNs were let in");
    Ok(())
}

#[test]
fn a_published_port_of_a_container() -> Result<()> {
    is_protected(Way::Container)
}

#[test]
fn a_node_port() -> Result<()> {
    is_protected(Way::NodePort)
}

#[test]
fn a_port_that_is_redirected_to_another_one() -> Result<()> {
    is_protected(Way::Local)
}
