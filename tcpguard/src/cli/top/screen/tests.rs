//! Snapshots of the screen, in the directory `snapshots`.

use crossterm::event::{KeyCode, KeyEvent};
use insta::assert_snapshot;
use ratatui::{Terminal, backend::TestBackend};

use super::*;
use crate::{
    api::model::sample,
    cli::top::keys::{Reaction, press},
    events::{Event, EventKind},
};

fn view(stats: Stats) -> View {
    let mut view = View::new(Sort::Syn, "");
    view.sources.clone_from(&stats.sources);
    view.rates = (0..200).map(|second| second % 37 * 100).collect();
    view.events.push_front(Event {
        id: 1,
        time: stats.time,
        kind: EventKind::AttackStarted,
        message: "an attack began (spoofed)".to_owned(),
        subject: None,
        attack: None,
        evidence: Vec::new(),
        watch_only: false,
    });
    view.stats = Some(stats);
    view
}

fn calm() -> Stats {
    let mut stats = sample();
    stats.attack = None;
    stats.state = "calm".to_owned();
    (stats.half_open.kernel, stats.half_open.datapath) = (3, 4);
    stats.measures.challenge.ports.clear();
    stats.measures.kernel_settings.clear();
    stats.measures.blocks = 0;
    stats
}

fn drawn(view: &View, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal.draw(|frame| draw(view, frame)).expect("drawn");
    terminal.backend().to_string()
}

#[test]
fn an_attack() {
    assert_snapshot!(drawn(&view(sample()), 110, 32));
}

#[test]
fn calm_on_a_small_terminal() {
    assert_snapshot!(drawn(&view(calm()), 80, 20));
}

#[test]
fn twenty_columns_show_the_essentials() {
    assert_snapshot!(drawn(&view(sample()), 20, 8));
}

#[test]
fn no_daemon() {
    let mut view = View::new(Sort::Syn, "");
    view.problem = Some("tcpguard cannot be reached at /run/tcpguard/tcpguard.sock".to_owned());
    assert_snapshot!(drawn(&view, 60, 6));
}

#[test]
fn a_daemon_that_went_away() {
    let mut view = view(calm());
    view.problem = Some("the daemon has ended".to_owned());
    assert_snapshot!(drawn(&view, 100, 18));
}

#[test]
fn every_size_is_drawn() {
    let view = view(sample());
    for width in 1..130 {
        for height in 1..40 {
            drawn(&view, width, height);
        }
    }
}

#[test]
fn an_event_of_another_day_has_its_date() {
    let now: Timestamp = "2026-11-20T19:33:26Z".parse().expect("a time");
    let zone = TimeZone::fixed(jiff::tz::offset(2));
    let shown = |text: &str| when(text.parse().expect("a time"), now, &zone);
    assert_eq!(shown("2026-11-20T08:00:00Z"), "10:00:00");
    assert_eq!(shown("2026-11-19T08:00:00Z"), "2026-11-19 10:00:00");
}

#[test]
fn keys_sort_find_and_quit() {
    let mut view = view(sample());
    let type_in = |view: &mut View, code| press(view, KeyEvent::from(code));
    assert_eq!(type_in(&mut view, KeyCode::Char('s')), Reaction::Stay);
    assert_eq!(view.sort, Sort::HalfOpen);
    type_in(&mut view, KeyCode::Char('/'));
    for character in "66.2q".chars() {
        type_in(&mut view, KeyCode::Char(character));
    }
    assert_eq!(view.filter, "66.2");
    assert_eq!(view.wanted_sources().len(), 1);
    type_in(&mut view, KeyCode::Enter);
    assert_snapshot!(drawn(&view, 90, 18));
    type_in(&mut view, KeyCode::Esc);
    assert_eq!(view.filter, "");
    type_in(&mut view, KeyCode::PageDown);
    assert_eq!(view.scroll, view.wanted_sources().len() - 1);
    assert_eq!(type_in(&mut view, KeyCode::Char('q')), Reaction::Quit);
}
