//! Interfaces with other XDP programs: running before them in a chain, or at traffic control, and restoring them in the
//! end.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{
    Client, Daemon, Flood, FloodSpec, Lab, Neighbour, Setup, Sources,
    daemon::syn,
    neighbour::program_on,
    network::{SECOND_CLIENT_INTERFACE, SECOND_SERVER_INTERFACE, SERVER_INTERFACE},
    oracle,
    reply_path::ReplyPath,
    said,
    scene::WEB,
    server::Nginx,
};
use nix::sys::signal::Signal;

fn chaining(lab: &Lab) -> Result<Setup> {
    Ok(Setup::new(lab)?.config(&format!("interfaces = [\"{SERVER_INTERFACE}\"]\ncoexist = \"chain\"")))
}

#[test]
fn what_passes_is_handed_on_and_the_place_given_back() -> Result<()> {
    let lab = Lab::new()?;
    let _nginx = Nginx::start(&lab, &[80])?;
    let neighbour = Neighbour::attach(&lab, SERVER_INTERFACE)?;
    let mut daemon = chaining(&lab)?.start()?;
    ensure!(program_on(&lab, SERVER_INTERFACE)? != Some(neighbour.id), "tcpguard does not run before the neighbour");
    let stats = daemon.stats()?;
    ensure!(stats.interfaces[0].reason.clone().unwrap_or_default().contains("neighbour"), "{:?}", stats.interfaces);

    let before = neighbour.seen()?;
    Client::new(&lab).fetch(WEB)?;
    let after_client = neighbour.seen()?;
    ensure!(after_client >= before + 4, "the neighbour did not see the connection: {before}, {after_client}");
    ensure!(daemon.tcpguard(&["block", "198.18.1.1"])?.status.success());
    Flood::new(&lab, &FloodSpec::one_source(80))?.send(50)?;
    let stats = daemon.stats_when("all SYNs are counted", |stats| syn(stats) == 51)?;
    ensure!(stats.drops["denied"] == 50, "{:?}", stats.drops);
    ensure!(neighbour.seen()? < after_client + 50, "dropped packets reached the neighbour");

    daemon.end(Signal::SIGTERM)?;
    ensure!(program_on(&lab, SERVER_INTERFACE)? == Some(neighbour.id), "the neighbour is not attached again");
    let before = neighbour.seen()?;
    Client::new(&lab).fetch(WEB)?;
    ensure!(neighbour.seen()? > before, "the neighbour sees no packets");
    Ok(())
}

#[test]
fn a_crash_leaves_both_and_the_next_start_or_detach_goes_on_from_there() -> Result<()> {
    let lab = Lab::new()?;
    let _nginx = Nginx::start(&lab, &[80])?;
    let neighbour = Neighbour::attach(&lab, SERVER_INTERFACE)?;
    let mut daemon = chaining(&lab)?.start()?;
    let has_its_turn = |when: &str| {
        let before = neighbour.seen()?;
        Client::new(&lab).fetch(WEB)?;
        ensure!(neighbour.seen()? >= before + 4, "{when} the neighbour does not see the connection");
        Ok(())
    };
    for round in 1..=2 {
        daemon.end(Signal::SIGKILL)?;
        has_its_turn("while no daemon runs")?;
        daemon.start_again()?;
        has_its_turn("with the next daemon")?;
        daemon.stats_when("all SYNs are counted", |stats| syn(stats) == 2 * round)?;
    }
    daemon.end(Signal::SIGKILL)?;
    Client::new(&lab).fetch(WEB)?;
    let detached = daemon.tcpguard(&["detach"])?;
    ensure!(detached.status.success(), "{detached}");
    ensure!(program_on(&lab, SERVER_INTERFACE)? == Some(neighbour.id), "the neighbour is not attached again");

    // Changing to traffic control attaches the neighbour again too.
    daemon.start_again()?;
    daemon.end(Signal::SIGKILL)?;
    daemon.set_config(&format!("interfaces = [\"{SERVER_INTERFACE}\"]\nattach = \"tc\""))?;
    daemon.start_again()?;
    ensure!(program_on(&lab, SERVER_INTERFACE)? == Some(neighbour.id), "the neighbour is not attached again");
    has_its_turn("with tcpguard at traffic control")?;
    daemon.end(Signal::SIGTERM)?;
    daemon.set_config(&format!("interfaces = [\"{SERVER_INTERFACE}\"]\ncoexist = \"chain\""))?;

    // Without the chain the daemon refuses to start, and the neighbour is attached again.
    daemon.start_again()?;
    daemon.end(Signal::SIGKILL)?;
    let refusing = daemon.again_with(&format!("interfaces = [\"{SERVER_INTERFACE}\"]"))?;
    ensure!(said(&refusing).contains("already has the XDP program"), "{refusing}");
    ensure!(program_on(&lab, SERVER_INTERFACE)? == Some(neighbour.id), "the neighbour is not attached again");
    Ok(())
}

