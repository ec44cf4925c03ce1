//! `tcpguard explain` and `tcpguard why` are correct, and change nothing.

use std::{collections::BTreeSet, fs::File, io::Write, net::IpAddr, thread::sleep, time::Duration};

use anyhow::{Result, ensure};
use lab::{
    Client, Daemon, Finished, Flood, FloodSpec, Lab, Setup, Sources, Stats,
    daemon::tcpguard,
    eventually, finish,
    fixtures::{drop_table, ipv4, ipv6, table},
    frame::Frame,
    loaded::{LoadedDatapath, challenge_terms},
    network::{CLIENT_IPV4, SERVER_IPV4},
    server::Nginx,
};
use serde_json::Value;
use tcpguard::{
    explain::{Explainer, Stage, Verdict, decided_by},
    lists::replace_rules,
};
use tcpguard_common::{
    abi::{
        counters::Counter,
        lease::{Lease, flag},
        port::port_flag,
        rule::{FOREVER, Rule},
    },
    address::Address,
    tracking::bucket::Rate,
};

fn runtime() -> Result<tokio::runtime::Runtime> {
    // The ring buffer registers with tokio.
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// Runs a frame and returns the kernel's verdict and the counters that increased.
fn run(guard: &LoadedDatapath, frame: &[u8]) -> Result<(u32, Vec<Counter>)> {
    let before = guard.maps.observed.counts.read()?;
    let verdict = guard.datapath.test_run(frame)?;
    let after = guard.maps.observed.counts.read()?;
    let changed = Counter::ALL.iter().copied().filter(|counter| after.get(*counter) > before.get(*counter));
    Ok((verdict, changed.filter(|counter| *counter != Counter::Packets).collect()))
}

#[test]
fn explanations_are_what_the_kernel_returns() -> Result<()> {
    let runtime = runtime()?;
    let _entered = runtime.enter();
    let mut guard = LoadedDatapath::load()?;
    let mut frames: Vec<(String, Vec<u8>)> = table().into_iter().map(|(name, frame, _)| (name, frame)).collect();
    for (family, plain) in [("IPv4", ipv4()), ("IPv6", ipv6())] {
        frames.extend(drop_table(family, &plain).into_iter().map(|(name, frame, _)| (name, frame)));
        frames.push((format!("{family} SYN"), plain.build().bytes));
        frames.push((format!("{family} SYN again"), plain.build().bytes));
    }
    for flags in [0, flag::LIMIT | flag::DROP_PAYLOAD, flag::LIMIT | flag::DROP_PAYLOAD | flag::DROP] {
        guard.grant_lease(flags)?;
        let nobody = |_: IpAddr| Vec::new();
        let mut explainer = Explainer::new(&guard.maps.live, &nobody)?;
        for (name, frame) in &frames {
            let before = guard.maps.observed.counts.read()?;
            let explained = explainer.explain(frame)?;
            ensure!(guard.maps.observed.counts.read()? == before, "{name}: the explanation was counted");
            let (verdict, counted) = run(&guard, frame)?;
            ensure!(
                explained.verdict == Verdict::of(verdict),
                "{name}: {explained:?}, but the kernel's verdict is {verdict}"
            );
            ensure!(
                explained.stage == decided_by(&counted),
                "{name}: {explained:?}, but it was counted as {counted:?}"
            );
            ensure!(explained.counted_as == counted, "{name}: {explained:?}, but it was counted as {counted:?}");
            ensure!(
                !explained.reason.is_empty() && !explained.packet.is_empty(),
                "{name}: no reason or no description of the packet"
            );
        }
    }
    Ok(())
}

#[test]
fn explanations_know_what_is_remembered() -> Result<()> {
    let runtime = runtime()?;
    let _entered = runtime.enter();
    let mut guard = LoadedDatapath::load()?;
    let frame =
        |source: &str, port: u16| -> Result<Frame> { Ok(Frame::syn(source.parse()?, SERVER_IPV4.into(), port)) };
    let flags = flag::DROP | flag::LIMIT | flag::RULES | flag::CHALLENGE | flag::LOCAL_KNOWN;
    // A rate so low that a source that exceeded it remains above it for the rest of the test.
    let rate = Rate::new(1, guard.datapath.ticks_per_second);
    guard.maps.lease.grant(&Lease { valid_until: u64::MAX, flags, generation: 1, rate, ..Lease::NONE })?;
    guard.maps.local.set(&[IpAddr::from(SERVER_IPV4).into()].into(), &BTreeSet::new())?;
    let anywhere = port_flag::ANY_IPV4 | port_flag::ANY_IPV6 | port_flag::TIMESTAMPS;
    let terms = [port_flag::COOKIE, port_flag::RETRANSMIT].map(|how| challenge_terms(how | anywhere));
    let terms = [(443, Some(terms[0])), (444, Some(terms[1]))];
    guard.maps.challenges.set_terms(&terms.into())?;
    let address = |text: &str| -> Result<Address> { Ok(text.parse::<IpAddr>()?.into()) };
    guard.datapath.block(address("198.18.1.1")?, FOREVER)?;
    let rules = [
        ("198.18.2.0/24".parse()?, Rule { denied_until: FOREVER, ..Rule::default() }),
        ("198.18.2.7".parse()?, Rule { is_allowed: 1, ..Rule::default() }),
        ("198.18.3.0/24".parse()?, Rule { blocked_until: FOREVER, ..Rule::default() }),
    ];
    replace_rules(&mut guard.maps.rules, &[], &rules)?;
    let beyond = frame("198.18.4.1", 80)?;
    for port in 0..2500 {
        guard.datapath.test_run(&Frame { source_port: 1000 + port, ..beyond.clone() }.build().bytes)?;
    }
    let nobody = |_: IpAddr| Vec::new();
    let mut explainer = Explainer::new(&guard.maps.live, &nobody)?;
    for (name, frame, stage) in [
        ("blocked", frame("198.18.1.1", 80)?, Stage::Block),
        ("denied", frame("198.18.2.1", 80)?, Stage::Lists),
        ("allowed", frame("198.18.2.7", 80)?, Stage::Account),
        // An allowed address may be forged, and a cookie costs a client nothing.
        ("allowed, and challenged with a cookie", frame("198.18.2.7", 443)?, Stage::Challenge),
        ("allowed, where first SYNs are dropped", frame("198.18.2.7", 444)?, Stage::Account),
        ("of a blocked network", frame("198.18.3.1", 80)?, Stage::Block),
        ("beyond its limit", frame("198.18.4.1", 80)?, Stage::RateLimit),
        ("challenged with a cookie", frame("198.18.5.1", 443)?, Stage::Challenge),
        ("challenged by waiting", frame("198.18.5.1", 444)?, Stage::Challenge),
        (
            "for another host",
            Frame { destination: "198.18.9.9".parse()?, ..frame("198.18.5.2", 80)? },
            Stage::Destination,
        ),
        ("let in", frame("198.18.5.3", 80)?, Stage::Account),
    ] {
        // The source stays above its limit: a token is left after each second.
        guard.datapath.test_run(&Frame { source_port: 999, ..beyond.clone() }.build().bytes)?;
        let frame = frame.build().bytes;
        let explained = explainer.explain(&frame)?;
        let (verdict, counted) = run(&guard, &frame)?;
        ensure!(explained.stage == stage, "{name}: {explained:?}");
        ensure!(
            explained.verdict == Verdict::of(verdict),
            "{name}: {explained:?}, but the kernel's verdict is {verdict}"
        );
        ensure!(explained.counted_as == counted, "{name}: {explained:?}, but it was counted as {counted:?}");
    }
    Ok(())
}

fn said(output: &Finished) -> (String, String) {
    (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn explain(daemon: &Daemon, packet: &[&str]) -> Result<Value> {
    let output = tcpguard(&[&["explain", "--json"], packet].concat(), &daemon.socket())?;
    let (text, error) = said(&output);
    ensure!(output.status.success(), "{packet:?}: {error}");
    let explained: Value = serde_json::from_str(&text)?;
    Ok(explained[0].clone())
}

fn command(daemon: &Daemon, arguments: &[&str]) -> Result<String> {
    let output = tcpguard(arguments, &daemon.socket())?;
    let (text, error) = said(&output);
    ensure!(output.status.success(), "{arguments:?}: {error}");
    Ok(text)
}

/// Checks how a SYN from `source` is explained, and that the explanation changes no counter.
fn expect(daemon: &Daemon, source: &str, (stage, verdict, word): (&str, &str, &str)) -> Result<()> {
    let before = daemon.stats()?;
    let explained = explain(daemon, &[&format!("{source}:4000"), &format!("{SERVER_IPV4}:80")])?;
    ensure!(explained["stage"] == stage && explained["verdict"] == verdict, "{source}: {explained}");
    ensure!(explained["reason"].as_str().is_some_and(|reason| reason.contains(word)), "{source}: {explained}");
    let after = daemon.stats()?;
    let counts = |stats: &Stats| {
        let json = serde_json::to_value(stats)?;
        let mut counts = ["totals", "drops", "would_drop"].map(|what| of_tcp(&json[what]));
        // The kernel retransmits SYN-ACKs to the flood meanwhile.
        counts[0]["retried"] = Value::Null;
        anyhow::Ok(counts)
    };
    for (before, after) in counts(&before)?.into_iter().zip(counts(&after)?) {
        ensure!(before == after, "{source}: the explanation was counted: {before} {after}");
    }
    Ok(())
}

/// Removes the counts of all frames, which also include the lab's ARP and neighbour discovery.
fn of_tcp(counts: &Value) -> Value {
    let mut counts = counts.clone();
    if let Some(counts) = counts.as_object_mut() {
        counts.retain(|name, _| !["packets", "passed"].contains(&name.as_str()));
    }
    counts
}

#[test]
fn a_daemon_says_what_it_would_do_and_why() -> Result<()> {
    let lab = Lab::new()?;
    let _nginx = Nginx::start(&lab, &[80])?;
    let daemon = Setup::new(&lab)?.start()?;
    Client::new(&lab).fetch((SERVER_IPV4, 80).into())?;
    command(&daemon, &["block", "198.18.50.0/24", "--reason", "they scan"])?;
    command(&daemon, &["allow", "198.18.50.7"])?;
    let quiet = |stats: &Stats| stats.totals.completed == 1;
    daemon.stats_when("the client's handshake is counted", quiet)?;
    let client = CLIENT_IPV4.to_string();
    expect(&daemon, "198.18.60.1", ("account", "pass", "nothing was remembered"))?;
    expect(&daemon, &client, ("account", "pass", "proven until"))?;
    expect(&daemon, "198.18.50.1", ("rules", "drop", "198.18.50.0/24 is on the deny list, by manual"))?;
    expect(&daemon, "198.18.50.7", ("account", "pass", "198.18.50.7 is on the allow list"))?;
    let elsewhere = explain(&daemon, &["198.18.60.1:4000", "198.18.99.99:80"])?;
    ensure!(elsewhere["stage"] == "destination", "{elsewhere}");
    let stray = explain(&daemon, &["198.18.60.1:4000", "198.18.0.1:80", "--segment", "ack"])?;
    ensure!(stray["stage"] == "not_a_syn" && stray["verdict"] == "pass", "{stray}");

    let why = command(&daemon, &["why", "198.18.50.1"])?;
    ensure!(why.contains("Its SYNs are dropped: 198.18.50.0/24 is on the deny list"), "{why}");
    ensure!(why.contains("they scan") && why.contains("To let it in: tcpguard unblock 198.18.50.0/24"), "{why}");
    let why = command(&daemon, &["why", &client])?;
    ensure!(why.contains("not challenged: it completed a handshake of late"), "{why}");

    // Under attack, the flood's sources are blocked.
    let mut flood = Flood::new(&lab, &FloodSpec::syn(Sources::InTurn("198.18.66.1".parse()?, 3), 80))?;
    flood.send(3000)?;
    daemon.stats_when("the sources are blocked, and all their SYNs are counted", |stats| {
        let totals = &stats.totals;
        stats.measures.blocks >= 3 && totals.syn == 1 + 3000 && totals.packets == totals.passed + totals.dropped
    })?;
    expect(&daemon, "198.18.66.1", ("block", "drop", "its source is blocked until"))?;
    let why = command(&daemon, &["why", "198.18.66.1"])?;
    ensure!(why.contains("198.18.66.1 is blocked") && why.contains("tcpguard unblock 198.18.66.1"), "{why}");
    for (packet, word) in [("198.18.66.300", "invalid"), ("everybody", "invalid")] {
        let output = tcpguard(&["why", packet], &daemon.socket())?;
        ensure!(output.status.code() == Some(2) && said(&output).1.contains(word), "{:?}", said(&output));
    }
    Ok(())
}

#[test]
fn strangers_are_told_to_be_challenged() -> Result<()> {
    let lab = Lab::new()?;
    let _nginx = Nginx::start(&lab, &[80])?;
    let config = "interfaces = [\"lab-server\"]\n[challenge]\nmode = \"always\"\n";
    let daemon = Setup::new(&lab)?.config(config).start()?;
    daemon.stats_when("port 80 is challenged", |stats| {
        stats.measures.challenge.ports.iter().any(|port| port.port == 80)
    })?;
    expect(&daemon, "198.18.60.1", ("challenge", "answer", "answered with a cookie: port 80"))?;
    Client::new(&lab).fetch((SERVER_IPV4, 80).into())?;
    daemon.stats_when("the client's handshake is counted", |stats| stats.totals.completed == 1)?;
    // The end of its connection is counted as well, before the counters are compared.
    let seen = || -> Result<_> {
        let before = daemon.stats()?.totals.packets;
        sleep(Duration::from_millis(300));
        Ok((before, daemon.stats()?.totals.packets))
    };
    eventually("nothing arrives any more", seen, |(before, after)| before == after)?;
    expect(&daemon, &CLIENT_IPV4.to_string(), ("account", "pass", "proven until"))?;
    let stray = explain(&daemon, &["198.18.60.1:4000", "198.18.0.1:80", "--segment", "ack"])?;
    ensure!(stray["stage"] == "guard" && stray["verdict"] == "drop", "{stray}");
    Ok(())
}

/// Returns a capture file with these frames and this link type.
fn pcap(link: u32, frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, link] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    for frame in frames {
        for word in [0, 0, frame.len() as u32, frame.len() as u32] {
            file.extend_from_slice(&word.to_le_bytes());
        }
        file.extend_from_slice(frame);
    }
    file
}

#[test]
fn captures_good_and_bad_are_handled() -> Result<()> {
    let lab = Lab::new()?;
    let _nginx = Nginx::start(&lab, &[80])?;
    let daemon = Setup::new(&lab)?.start()?;
    let folder = tempfile::tempdir()?;
    let frames: Vec<Vec<u8>> = table().into_iter().map(|(_, frame, _)| frame).collect();
    let file = |name: &str, content: &[u8]| -> Result<String> {
        let path = folder.path().join(name);
        std::fs::write(&path, content)?;
        Ok(path.display().to_string())
    };
    let whole = pcap(1, &frames);
    let explained = command(&daemon, &["explain", &file("whole.pcap", &whole)?])?;
    ensure!(explained.lines().count() == 2 * frames.len(), "{explained}");
    let hex: String = frames[0].iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(command(&daemon, &["explain", &hex])?.contains("pass at not_a_syn"), "{hex}");

    let ask = |path: &str| -> Result<(Option<i32>, String, String)> {
        let output = tcpguard(&["explain", path], &daemon.socket())?;
        let (text, error) = said(&output);
        Ok((output.status.code(), text, error))
    };
    let (code, text, error) = ask(&file("cut.pcap", &whole[..whole.len() - 3])?)?;
    ensure!(code == Some(0) && text.lines().count() == 2 * (frames.len() - 1), "{code:?} {text}");
    ensure!(error.contains(&format!("breaks off after {} packets", frames.len() - 1)), "{error}");
    for (name, content, word) in [
        ("wireless.pcap", pcap(105, &frames), "link type"),
        ("text.pcap", b"this is no capture, but some text".to_vec(), "no capture"),
        ("empty.pcap", pcap(1, &[]), "has no packet"),
        ("nothing.pcap", Vec::new(), "no capture"),
        ("header.pcap", whole[..20].to_vec(), "within its header"),
    ] {
        let (code, _, error) = ask(&file(name, &content)?)?;
        ensure!(code == Some(1) && error.contains(word), "{name}: {code:?} {error}");
    }
    let (code, _, error) = ask("/nonexistent.pcap")?;
    ensure!(code == Some(2) && error.contains("there is no file"), "{code:?} {error}");

    // A capture of 1 GiB: only as many packets as requested are read.
    let long = folder.path().join("long.pcap");
    let mut writer = File::create(&long)?;
    let part = pcap(1, &frames)[24..].repeat(50);
    writer.write_all(&whole[..24])?;
    writer.write_all(&part)?;
    writer.set_len(1 << 30)?;
    let path = long.display().to_string();
    let output = tcpguard(&["explain", "--limit", "1000", &path], &daemon.socket())?;
    let (text, error) = said(&output);
    ensure!(output.status.success() && text.lines().count() == 2000, "{error}");
    ensure!(error.contains("only the first 1000 packets"), "{error}");
    Ok(())
}

#[test]
fn without_a_daemon_the_configuration_alone_is_explained() -> Result<()> {
    let lab = Lab::new()?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("tcpguard.toml");
    std::fs::write(&file, "[lists]\ndeny = [\"198.18.50.0/24\", \"2001:db8:50::/48\"]\n")?;
    for (source, destination, network) in [
        ("198.18.50.1:4000", "198.18.0.1:80", "198.18.50.0/24"),
        ("[2001:db8:50:1::1]:4000", "[2001:db8::1]:80", "2001:db8:50::/48"),
    ] {
        let mut command = lab.server.command(lab::build::binary()?);
        command.arg("--config").arg(&file);
        command.args(["explain", "--socket", "/nonexistent.sock", source, destination]);
        let output = finish(&mut command)?;
        let (text, error) = said(&output);
        ensure!(output.status.success(), "{error}");
        let expected = format!("drop at rules: dropped: {network} is on the deny list, by configuration");
        ensure!(text.contains(&expected), "{text}");
        ensure!(error.contains("the configuration alone"), "{error}");
    }
    Ok(())
}
