//! Floods from forged sources: answered with cookies from XDP, while real clients are served as ever.

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::{FloodSpec, Scene, Sources, scene::WEB};

const FLOOD: Duration = Duration::from_secs(6);

#[test]
fn a_client_does_not_notice_a_flood_of_forged_syns() -> Result<()> {
    let scene = Scene::new("")?;
    let attack = scene.attack(&FloodSpec::syn(Sources::RANDOM_IPV4, WEB.port()), 100_000, FLOOD)?;
    println!("{:#}", attack.seen.last["measures"]);
    println!("{:#}", attack.seen.last["totals"]);
    println!("{:#}", attack.seen.last["drops"]);
    println!("{:#}", attack.seen.last["tcp_ext"]);
    println!("{:?} {:?}", attack.seen.states, attack.seen.kinds);
    println!("tried {} served {} p99 {:?}", attack.client.tried, attack.client.share(), attack.client.quantile(0.99));
    ensure!(attack.client.share() == 1.0);
    Ok(())
}