#[test]
fn what_a_link_holds_cannot_be_displaced_and_tc_guards_beside_it() -> Result<()> {
    let lab = Lab::new()?;
    let _nginx = Nginx::start(&lab, &[80])?;
    let _other = lab.server.within(|| ReplyPath::attach(SERVER_INTERFACE))?;
    let before = program_on(&lab, SERVER_INTERFACE)?;
    let refused = chaining(&lab)?.run_to_end()?;
    ensure!(refused.status.code() == Some(1), "{refused}");
    for word in ["reply_path", "bpf_link", "attach = \"tc\""] {
        ensure!(said(&refused).contains(word), "{word}: {refused}");
    }
    ensure!(program_on(&lab, SERVER_INTERFACE)? == before, "the other program was replaced");

    let mut daemon = at_tc(&lab)?.start()?;
    let stats = daemon.stats()?;
    ensure!(stats.interfaces[0].xdp_mode == "tc", "{:?}", stats.interfaces);
    Client::new(&lab).fetch(WEB)?;
    ensure!(daemon.tcpguard(&["block", "198.18.1.1"])?.status.success());
    Flood::new(&lab, &FloodSpec::one_source(80))?.send(50)?;
    daemon.stats_when("SYNs are counted and dropped", |stats| syn(stats) == 51 && stats.drops["denied"] == 50)?;
    daemon.restart(Signal::SIGKILL)?;
    Flood::new(&lab, &FloodSpec::one_source(80))?.send(50)?;
    daemon.stats_when("SYNs are dropped after a crash", |stats| syn(stats) == 101 && stats.drops["denied"] == 100)?;
    daemon.end(Signal::SIGTERM)?;
    ensure!(program_on(&lab, SERVER_INTERFACE)? == before, "the other program was replaced");
    Flood::new(&lab, &FloodSpec::one_source(80))?.send(5)?;
    Client::new(&lab).fetch(WEB).map(drop)
}

fn at_tc(lab: &Lab) -> Result<Setup> {
    Ok(Setup::new(lab)?.config(&format!("interfaces = [\"{SERVER_INTERFACE}\"]\nattach = \"tc\"")))
}

#[test]
fn at_tc_a_spoofed_flood_is_answered_with_cookies_too() -> Result<()> {
    let lab = Lab::new()?;
    lab.lay_second_cable()?;
    let _nginx = Nginx::start(&lab, &[80])?;
    let config = format!(
        "interfaces = [\"{SERVER_INTERFACE}\", \"{SECOND_SERVER_INTERFACE}\"]\nattach = \"tc\"\n[thresholds]\nhold = \"2s\""
    );
    let daemon = Setup::new(&lab)?.config(&config).start()?;
    lab.receive_without_daemon()?;
    let spec = FloodSpec::syn(Sources::RANDOM_IPV4, 80);
    let mut flood = Flood::from_interface(&lab.client, SECOND_CLIENT_INTERFACE, &spec)?;
    let client = flood.during(20_000, || {
        daemon.stats_when("cookies are sent", |stats| stats.totals.challenged > 1000)?;
        Client::new(&lab).run(WEB, 50, Duration::from_secs(2), || true)
    })?;
    ensure!(client.served() == client.tried, "{} of {} connections were served", client.served(), client.tried);
    let sent = flood.delivered()? + oracle::syns_sent(&lab.client)?;
    let stats = daemon.stats_when("every SYN is counted", |stats| syn(stats) == sent)?;
    ensure!(stats.totals.completed == u64::from(client.tried), "{:?}", stats.totals);
    cookies_were_brought_back(&daemon)
}

fn cookies_were_brought_back(daemon: &Daemon) -> Result<()> {
    let events = daemon.json("/events?limit=1000")?;
    let degraded =
        events.as_array().context("no events")?.iter().filter(|event| event["kind"] == "challenge_degraded").count();
    ensure!(degraded == 0, "{events}");
    Ok(())
}
