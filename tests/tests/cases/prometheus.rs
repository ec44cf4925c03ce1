//! The metrics as scraped by Prometheus, and the alerts and dashboard that are based on them.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    net::TcpStream,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::sys::{Stats, enable_stats};
use lab::{
    Client, Daemon, Flood, FloodSpec, Lab, Namespace, Setup, Sources, eventually, http, network::SERVER_IPV4,
    process::KilledOnDrop, server::Nginx, share_machine,
};
use serde_json::Value;
use tempfile::TempDir;
use xtask::bpf::toolchain::workspace;

/// The address that Prometheus listens on.
const PROMETHEUS: &str = "127.0.0.1:9490";
/// How long Prometheus scrapes the daemon.
const SCRAPED: Duration = Duration::from_secs(60);
/// The time window for rates.
const WINDOW: &str = "40s";
const SYN_RATE: u32 = 2000;
const CLIENT_RATE: u32 = 50;
/// Maximum relative difference between a rate and what was sent.
const TOLERANCE: f64 = 0.05;

fn packaging(file: &str) -> PathBuf {
    workspace().join("packaging").join(file)
}

/// Runs `promtool` with `input` as its standard input.
fn promtool(arguments: &[&str], input: &str) -> Result<()> {
    let mut command = Command::new("promtool");
    command.current_dir(workspace().join("packaging")).args(arguments);
    let mut process = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run promtool (Debian package: prometheus)")?;
    process.stdin.take().context("no standard input of promtool")?.write_all(input.as_bytes())?;
    let output = process.wait_with_output()?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(output.status.success(), "promtool {arguments:?}: {}", String::from_utf8_lossy(&said));
    Ok(())
}

/// Returns the names of tcpguard's metrics in `text`.
fn names(text: &str) -> BTreeSet<String> {
    let is_part = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let words = text.split(|character| !is_part(character));
    words.filter(|word| word.starts_with("tcpguard_")).map(str::to_owned).collect()
}

/// Returns the names of all metrics, including those without a value.
fn existing(metrics: &str) -> BTreeSet<String> {
    metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next().map(str::to_owned)).collect()
}

#[test]
fn metrics_and_what_is_built_upon_them_are_sound() -> Result<()> {
    let lab = Lab::new()?;
    let _nginx = Nginx::start(&lab, &[80])?;
    let daemon = Setup::new(&lab)?.start()?;
    let (status, metrics) = daemon.get("/metrics")?;
    ensure!(status == 200, "{status}");
    promtool(&["check", "metrics"], &metrics)?;
    promtool(&["check", "rules", "alerts.yml"], "")?;
    promtool(&["test", "rules", "alerts.test.yml"], "")?;

    let existing = existing(&metrics);
    let rules = fs::read_to_string(packaging("alerts.yml"))?;
    let board: Value = serde_json::from_str(&fs::read_to_string(packaging("grafana.json"))?)?;
    let mut expressions = Vec::new();
    expressions_of(&board, &mut expressions);
    ensure!(expressions.len() > 15, "{expressions:?}");
    for (file, text) in [("alerts.yml", rules), ("grafana.json", expressions.join("\n"))] {
        let unknown: Vec<_> = names(&text).difference(&existing).cloned().collect();
        ensure!(
            unknown.is_empty() && !names(&text).is_empty(),
            "{file} contains no metrics, or unknown ones: {unknown:?}"
        );
    }
    Ok(())
}

#[test]
fn programs_are_measured_where_the_kernel_does_so() -> Result<()> {
    let lab = Lab::new()?;
    let daemon = Setup::new(&lab)?.start()?;
    // Enables measuring while this is open, regardless of the machine's setting.
    let _measuring = enable_stats(Stats::RunTime).context("the kernel cannot measure the run time of programs")?;
    Flood::new(&lab, &FloodSpec::syn(Sources::InTurn("198.18.66.1".parse()?, 3), 80))?.send(150)?;
    let runs = |stats: &lab::Stats| {
        stats.cost.programs.as_ref().and_then(|programs| programs.first()).map_or(0, |program| program.runs)
    };
    let stats = daemon.stats_when("the program's runs are counted", |stats| runs(stats) >= 150)?;
    let programs = stats.cost.programs.unwrap_or_default();
    let program = programs.first().context("no program is measured")?;
    let seconds = program.run_seconds;
    ensure!(program.name == "tcpguard" && seconds > 0.0 && seconds < 0.1, "{program:?}");
    let (_, metrics) = daemon.get("/metrics")?;
    let line = metrics.lines().find(|line| line.starts_with("tcpguard_program_runs_total{program=\"tcpguard\"}"));
    ensure!(line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()) >= Some(150.0), "{line:?}");
    Ok(())
}

/// Collects the queries of a Grafana dashboard.
fn expressions_of(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str() {
                    Some(text) if ["expr", "query"].contains(&name.as_str()) => found.push(text.to_owned()),
                    _ => expressions_of(value, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| expressions_of(value, found)),
        _ => {}
    }
}

/// A Prometheus that scrapes the daemon of a namespace once a second.
struct Prometheus {
    _process: KilledOnDrop,
    namespace: Namespace,
    folder: TempDir,
}

