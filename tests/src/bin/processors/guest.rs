//! What runs in the machine: listeners, and the daemon as the other side wants it.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{Child, Command},
};

use anyhow::{Context, Result, bail, ensure};
use lab::{
    Namespace,
    addresses::{CLIENT_IPV4, CLIENT_MAC, DISCARD_PORT, SERVER_IPV4, mac},
    machine::running::SECOND_SERVER_IPV4,
    server::echo,
};
use nix::{
    sys::{
        signal::{Signal, kill},
        socket::Backlog,
    },
    unistd::Pid,
};

/// Where the machine takes [`Order`]s.
pub const CONTROL_PORT: u16 = 7;
/// Where the machine has a web server.
pub const WEB_PORT: u16 = 80;

/// What the machine is told to do; one for each connection to [`CONTROL_PORT`].
pub enum Order<'a> {
    /// Start the daemon anew with this configuration.
    Guard(&'a str),
    /// Tell how often each queue has interrupted.
    Interrupts,
    /// Print the daemon's log.
    Log,
}

impl Order<'_> {
    /// Returns the request in words: a line, and what belongs to it.
    pub fn text(&self) -> String {
        match self {
            Self::Guard(config) => format!("guard\n{config}"),
            Self::Interrupts => "interrupts\n".to_owned(),
            Self::Log => "log\n".to_owned(),
        }
    }
}

const CONFIG: &str = "/tmp/tcpguard.toml";
const LOG: &str = "/tmp/log";

/// Serves until the machine is powered off.
pub fn run() -> Result<()> {
    let own = Namespace::own()?;
    set_up(&own)?;
    let discard = TcpListener::bind((Ipv4Addr::UNSPECIFIED, DISCARD_PORT)).context("cannot listen")?;
    nix::sys::socket::listen(&discard, Backlog::MAXCONN).context("cannot listen")?;
    let _web = echo(&own, &format!("0.0.0.0:{WEB_PORT}"), 1)?;
    let control = TcpListener::bind((Ipv4Addr::UNSPECIFIED, CONTROL_PORT)).context("cannot listen")?;
    let mut daemon = None;
    loop {
        let (stream, _) = control.accept().context("cannot accept")?;
        if let Err(error) = serve(stream, &mut daemon) {
            println!("an order failed: {error:#}");
        }
    }
}

/// Gives both interfaces their addresses. Answers to any source leave through the first.
fn set_up(own: &Namespace) -> Result<()> {
    own.ip("link set lo up")?;
    for (interface, address) in [("eth0", SERVER_IPV4), ("eth1", SECOND_SERVER_IPV4)] {
        own.ip(&format!("link set {interface} up"))?;
        own.ip(&format!("addr add {address}/30 dev {interface}"))?;
    }
    own.ip(&format!("neigh replace {CLIENT_IPV4} lladdr {} dev eth0", mac(CLIENT_MAC)))?;
    own.ip(&format!("route replace 198.18.0.0/15 via {CLIENT_IPV4} dev eth0"))
}

fn serve(mut stream: TcpStream, daemon: &mut Option<Child>) -> Result<()> {
    let mut text = String::new();
    stream.read_to_string(&mut text).context("cannot read the order")?;
    let answer = match text.split_once('\n') {
        Some(("guard", config)) => guard(config, daemon).map(|()| "started".to_owned()),
        Some(("interrupts", _)) => fs::read_to_string("/proc/interrupts").context("cannot read interrupts"),
        Some(("log", _)) => fs::read_to_string(LOG).context("cannot read the log"),
        _ => bail!("unknown order: {text}"),
    };
    let answer = answer.unwrap_or_else(|error| format!("failed: {error:#}"));
    stream.write_all(answer.as_bytes()).context("cannot answer")
}

fn guard(config: &str, daemon: &mut Option<Child>) -> Result<()> {
    if let Some(mut old) = daemon.take() {
        kill(Pid::from_raw(old.id() as i32), Signal::SIGTERM).context("cannot end the daemon")?;
        let status = old.wait().context("cannot wait for the daemon")?;
        ensure!(status.success(), "the daemon ended with {status}");
    }
    fs::write(CONFIG, config).context("cannot write the configuration")?;
    let log = File::create(LOG).context("cannot create the log")?;
    let mut command = Command::new("/tcpguard");
    command.args(["--config", CONFIG, "run"]).stdout(log.try_clone().context("cannot share the log")?).stderr(log);
    *daemon = Some(command.spawn().context("cannot start the daemon")?);
    Ok(())
}
