//! Generates the pages under `docs/reference` from the code. The tests here compare them with the files; `cargo xtask
//! docs` rewrites them.

mod api;
mod configuration;

use std::{fmt::Write, sync::Arc};

use clap_markdown::MarkdownOptions;
use documented::DocumentedVariants;
use expect_test::expect_file;
use tcpguard_common::abi::counters::{Cause, DropReason, Stage};

use crate::{
    api::model::{Stats, sample},
    events::EventKind,
    metrics::{Format, encode},
};

fn page(title: &str, text: &str) -> String {
    format!("# {title}\n\n*Generated from the code by `cargo xtask docs`.*\n\n{}\n", text.trim_end())
}

/// Returns a doc comment as a table cell.
fn cell(doc: &str) -> String {
    doc.split('\n').map(str::trim).collect::<Vec<_>>().join(" ").replace('|', "\\|").trim().to_owned()
}

#[test]
fn configuration() {
    expect_file!["../../../docs/reference/configuration.md"]
        .assert_eq(&page("Configuration", &configuration::describe()));
}

#[test]
fn api() {
    expect_file!["../../../docs/reference/api.md"].assert_eq(&page("HTTP", &api::describe()));
}

#[test]
fn commands() {
    let options = MarkdownOptions::new().title("Commands".to_owned()).show_footer(false).show_table_of_contents(false);
    let text = clap_markdown::help_markdown_command_custom(&crate::cli::command(), &options);
    let (_, text) = text.split_once('\n').expect("a title");
    let preface = "Exit codes: 0 on success; 1 on failure, or if `doctor` found problems; 2 for wrong usage or an invalid configuration, with nothing changed.\n\n";
    expect_file!["../../../docs/reference/commands.md"]
        .assert_eq(&page("Commands", &format!("{preface}{}", text.trim())));
}

#[test]
fn events() {
    let mut text = "The events shown by `tcpguard events`, `GET /events` and the dashboard. Each kind is limited to a burst of 50, and \
        to five events per second after that.\n\n| kind | what happened |\n| --- | --- |\n"
        .to_owned();
    for kind in EventKind::ALL {
        let doc = kind.get_variant_docs();
        writeln!(text, "| `{}` | {} |", kind.name(), cell(doc)).expect("written");
    }
    expect_file!["../../../docs/reference/events.md"].assert_eq(&page("Events", &text));
}

#[test]
fn drops() {
    let mut text = "Why a frame is dropped: `drops` and `would_drop` in `/stats`, `tcpguard_drops_total` and \
        `tcpguard_would_drops_total` in `/metrics`. The stages are those of `tcpguard explain`, in the order in which a \
        packet passes them.\n\n\
        | reason | what is dropped | stage | based on |\n| --- | --- | --- | --- |\n"
        .to_owned();
    for stage in Stage::ALL {
        for reason in DropReason::ALL.iter().filter(|reason| reason.stage() == *stage) {
            let cause = match reason.cause() {
                Cause::Invalid => "the frame alone",
                Cause::Operator => "an operator's list entry",
                Cause::Judgement => "a judgement",
                Cause::Stray => "the kernel's connections",
                Cause::Answer => "a challenge of tcpguard's own",
                Cause::Closed => "a flood of ports without a listener",
            };
            writeln!(text, "| `{}` | {} | `{}` | {cause} |", reason.name(), cell(reason.what()), stage.name())
                .expect("written");
        }
    }
    expect_file!["../../../docs/reference/drops.md"].assert_eq(&page("Drop reasons", &text));
}

#[test]
fn metrics() {
    struct Page(Stats);
    impl AsRef<Stats> for Page {
        fn as_ref(&self) -> &Stats {
            &self.0
        }
    }
    let metrics = encode(Arc::new(Page(sample())), Format::Text).expect("metrics");
    let mut text = "The metrics served by `GET /metrics`: as OpenMetrics if the client accepts it, in the Prometheus text format otherwise. \
        All values come from one snapshot and agree with `/stats`. Counters of the datapath start when it is attached and \
        continue across takeovers; counters of the daemon start with the daemon, `tcpguard_kernel_tcp_total` with the \
        network namespace.\n\n\
        | metric | type | labels | meaning |\n| --- | --- | --- | --- |\n"
        .to_owned();
    for line in metrics.lines().filter_map(|line| line.strip_prefix("# HELP ")) {
        let (name, help) = line.split_once(' ').expect("name and help");
        let kind = metrics.lines().find_map(|line| line.strip_prefix(&format!("# TYPE {name} "))).expect("a type");
        writeln!(text, "| `{name}` | {kind} | {} | {} |", labels(&metrics, name), cell(help.trim_end_matches('.')))
            .expect("written");
    }
    expect_file!["../../../docs/reference/metrics.md"].assert_eq(&page("Metrics", &text));
}

/// Returns the names of a metric's labels, as a table cell.
fn labels(metrics: &str, name: &str) -> String {
    let labelled = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('{')?.split_once('}'));
    let labels = labelled.map_or("", |(labels, _)| labels);
    let names: Vec<String> =
        labels.split("\",").filter_map(|label| label.split_once('=')).map(|(name, _)| format!("`{name}`")).collect();
    names.join(", ")
}

#[test]
fn manual_pages_and_completions_are_made() {
    let folder = tempfile::tempdir().expect("a folder");
    clap_mangen::generate_to(crate::cli::command(), folder.path()).expect("pages");
    let page = std::fs::read_to_string(folder.path().join("tcpguard-half-open.1")).expect("a page for a command");
    assert!(page.contains("SYN_RECV"), "{page}");
    for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut crate::cli::command(), "tcpguard", &mut script);
        assert!(String::from_utf8_lossy(&script).contains("half-open"), "{shell}");
    }
}