impl Prometheus {
    fn start(namespace: &Namespace) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let rules = packaging("alerts.yml");
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{}]\nscrape_configs:\n- job_name: tcpguard\n  \
             static_configs: [{{targets: ['127.0.0.1:9477']}}]\n",
            rules.display()
        );
        let file = folder.path().join("prometheus.yml");
        fs::write(&file, config)?;
        let log = fs::File::create(folder.path().join("log"))?;
        let process = namespace
            .command("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={PROMETHEUS}"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("cannot run prometheus (Debian package: prometheus)")?;
        let prometheus = Self { _process: KilledOnDrop(process), namespace: namespace.clone(), folder };
        eventually(
            "Prometheus is ready",
            || Ok(prometheus.get("/-/ready").is_ok_and(|(status, _)| status == 200)),
            |ready| *ready,
        )?;
        Ok(prometheus)
    }

    fn get(&self, path: &str) -> Result<(u16, String)> {
        let stream = self.namespace.within(|| TcpStream::connect(PROMETHEUS).context("Prometheus does not listen"))?;
        http::get(stream, path)
    }

    /// Returns the value of an expression, or `None` if it has none.
    fn value(&self, expression: &str) -> Result<Option<f64>> {
        let escaped: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let (status, body) = self.get(&format!("/api/v1/query?query={escaped}"))?;
        ensure!(status == 200, "{expression}: {status} {body}");
        let answer: Value = serde_json::from_str(&body)?;
        Ok(answer["data"]["result"][0]["value"][1].as_str().and_then(|value| value.parse().ok()))
    }

    fn complaints(&self) -> Result<Vec<String>> {
        let log = fs::read_to_string(self.folder.path().join("log"))?;
        Ok(log
            .lines()
            .filter(|line| line.contains("level=error") || line.contains("level=warn"))
            .map(str::to_owned)
            .collect())
    }
}

#[test]
#[ignore = "takes a minute: `cargo xtask test` runs it in parallel with other tests"]
fn prometheus_sees_what_was_sent() -> Result<()> {
    share_machine();
    let lab = Lab::new()?;
    lab.lay_second_cable()?;
    let _nginx = Nginx::start(&lab, &[80])?;
    let interfaces =
        format!("interfaces = [\"{}\", \"{}\"]", lab::network::SERVER_INTERFACE, lab::network::SECOND_SERVER_INTERFACE);
    let daemon = Setup::new(&lab)?.config(&interfaces).start()?;
    let prometheus = Prometheus::start(&lab.server)?;
    let start = Instant::now();
    thread::scope(|scope| -> Result<()> {
        let flood = scope.spawn(|| -> Result<u64> {
            let spec = FloodSpec::syn(Sources::InTurn("198.18.66.1".parse()?, 20), 80);
            let mut flood = Flood::from_interface(&lab.client, lab::network::SECOND_CLIENT_INTERFACE, &spec)?;
            flood.send_at(SYN_RATE, SCRAPED + Duration::from_secs(3))
        });
        let client = scope.spawn(|| {
            Client::new(&lab).run((SERVER_IPV4, 80).into(), CLIENT_RATE, SCRAPED + Duration::from_secs(3), || true)
        });
        thread::sleep(SCRAPED.saturating_sub(start.elapsed()));
        compare(&prometheus, "rate(tcpguard_syn_total", f64::from(SYN_RATE + CLIENT_RATE))?;
        compare(&prometheus, "rate(tcpguard_completed_total", f64::from(CLIENT_RATE))?;
        let never_down = prometheus.value("min_over_time(up{job=\"tcpguard\"}[50s])")?;
        ensure!(never_down == Some(1.0), "a scrape failed: {never_down:?}");
        let firing = prometheus.value("ALERTS{alertname=\"TcpguardUnderAttack\", alertstate=\"firing\"}")?;
        ensure!(firing == Some(1.0), "the alert for the attack does not fire: {}", daemon.json("/events")?);
        for thread in [flood.join().map(drop), client.join().map(drop)] {
            thread.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        Ok(())
    })?;
    let complaints = prometheus.complaints()?;
    ensure!(complaints.is_empty(), "Prometheus logged problems: {complaints:?}");
    agrees(&prometheus, &daemon)
}

fn compare(prometheus: &Prometheus, rate: &str, sent: f64) -> Result<()> {
    let expression = format!("{rate}{{job=\"tcpguard\"}}[{WINDOW}])");
    let seen = prometheus.value(&expression)?.with_context(|| format!("{expression} has no value"))?;
    ensure!((seen / sent - 1.0).abs() <= TOLERANCE, "{expression} is {seen:.1}, but {sent} per second were sent");
    Ok(())
}

/// Checks that without traffic, the values in Prometheus are those of `/stats`.
fn agrees(prometheus: &Prometheus, daemon: &Daemon) -> Result<()> {
    let of_stats = || -> Result<_> {
        let totals = daemon.stats()?.totals;
        Ok([totals.syn, totals.dropped, totals.completed].map(|total| Some(total as f64)))
    };
    let of_prometheus = || -> Result<_> {
        let [syn, dropped, completed] =
            ["syn", "dropped", "completed"].map(|total| prometheus.value(&format!("tcpguard_{total}_total")));
        Ok([syn?, dropped?, completed?])
    };
    // The next tick counts the last frames.
    eventually(
        "Prometheus has the values of /stats",
        || Ok((of_prometheus()?, of_stats()?)),
        |(left, right)| left == right,
    )
    .map(drop)
}
