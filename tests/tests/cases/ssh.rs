//! Who is kept on the allow list for an SSH session: whoever is logged in, and nobody who merely has a connection. Each test
//! fails on a tcpguard that allows the peers of all connections to port 22 that it finds when it starts.

use std::{fs, io::Write, net::TcpStream, path::Path, thread::sleep, time::Duration};

use anyhow::{Context, Result, ensure};
use lab::{
    Client, Daemon, Lab, Setup, eventually,
    network::{CLIENT_IPV4, SERVER_INTERFACE, SERVER_IPV4},
    server,
};
use tempfile::TempDir;

const PORT: u16 = 22;

fn config() -> String {
    format!("interfaces = [\"{SERVER_INTERFACE}\"]\n")
}

/// Returns the addresses that are on the allow list for an SSH session.
fn allowed(daemon: &Daemon) -> Result<Vec<String>> {
    let lists = daemon.json("/lists")?;
    let entries = lists["allow"].as_array().context("no allow list")?;
    let of_ssh = entries.iter().filter(|entry| entry["origin"] == "ssh");
    Ok(of_ssh.filter_map(|entry| entry["network"].as_str().map(str::to_owned)).collect())
}

fn allowed_when(daemon: &Daemon, what: &str, is_right: impl Fn(&[String]) -> bool) -> Result<Vec<String>> {
    eventually(what, || allowed(daemon), |allowed| is_right(allowed))
}

/// A systemd-logind that runs, in place of the machine's.
struct Logind(TempDir);

impl Logind {
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot create a directory")?;
        for name in ["seats", "sessions"] {
            fs::create_dir(folder.path().join(name)).context("cannot create a directory")?;
        }
        fs::write(folder.path().join("seats/seat0"), "").context("cannot write the seat")?;
        Ok(Self(folder))
    }

    fn script(&self) -> String {
        format!("mkdir -p /run/systemd && mount --bind {} /run/systemd", self.0.path().display())
    }

    fn open(&self, session: &str, host: &str) -> Result<()> {
        let text = format!("STATE=active\nREMOTE=1\nREMOTE_HOST={host}\nSERVICE=sshd\n");
        fs::write(self.0.path().join("sessions").join(session), text).context("cannot write the session")
    }

    fn close(&self, session: &str) -> Result<()> {
        fs::remove_file(self.0.path().join("sessions").join(session)).context("cannot remove the session")
    }
}

#[test]
fn a_connection_allows_nobody_and_a_login_its_peer_while_it_lasts() -> Result<()> {
    let lab = Lab::new()?;
    let _sshd = server::listen(&lab.server, SERVER_IPV4.into(), PORT)?;
    let mut stranger = Client::new(&lab).connect((SERVER_IPV4, PORT).into())?;
    stranger.write_all(b"SSH-2.0-stranger\r\n").context("cannot write to the connection")?;
    let logind = Logind::new()?;
    logind.open("1", "198.18.200.7")?;
    let daemon = Setup::new(&lab)?.config(&config()).after(&logind.script()).start()?;
    ensure!(allowed(&daemon)? == ["198.18.200.7"], "{:?}", allowed(&daemon)?);
    let reloaded = daemon.tcpguard(&["reload"])?;
    ensure!(reloaded.status.success() && allowed(&daemon)? == ["198.18.200.7"], "{:?}", allowed(&daemon)?);
    logind.open("2", "2001:db8::22")?;
    allowed_when(&daemon, "a login is noticed", |allowed| allowed.contains(&"2001:db8::22".to_owned()))?;
    logind.close("1")?;
    allowed_when(&daemon, "its end is noticed", |allowed| allowed == ["2001:db8::22"])?;
    let events = String::from_utf8(daemon.tcpguard(&["events"])?.stdout)?;
    ensure!(events.contains("198.18.200.7 is no longer allowed: its SSH session ended"), "{events}");
    Ok(())
}

#[test]
fn an_entry_that_an_operator_removes_stays_away() -> Result<()> {
    let lab = Lab::new()?;
    let logind = Logind::new()?;
    logind.open("1", "198.18.200.7")?;
    let daemon = Setup::new(&lab)?.config(&config()).after(&logind.script()).start()?;
    let removed = daemon.tcpguard(&["disallow", "198.18.200.7"])?;
    ensure!(removed.status.success(), "{removed:?}");
    logind.open("2", "198.18.200.8")?;
    allowed_when(&daemon, "another login is noticed", |allowed| allowed == ["198.18.200.8"]).map(drop)
}

#[test]
fn without_logind_a_connection_counts_that_outlives_the_time_for_a_login() -> Result<()> {
    let lab = Lab::new()?;
    let sshd = server::listen(&lab.server, SERVER_IPV4.into(), PORT)?;
    let (stranger, operator) = (CLIENT_IPV4, "198.18.200.9");
    lab.add_client_address(operator.parse()?)?;
    let silent = Client::new(&lab).from(stranger.into()).connect((SERVER_IPV4, PORT).into())?;
    let mut session = Client::new(&lab).from(operator.parse()?).connect((SERVER_IPV4, PORT).into())?;
    let (_first, _) = sshd.accept().context("cannot accept the connection")?;
    let (mut second, _) = sshd.accept().context("cannot accept the connection")?;
    both_speak(&mut session, &mut second)?;
    let folder = tempfile::tempdir().context("cannot create a directory")?;
    fs::write(folder.path().join("sshd_config"), "LoginGraceTime 3\n").context("cannot write sshd's configuration")?;
    let script = format!(
        "mkdir -p /run/systemd && mount -t tmpfs none /run/systemd && mount --bind {} /etc/ssh && rm -f /run/utmp",
        folder.path().display()
    );
    ensure!(!Path::new("/run/utmp").exists(), "this test needs a machine without utmp");
    let daemon = Setup::new(&lab)?.config(&config()).after(&script).start()?;
    ensure!(allowed(&daemon)?.is_empty(), "{:?}", allowed(&daemon)?);
    // sshd takes up to four seconds longer than LoginGraceTime, and connections are looked at every five.
    sleep(Duration::from_secs(6));
    ensure!(allowed(&daemon)?.is_empty(), "{:?}", allowed(&daemon)?);
    allowed_when(&daemon, "the operator is allowed", |allowed| allowed == [operator])?;
    drop((silent, session, second));
    allowed_when(&daemon, "the session's end is noticed", <[String]>::is_empty)?;
    Ok(())
}

fn both_speak(client: &mut TcpStream, server: &mut TcpStream) -> Result<()> {
    client.write_all(b"SSH-2.0-client\r\n").context("cannot write to the connection")?;
    server.write_all(b"SSH-2.0-server\r\n").context("cannot write to the connection")
}

#[test]
fn who_starts_it_over_ssh_is_allowed_while_connected() -> Result<()> {
    let lab = Lab::new()?;
    let sshd = server::listen(&lab.server, SERVER_IPV4.into(), PORT)?;
    let session = Client::new(&lab).connect((SERVER_IPV4, PORT).into())?;
    let (end, peer) = sshd.accept().context("cannot accept the connection")?;
    let variable = format!("{} {} {SERVER_IPV4} {PORT}", peer.ip(), peer.port());
    let setup = Setup::new(&lab)?.config(&config()).hiding("/run/systemd").environment("SSH_CONNECTION", &variable);
    let daemon = setup.start()?;
    ensure!(allowed(&daemon)? == [CLIENT_IPV4.to_string()], "{:?}", allowed(&daemon)?);
    drop((session, end));
    allowed_when(&daemon, "the session's end is noticed", <[String]>::is_empty).map(drop)
}
