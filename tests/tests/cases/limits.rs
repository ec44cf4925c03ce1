//! The limits that tcpguard sets itself: the memory of its maps (`limits.memory`) and its share of a core in calm
//! (`limits.cpu_share`).

use std::{collections::BTreeMap, fs, net::Ipv4Addr, path::Path, thread::sleep, time::Duration};

use anyhow::{Context, Result, ensure};
use aya::programs::TestRunOptions;
use bytesize::ByteSize;
use lab::{
    Daemon, FloodSpec, Lab, Scene, Setup, Sources, eventually, frame::Frame, machine_lock::lock_machine,
    network::SERVER_INTERFACE,
};
use tcpguard::{
    api::model::Stats,
    config::{Config, MemoryLimit},
    datapath::{Datapath, DatapathOptions, MapMemory},
};
use tcpguard_common::abi::{by_cpu, port::place_in_slabs};

/// Maps smaller than this may take more than is calculated: the kernel's own structures count.
const SMALL: u64 = 64 * 1024;
/// By how much what is calculated may differ from what the kernel has allocated.
const EXACT: f64 = 0.05;

/// Compares what `/stats` says with what the kernel says. Fails on a tcpguard that says nothing.
#[test]
fn the_memory_of_each_map_is_what_the_kernel_says() -> Result<()> {
    let lab = Lab::new()?;
    let daemon = Setup::new(&lab)?.start()?;
    let stats = daemon.stats()?;
    let allocated = allocated(&daemon)?;
    for item in stats.memory.items.iter().filter(|item| item.bytes >= SMALL) {
        // The kernel cuts names off.
        let name = &item.item[..item.item.len().min(15)];
        let allocated = *allocated.get(name).with_context(|| format!("the daemon has no map {name}"))? as f64;
        let said = item.bytes as f64;
        ensure!((said / allocated - 1.0).abs() < EXACT, "{name}: {said} bytes are said, {allocated} allocated");
    }
    let (said, all) = (stats.memory.bytes as f64, allocated.values().sum::<u64>() as f64);
    println!("{:.1} MiB are said, {:.1} MiB allocated", said / 1048576.0, all / 1048576.0);
    ensure!((said / all - 1.0).abs() < EXACT, "{said} bytes are said, {all} allocated");
    ensure!(stats.memory.bytes <= stats.memory.limit_bytes, "{:?}", stats.memory);

    let status = String::from_utf8(daemon.tcpguard(&["status"])?.stdout)?;
    ensure!(status.contains("in maps (sources "), "{status}");
    let doctor = String::from_utf8(daemon.tcpguard(&["doctor"])?.stdout)?;
    ensure!(doctor.contains("memory") && doctor.contains("sources "), "{doctor}");
    Ok(())
}

/// Returns what the kernel has allocated for each map of the daemon, by its name in lower case.
fn allocated(daemon: &Daemon) -> Result<BTreeMap<String, u64>> {
    let folder = Path::new("/proc").join(daemon.id().to_string());
    let mut allocated = BTreeMap::new();
    for entry in fs::read_dir(folder.join("fdinfo"))? {
        let entry = entry?;
        // A descriptor may be closed meanwhile.
        let Ok(info) = fs::read_to_string(entry.path()) else { continue };
        let value = |key: &str| info.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        let (Some(bytes), Some(id)) = (value("memlock:"), value("map_id:")) else { continue };
        allocated.insert(id.to_owned(), bytes.parse::<u64>()?);
    }
    let names = map_names()?;
    Ok(allocated.into_iter().filter_map(|(id, bytes)| Some((names.get(&id)?.to_lowercase(), bytes))).collect())
}

/// Returns the name of each map of the kernel, by its id.
fn map_names() -> Result<BTreeMap<String, String>> {
    let maps = aya::maps::loaded_maps();
    maps.map(|map| {
        let map = map?;
        Ok((map.id().to_string(), map.name_as_str().unwrap_or_default().to_owned()))
    })
    .collect()
}

/// Fails on a tcpguard that allocates whatever the configuration asks for.
#[test]
fn a_start_that_would_take_too_much_memory_is_refused() -> Result<()> {
    let lab = Lab::new()?;
    let text = format!("interfaces = [\"{SERVER_INTERFACE}\"]\n[limits]\nmemory = \"40 MiB\"\n");
    let setup = Setup::new(&lab)?.whole_config(&text);
    let output = setup.run_to_end()?;
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(2), "{output}");
    for part in ["limits.memory allows 40.0 MiB", "limits.max_sources", "raise limits.memory"] {
        ensure!(message.contains(part), "\"{part}\" is missing: {message}");
    }
    let checked = setup.tcpguard(&["check"])?;
    ensure!(checked.status.code() == Some(2), "{checked}");
    let link = lab.server.command("ip").args(["-d", "link", "show", SERVER_INTERFACE]).output()?;
    ensure!(!String::from_utf8_lossy(&link.stdout).contains("prog/xdp"), "something is attached");

    let _daemon = setup.config(&format!("{text}max_sources = 16384\n")).start()?;
    Ok(())
}

