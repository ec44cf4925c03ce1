//! The dashboard, in a browser, during floods.

use std::{path::PathBuf, thread, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use lab::{
    Browser, Client, Daemon, Flood, FloodSpec, Lab, Scene, Setup, Sources,
    network::{CLIENT_IPV4, SERVER_IPV4},
    scene::WEB,
    server::Nginx,
};
use nix::sys::signal::Signal;
use serde_json::Value;

const PAGE: &str = "http://127.0.0.1:9477/";
const DESKTOP: (u32, u32) = (1280, 900);
const PHONE: (u32, u32) = (390, 844);
const IS_LIVE: &str = "document.querySelector('#connection')?.innerText === 'live'";

/// A function that returns how high the line of challenged SYNs reaches, as a share of the chart's height, by its
/// colour.
const CHALLENGED_PEAK: &str = "() => {
    // The chart is drawn after the first paint, later than the page says that it is live.
    const canvas = document.querySelector('.chart canvas');
    if (!canvas) return 0;
    const style = getComputedStyle(document.documentElement);
    const wanted = style.getPropertyValue('--challenged').match(/[0-9a-f]{2}/g).map((part) => parseInt(part, 16));
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    for (let at = 0; at < data.length; at += 4) {
        if (data[at + 3] > 200 && wanted.every((part, index) => Math.abs(part - data[at + index]) < 12)) {
            return 1 - Math.floor(at / 4 / canvas.width) / canvas.height;
        }
    }
    return 0;
}";

/// Opens the dashboard and waits until it is connected to the daemon.
fn open(lab: &Lab, (width, height): (u32, u32)) -> Result<Browser> {
    let mut browser = Browser::start(&lab.server)?;
    browser.size(width, height)?;
    let status = browser.open(PAGE)?;
    ensure!(status == 200, "{status}");
    browser.wait(IS_LIVE)?;
    Ok(browser)
}

/// Saves a picture for the documentation if requested: `TCPGUARD_SCREENSHOTS=$PWD/docs/screenshots`.
fn keep_picture(browser: &mut Browser, name: &str) -> Result<()> {
    match std::env::var_os("TCPGUARD_SCREENSHOTS") {
        Some(folder) => browser.screenshot(&PathBuf::from(folder).join(format!("{name}.png"))),
        None => Ok(()),
    }
}

fn keep_pictures(browser: &mut Browser, name: &str) -> Result<()> {
    for ((width, height), of) in [(DESKTOP, "desktop"), (PHONE, "phone")] {
        browser.size(width, height)?;
        keep_picture(browser, &format!("{name}-{of}"))?;
    }
    browser.size(DESKTOP.0, DESKTOP.1)
}

/// Checks that the page is not wider than the window.
fn fits(browser: &mut Browser) -> Result<()> {
    let excess = browser.evaluate("document.documentElement.scrollWidth - window.innerWidth")?;
    if excess.as_i64().is_none_or(|excess| excess > 0) {
        let wide = "[...document.querySelectorAll('*')].filter((e) => e.getBoundingClientRect().right > innerWidth).map((e) => `${e.tagName}.${e.className}`).slice(0, 9)";
        bail!("the page is {excess} pixels too wide: {}", browser.evaluate(wide)?);
    }
    Ok(())
}

fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[test]
fn numbers_are_those_of_stats() -> Result<()> {
    let lab = Lab::new()?;
    let _nginx = Nginx::start(&lab, &[80])?;
    let daemon = Setup::new(&lab)?.start()?;
    let mut flood = Flood::new(&lab, &FloodSpec::syn(Sources::InTurn("198.18.66.1".parse()?, 3), 80))?;
    flood.send(150)?;
    let stats = daemon.stats_when("all SYNs are counted", |stats| stats.totals.syn == 150)?;
    let mut browser = open(&lab, DESKTOP)?;
    let totals = &stats.totals;
    for (tile, count) in [
        ("syn", totals.syn),
        ("completed", totals.completed),
        ("dropped", totals.dropped),
        ("challenged", totals.challenged),
    ] {
        let shown = browser.text(&format!(".tile.{tile}"))?;
        ensure!(shown.contains(&grouped(count)), "{tile}: {count} is not in {shown:?}");
    }
    let half_open = &daemon.stats()?.half_open;
    let shown = browser.text(".tile.half-open")?;
    for (side, count) in [("kernel", half_open.kernel), ("datapath", half_open.datapath)] {
        let count = grouped(count);
        ensure!(shown.contains(&format!("{side} {count}")), "{side} {count} is not in {shown:?}");
    }
    let rows = browser.texts("#sources tbody tr")?;
    ensure!(rows.len() == 3, "{rows:?}");
    for source in daemon.json("/sources")?.as_array().context("no sources")? {
        let number = |key: &str| grouped(source[key].as_u64().unwrap_or(0));
        let start =
            [source["source"].as_str().unwrap_or_default().to_owned(), number("syn"), number("completed")].join("\t");
        ensure!(rows.iter().any(|row| row.starts_with(&start)), "{start:?} is not in {rows:?}");
    }
    browser.is_content()
}

