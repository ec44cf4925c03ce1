//! What `tcpguard doctor` finds, and whether the commands that it suggests fix the findings.

use std::{
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd},
};

use anyhow::{Context, Result, ensure};
use lab::{Daemon, Finished, Lab, Setup, build::binary, finish, network::SERVER_IPV4};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, socket};
use serde_json::Value;

/// Kernel settings with values that have to be reported.
const WRONG: [(&str, &str); 4] = [
    ("net.ipv4.tcp_syncookies", "0"),
    ("net.ipv4.tcp_timestamps", "0"),
    ("net.ipv4.tcp_synack_retries", "9"),
    ("net.core.somaxconn", "128"),
];

fn doctor(lab: &Lab, daemon: &Daemon, config: &str, arguments: &[&str]) -> Result<Finished> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("tcpguard.toml");
    std::fs::write(&file, config)?;
    let mut command = lab.server.command(binary()?);
    command.arg("--config").arg(&file).arg("doctor").arg("--socket").arg(daemon.socket()).args(arguments);
    finish(&mut command)
}

/// Returns the findings and the exit code.
fn findings(lab: &Lab, daemon: &Daemon) -> Result<(Vec<Value>, Option<i32>)> {
    let output = doctor(lab, daemon, "interfaces = [\"lab-server\"]\n", &["--json"])?;
    let report: Value =
        serde_json::from_slice(&output.stdout).with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let findings = report["findings"].as_array().context("the report has no findings")?.clone();
    let to_fix = findings.iter().filter(|finding| finding["status"] == "fix").count();
    ensure!(report["to_fix"] == to_fix, "{report}");
    Ok((findings, output.status.code()))
}

fn find<'a>(findings: &'a [Value], name: &str) -> Result<&'a Value> {
    findings.iter().find(|finding| finding["name"] == name).with_context(|| format!("no finding about {name}"))
}

fn listener(lab: &Lab, port: u16, backlog: i32) -> Result<OwnedFd> {
    lab.server.within(|| {
        let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::from((SERVER_IPV4, port))))?;
        listen(&socket, Backlog::new(backlog)?)?;
        Ok(socket)
    })
}

#[test]
fn what_is_wrong_is_found_and_its_command_puts_it_right() -> Result<()> {
    let lab = Lab::new()?;
    let _listener = listener(&lab, 443, 1024)?;
    let daemon = Setup::new(&lab)?.start()?;
    let (found, code) = findings(&lab, &daemon)?;
    ensure!(code == Some(0), "there is something to fix on a sound host: {found:?}");
    ensure!(find(&found, "lab-server XDP")?["value"] == "native", "{found:?}");
    ensure!(find(&found, "port 443 backlog")?["value"] == "room for 1024", "{found:?}");

    for (setting, value) in WRONG {
        lab.server.sysctl(setting, value)?;
    }
    let small = listener(&lab, 8080, 5)?;
    let (found, code) = findings(&lab, &daemon)?;
    ensure!(code == Some(1), "{code:?}");
    ensure!(find(&found, "port 8080 backlog")?["status"] == "fix", "{found:?}");
    for (setting, value) in WRONG {
        let finding = find(&found, setting)?;
        ensure!(finding["status"] == "fix" && finding["value"] == value, "{finding}");
        let fix = finding["fix"].as_str().context("the finding has no command")?;
        let status = lab.server.command("sh").args(["-c", fix]).status()?;
        ensure!(status.success(), "{fix}: {status}");
    }
    drop(small);
    let (found, code) = findings(&lab, &daemon)?;
    ensure!(code == Some(0), "there is still something to fix: {found:?}");
    Ok(())
}

#[test]
fn what_cannot_be_is_said() -> Result<()> {
    let lab = Lab::new()?;
    let mut daemon = Setup::new(&lab)?.start()?;
    let text = |output: &Finished| String::from_utf8_lossy(&output.stdout).into_owned();
    for (config, word) in [
        ("interfaces = [\"nothing0\"]\n", "nothing0: not there"),
        ("interfaces = 7\n", "invalid type"),
        (
            "interfaces = [\"lab-server\"]\n[lists]\ndeny_files = [\"/nonexistent.txt\"]\n",
            "deny file /nonexistent.txt: not there",
        ),
    ] {
        let output = doctor(&lab, &daemon, config, &[])?;
        ensure!(output.status.code() == Some(1) && text(&output).contains(word), "{config}: {}", text(&output));
        ensure!(text(&output).contains("to fix:"), "{}", text(&output));
    }
    daemon.end(nix::sys::signal::Signal::SIGTERM)?;
    let output = doctor(&lab, &daemon, "interfaces = [\"lab-server\"]\n", &[])?;
    ensure!(
        output.status.code() == Some(1) && text(&output).contains("does not run: nobody listens at"),
        "{}",
        text(&output)
    );
    Ok(())
}
