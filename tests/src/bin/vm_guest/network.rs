//! Whom the service exchanges packets with.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use lab::{Lab, addresses::SERVER_IPV4, eventually};

use crate::{machine::run, service::Service};

const CONFIGURATION: &str = "/etc/tcpguard/tcpguard.toml";
const OVERRIDES: &str = "/etc/systemd/system/tcpguard.service.d";

/// Checks that other hosts cannot reach `listen.http`, that the service says so, and that docs/service.md tells how to
/// permit it.
pub fn is_closed_by_default(lab: &Lab, service: &Service) -> Result<()> {
    let before = fs::read_to_string(CONFIGURATION).context("cannot read the configuration")?;
    fs::write(CONFIGURATION, format!("{before}[listen]\nhttp = \"0.0.0.0:9477\"\n"))?;
    run("systemctl restart tcpguard")?;
    eventually(
        "an event tells that others cannot reach HTTP",
        || run("tcpguard events --json --limit 1000"),
        |events| events.contains("http_unavailable") && events.contains("docs/service.md"),
    )?;
    ensure!(!is_reachable(lab)?, "another host reaches HTTP");

    fs::create_dir_all(OVERRIDES)?;
    run(&format!("ln -s /usr/share/tcpguard/network.conf {OVERRIDES}/"))?;
    run("systemctl daemon-reload")?;
    run("systemctl restart tcpguard")?;
    eventually("another host reaches HTTP", || is_reachable(lab), |is_reachable| *is_reachable)?;

    fs::remove_dir_all(OVERRIDES)?;
    fs::write(CONFIGURATION, before)?;
    run("systemctl daemon-reload")?;
    run("systemctl restart tcpguard")?;
    eventually("the daemon is ready", || Ok(service.stats().is_ok()), |ready| *ready).map(drop)
}

fn is_reachable(lab: &Lab) -> Result<bool> {
    let http = SocketAddr::from((SERVER_IPV4, 9477));
    lab.client.within(|| Ok(TcpStream::connect_timeout(&http, Duration::from_secs(2)).is_ok()))
}