#[test]
fn an_attack_comes_and_goes_before_ones_eyes() -> Result<()> {
    let scene = Scene::new("")?;
    let mut browser = open(&scene.lab, DESKTOP)?;
    Client::new(&scene.lab).run(WEB, 50, Duration::from_secs(3), || true)?;
    ensure!(browser.text("#state")?.eq_ignore_ascii_case("calm"), "the state is not calm");
    keep_pictures(&mut browser, "calm")?;
    for (name, sources, kind) in [
        ("concentrated", Sources::InTurn("198.18.66.1".parse()?, 10), "concentrated"),
        ("attack", Sources::RANDOM_IPV4, "spoofed"),
    ] {
        let spec = FloodSpec::syn(sources, 80);
        let attack = thread::scope(|scope| -> Result<_> {
            let attack = scope.spawn(|| scene.attack(&spec, 50_000, Duration::from_secs(8)));
            let took = browser.wait("document.querySelector('#banner.attack')")?;
            // This includes the time to prepare the flood.
            ensure!(took < 2000, "{name}: the attack was shown only after {took} ms");
            let shown = browser.wait(&format!("document.querySelector('#kind')?.innerText === '{kind}'"));
            shown.with_context(|| match browser.text("main") {
                Ok(page) => format!("{name}: {page}"),
                Err(error) => format!("{name}: the page cannot be read: {error:#}"),
            })?;
            thread::sleep(Duration::from_secs(4));
            ensure!(
                !browser.texts("#evidence li")?.is_empty() && !browser.texts("#measures li")?.is_empty(),
                "{name}: no evidence or no measures are shown"
            );
            let first = browser.text("#events li")?;
            ensure!(!first.is_empty(), "{name}: no events are shown");
            keep_pictures(&mut browser, name)?;
            browser.size(PHONE.0, PHONE.1)?;
            fits(&mut browser)?;
            browser.size(DESKTOP.0, DESKTOP.1)?;
            attack.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        ensure!(
            attack.client.share() >= 0.99,
            "only {:.3} of the client's connections were served",
            attack.client.share()
        );
        browser.wait("document.querySelector('#banner.calm') && !document.querySelector('#kind')")?;
    }
    let events = browser.text("#events")?;
    ensure!(events.contains("attack started") && events.contains("attack ended"), "{events}");
    browser.colors("dark")?;
    keep_picture(&mut browser, "calm-dark")?;
    // A page that is opened later shows the history.
    let mut late = open(&scene.lab, DESKTOP)?;
    late.is_content()?;
    // Reading pixels back makes the browser log a warning, hence the earlier check.
    late.wait(&format!("({CHALLENGED_PEAK})() > 0.5"))?;
    let history = scene.daemon.json("/history")?;
    let highest =
        |key: &str| history[key].as_array().into_iter().flatten().filter_map(Value::as_f64).fold(0.0, f64::max);
    ensure!(highest("syn_per_second") > 20_000.0, "the history does not contain the flood");
    browser.is_content()
}

#[test]
fn a_source_is_found_by_typing_and_without_a_mouse() -> Result<()> {
    let lab = Lab::new()?;
    let _nginx = Nginx::start(&lab, &[80])?;
    let _daemon = Setup::new(&lab)?.start()?;
    let mut flood = Flood::new(&lab, &FloodSpec::syn(Sources::InTurn("198.18.66.1".parse()?, 100), 80))?;
    flood.send(1000)?;
    Client::new(&lab).run((SERVER_IPV4, 80).into(), 50, Duration::from_secs(1), || true)?;
    let mut browser = open(&lab, DESKTOP)?;
    // The skip link, then the field.
    browser.press("Tab")?;
    browser.press("Enter")?;
    browser.press("Tab")?;
    ensure!(browser.evaluate("document.activeElement.id")? == "find", "the search field does not have the focus");
    browser.fill("#find", "66.77")?;
    browser.wait("[...document.querySelectorAll('#sources tbody tr')].map((row) => row.cells[0].innerText).join() === '198.18.66.77'")?;
    let client = CLIENT_IPV4.to_string();
    browser.fill("#find", &client)?;
    browser.wait(&format!("document.querySelector('.why h3')?.innerText === '{client}'"))?;
    let known = browser.text(".why")?;
    ensure!(known.contains("completed"), "{known}");
    browser.fill("#find", "")?;
    // Next are the table headings, which sort.
    browser.press("Tab")?;
    browser.press("Tab")?;
    browser.press("Enter")?;
    browser.wait("document.querySelector('th[aria-sort=descending]')?.innerText.startsWith('Half open')")?;
    browser.size(PHONE.0, PHONE.1)?;
    fits(&mut browser)?;
    browser.is_content()
}

#[test]
fn a_page_outlives_the_daemon() -> Result<()> {
    let lab = Lab::new()?;
    let daemon = Setup::new(&lab)?.start()?;
    let mut browser = open(&lab, DESKTOP)?;
    daemon.end_for_restart(Signal::SIGTERM)?;
    browser.wait("document.querySelector('#connection.lost')")?;
    ensure!(browser.text("#connection")?.contains("connection lost"), "the page does not report the lost connection");
    let daemon: Daemon = Setup::new(&lab)?.start()?;
    browser.wait(IS_LIVE)?;
    // The browser logs the failed requests itself.
    let problems = browser.problems()?;
    let complaints = problems["complaints"].as_array().context("complaints is not a list")?;
    ensure!(
        complaints.iter().all(|one| one.as_str().is_some_and(|one| one.contains("Failed to load resource"))),
        "{problems}"
    );
    // The new daemon serves the page.
    let (status, _) = daemon.get("/")?;
    ensure!(status == 200, "{status}");
    Ok(())
}
