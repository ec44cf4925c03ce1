//! The output of the commands.

use anyhow::{Result, ensure};
use lab::{
    Client, Finished, Flood, FloodSpec, Lab, Setup, Sources, build::binary, daemon::tcpguard, finish,
    network::SERVER_IPV4, server::Nginx,
};
use serde_json::Value;

fn stdout(output: &Finished) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn they_show_what_the_daemon_knows() -> Result<()> {
    let lab = Lab::new()?;
    let _nginx = Nginx::start(&lab, &[80])?;
    let daemon = Setup::new(&lab)?.start()?;
    Client::new(&lab).fetch((SERVER_IPV4, 80).into())?;
    Flood::new(&lab, &FloodSpec::syn(Sources::InTurn("198.18.1.1".parse()?, 300), 80))?.send(300)?;
    daemon.stats_when("everything is counted", |stats| {
        stats.half_open.kernel == 300 && stats.half_open.datapath == 300
    })?;
    let run = |arguments: &[&str]| -> Result<String> {
        let output = tcpguard(arguments, &daemon.socket())?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(stdout(&output))
    };

    let status = run(&["status"])?;
    ensure!(status.lines().count() == 10, "expected ten lines: {status}");
    ensure!(status.contains("half open  300 in the kernel (limit 500)"), "{status}");
    ensure!(status.contains("lab-server (native)"), "{status}");
    let json: Value = serde_json::from_str(&run(&["status", "--json"])?)?;
    ensure!(json["totals"]["completed"] == 1, "{json}");

    let sources = run(&["sources", "--limit", "5"])?;
    ensure!(sources.lines().count() == 6, "expected a heading and five rows: {sources}");
    let json: Value = serde_json::from_str(&run(&["sources", "--sort", "half-open", "--limit", "1000", "--json"])?)?;
    let rows = json.as_array().expect("an array");
    ensure!(rows.len() == 301, "{} sources", rows.len());
    ensure!(rows.last().is_some_and(|row| row["source"] == "198.18.0.2" && row["half_open"] == 0), "{json}");

    let half_open = run(&["half-open"])?;
    ensure!(half_open.contains("port 80: 300 half open, "), "{half_open}");
    ensure!(half_open.matches("SYN_RECV").count() == 300, "{half_open}");
    ensure!(half_open.trim_end().ends_with("are from 198.18.1.0/24"), "{half_open}");
    let json: Value = serde_json::from_str(&run(&["half-open", "--port", "443", "--json"])?)?;
    ensure!(json["total"] == 0 && json["rows"].as_array().is_some_and(Vec::is_empty), "{json}");
    Ok(())
}

#[test]
fn half_open_answers_without_a_daemon_too() -> Result<()> {
    let lab = Lab::new()?;
    lab.receive_without_daemon()?;
    let _nginx = Nginx::start(&lab, &[80])?;
    Flood::new(&lab, &FloodSpec::syn(Sources::RANDOM_IPV4, 80))?.send(200)?;
    let mut half_open = lab.server.command(binary()?);
    let output = finish(half_open.args(["half-open", "--socket", "/nonexistent.sock"]))?;
    let text = stdout(&output);
    ensure!(output.status.success(), "{output}");
    ensure!(text.contains("port 80: "), "{text}");
    ensure!(text.contains("the sources look random"), "{text}");
    Ok(())
}

#[test]
fn check_prints_the_effective_configuration() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("x.toml");
    std::fs::write(&file, "[source]\nmax_half_open = 7\n")?;
    let run =
        |arguments: &[&str]| finish(std::process::Command::new(binary()?).arg("--config").arg(&file).args(arguments));
    let text = stdout(&run(&["check"])?);
    ensure!(text.contains("max_half_open = 7") && text.contains("hold = \"10s\""), "{text}");
    // The output is a configuration with the same effect.
    std::fs::write(&file, &text)?;
    ensure!(stdout(&run(&["check"])?) == text, "{text}");
    let json: Value = serde_json::from_str(&stdout(&run(&["check", "--json"])?))?;
    ensure!(json["source"]["max_half_open"] == 7, "{json}");
    Ok(())
}