#[test]
fn a_limit_that_cannot_be_read_is_refused_with_an_example() -> Result<()> {
    let lab = Lab::new()?;
    let setup = Setup::new(&lab)?.whole_config("[limits]\nmemory = \"a lot\"\n");
    let output = setup.run_to_end()?;
    ensure!(output.status.code() == Some(2), "{output}");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(message.contains("tcpguard.toml:2:10:") && message.contains("\"256 MiB\""), "{message}");
    Ok(())
}

/// Where rows for all CPUs would take too much memory, CPUs share one, and count what they would count otherwise.
#[tokio::test]
async fn cpus_that_share_a_row_count_exactly() -> Result<()> {
    const SYNS: u32 = 300_000;
    const PORT: u16 = 80;
    let _machine = lock_machine()?;
    let options = DatapathOptions { pins: None, max_sources: 4096, ..DatapathOptions::of(&Config::default()) };
    let of_all = MapMemory::of_options(&options)?;
    let rows: u64 = of_all.maps.iter().filter(|size| is_by_cpu(&size.map)).map(|size| size.bytes).sum();
    let one_row = rows / u64::from(by_cpu::rows(of_all.cpus));
    let least = ByteSize::b(of_all.bytes() - rows + one_row * 3 / 2);
    let options = DatapathOptions { memory: MemoryLimit::AtMost(least), ..options };
    let (mut datapath, maps) = Datapath::load(&options)?;
    ensure!(datapath.memory.cpus == 0, "{} CPUs have a row of their own", datapath.memory.cpus);
    datapath.take_effect()?;

    let frame = Frame::syn(Ipv4Addr::new(198, 18, 0, 2).into(), Ipv4Addr::new(198, 18, 0, 1).into(), PORT).build();
    std::thread::scope(|scope| {
        let run = || -> Result<()> {
            let options = TestRunOptions { data_in: Some(&frame.bytes), repeat: SYNS, ..TestRunOptions::new() };
            datapath.run_packet_program(options)?;
            Ok(())
        };
        let runs = [scope.spawn(run), scope.spawn(run)];
        runs.into_iter().try_for_each(|run| run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    let (slab, _) = place_in_slabs(PORT.into());
    let counted = maps.observed.ports.read_syn(slab)?;
    let counted: Vec<(u32, u64)> = counted.into_iter().map(|(port, syns)| (port, syns.syn)).collect();
    ensure!(counted == [(u32::from(PORT), 2 * u64::from(SYNS))], "{counted:?}");
    Ok(())
}

fn is_by_cpu(map: &str) -> bool {
    by_cpu::ALL.iter().any(|by_cpu| by_cpu.map == map)
}

/// Fails on a tcpguard that looks as often whatever it costs.
#[test]
fn a_daemon_that_costs_too_much_looks_less_often_and_says_so() -> Result<()> {
    let scene = Scene::new("[limits]\ncpu_share = 0.001\nheartbeat_timeout = \"30s\"")?;
    let (daemon, said) = (&scene.daemon, || scene.events("looking_less_often"));
    // The share is measured over ten seconds.
    sleep(Duration::from_secs(6));
    eventually("the daemon says that it looks less often", said, |events| !events.is_empty())?;
    let message = said()?[0]["message"].to_string();
    ensure!(message.contains("limits.cpu_share (0.1 %)"), "{message}");
    let before = daemon.stats()?.cost.ticks;
    sleep(Duration::from_secs(6));
    let ticks = daemon.stats()?.cost.ticks - before;
    ensure!(ticks <= 5, "{ticks} ticks within 6 s, one of them for each of the two questions");

    // An attack is noticed as quickly as ever.
    let mut flood = scene.flood(&FloodSpec::one_source(9))?;
    flood.send(600)?;
    sleep(Duration::from_millis(300));
    ensure!(!scene.events("attack_started")?.is_empty(), "no attack within 0.3 s");
    Ok(())
}

/// The parts add up to what the daemon uses, but for its start.
#[test]
fn the_cost_is_told_by_part() -> Result<()> {
    let scene = Scene::new("")?;
    let total = |stats: &Stats| {
        let parts = &stats.cost.parts;
        [parts.tick_seconds, parts.rows_seconds, parts.maps_seconds, parts.http_seconds].iter().sum::<f64>()
    };
    let before = scene.daemon.stats()?;
    scene.flood(&FloodSpec::syn(Sources::RANDOM_IPV4, 80))?.send_at(20_000, Duration::from_secs(3))?;
    for _ in 0..20 {
        scene.daemon.get("/metrics")?;
    }
    sleep(Duration::from_millis(1100));
    let after = scene.daemon.stats()?;
    let (parts, all) = (total(&after) - total(&before), after.cost.cpu_seconds - before.cost.cpu_seconds);
    println!("{parts:.3} s in parts, {all:.3} s in all: {:?}", after.cost.parts);
    ensure!((0.5..=1.2).contains(&(parts / all)), "{parts} s in parts, {all} s in all");
    ensure!(after.cost.parts.rows_seconds > 0.0 && after.cost.parts.maps_seconds > 0.0, "{:?}", after.cost.parts);
    let metrics = scene.daemon.get("/metrics")?.1;
    ensure!(metrics.contains("tcpguard_cpu_part_seconds_total{part=\"http\"}"), "{metrics}");
    ensure!(metrics.contains("tcpguard_map_memory_bytes{map=\"sources\"}"), "{metrics}");
    Ok(())
}
