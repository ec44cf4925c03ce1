//! Tests that do little but wait. `cargo xtask test` runs them beside the others, which would have to wait for them.

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
#[ignore = "it takes two minutes: `cargo xtask test` runs it beside the others"]
fn settings_for_cookies_come_back_by_themselves() -> Result<()> {
    share_machine();
    let mut scene = Scene::new("")?;
    // No client beside it: the other labs' clients have its address, and every daemon of the machine sees its handshakes.
    scene.flood(&FloodSpec::syn(Sources::RANDOM_IPV4, WEB.port()))?.send_at(100_000, Duration::from_secs(3))?;
    let totals = &scene.daemon.json("/stats")?["totals"];
    ensure!(totals["challenged"].as_u64() > Some(0), "{totals}");
    ensure!(!scene.has_cookie_settings_back()?, "cookies were sent, and the settings that they need are not there");
    settings_come_back(&mut scene)
}

#[test]
#[ignore = "it takes half a minute: `cargo xtask test` runs it beside the others"]
fn who_takes_nothing_of_an_answer_is_hung_up_on() -> Result<()> {
    share_machine();
    let lab = Lab::new()?;
    let daemon = Setup::new(&lab)?.start()?;
    let mut stream = daemon.connect()?;
    // Answers that nobody takes fill the socket's buffer.
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
        "it was not hung up on"
    );
    Ok(())
}

#[test]
#[ignore = "it takes a minute: `cargo xtask test` runs it beside the others"]
fn an_interface_that_is_down_for_a_minute_stays_guarded() -> Result<()> {
    share_machine();
    let lab = Lab::new()?;
    let daemon = Setup::new(&lab)?.start()?;
    let link = |state: &str| lab.server.ip(&format!("link set {SERVER_INTERFACE} {state}"));
    // No client beside it, either: SYNs to a port that nobody listens on complete no handshake.
    let counts = |expected: u64| {
        Flood::new(&lab, &FloodSpec::one_source(80))?.send(50)?;
        daemon.stats_when("it counts", |stats| {
            syn(stats) == expected && stats["state"] == "calm" && stats["interfaces"][0]["xdp_mode"] == "native"
        })
    };
    counts(50)?;
    link("down")?;
    thread::sleep(Duration::from_secs(60));
    link("up")?;
    lab.restore_routes(SERVER_INTERFACE)?;
    counts(100).map(drop)
}
