//! Tests that mostly wait. `cargo xtask test` runs them in parallel with the other tests.

use std::{
    io::{ErrorKind, Read, Write},
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use lab::{
    Flood, FloodSpec, Lab, Scene, Setup, Sources, daemon::syn, network::SERVER_INTERFACE, scene::WEB, share_machine,
    soak::settings_come_back,
};

#[test]
#[ignore = "takes two minutes: `cargo xtask test` runs it in parallel with other tests"]
fn settings_for_cookies_come_back_by_themselves() -> Result<()> {
    share_machine();
    let mut scene = Scene::new("")?;
    // Without a client: clients of labs in parallel have the same address, and every daemon of the machine sees their
    // handshakes.
    scene.flood(&FloodSpec::syn(Sources::RANDOM_IPV4, WEB.port()))?.send_at(100_000, Duration::from_secs(3))?;
    let totals = &scene.daemon.stats()?.totals;
    ensure!(totals.challenged > 0, "{totals:?}");
    ensure!(!scene.has_cookie_settings_back()?, "cookies were sent, but the settings that they need were not changed");
    settings_come_back(&mut scene)
}

#[test]
#[ignore = "takes half a minute: `cargo xtask test` runs it in parallel with other tests"]
fn who_takes_nothing_of_an_answer_is_hung_up_on() -> Result<()> {
    share_machine();
    let lab = Lab::new()?;
    let daemon = Setup::new(&lab)?.start()?;
    let mut stream = daemon.connect()?;
    // Responses that are not read fill the socket's buffer.
    for _ in 0..2000 {
        if stream.write_all(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n").is_err() {
            break;
        }
        stream.set_write_timeout(Some(Duration::from_millis(200)))?;
    }
    thread::sleep(Duration::from_secs(31));
    let mut rest = Vec::new();
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let ended = stream.read_to_end(&mut rest);
    ensure!(
        ended.is_ok() || ended.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset),
        "the daemon did not close the connection"
    );
    Ok(())
}

#[test]
#[ignore = "takes a minute: `cargo xtask test` runs it in parallel with other tests"]
fn an_interface_that_is_down_for_a_minute_stays_guarded() -> Result<()> {
    share_machine();
    let lab = Lab::new()?;
    let daemon = Setup::new(&lab)?.start()?;
    let link = |state: &str| lab.server.ip(&format!("link set {SERVER_INTERFACE} {state}"));
    // Without a client here too: SYNs to a port without a listener complete no handshake.
    let counts = |expected: u64| {
        Flood::new(&lab, &FloodSpec::one_source(80))?.send(50)?;
        daemon.stats_when("the SYNs are counted", |stats| {
            syn(stats) == expected && stats.state == "calm" && stats.interfaces[0].xdp_mode == "native"
        })
    };
    counts(50)?;
    link("down")?;
    thread::sleep(Duration::from_secs(60));
    link("up")?;
    lab.restore_routes(SERVER_INTERFACE)?;
    counts(100).map(drop)
}
