//! Drawing of the screen, for terminals of any size.

use jiff::{Timestamp, tz::TimeZone};
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style, Stylize},
    text::{Line, Span},
    widgets::{Block, Cell, Gauge, Paragraph, Row, Sparkline, Table, Wrap},
};

use super::view::View;
use crate::{
    api::model::{Port, Protected, ProtectedPort, Source, Stats},
    cli::sort::Sort,
};

/// Minimum width and height for the full screen; a smaller terminal shows only the essentials.
const MIN_SIZE: (u16, u16) = (60, 16);
/// Maximum number of ports shown.
const PORTS: usize = 4;
/// Maximum number of protected networks shown.
const PROTECTED: usize = 3;
/// Number of lines for events.
const EVENTS: u16 = 6;

/// Draws the screen.
pub fn draw(view: &View, frame: &mut Frame<'_>) {
    let area = frame.area();
    let Some(stats) = &view.stats else { return draw_nothing(view, frame, area) };
    if area.width < MIN_SIZE.0 || area.height < MIN_SIZE.1 {
        return draw_essentials(view, stats, frame, area);
    }
    let attack_lines = stats.attack.as_ref().map_or(0, |attack| attack.evidence.len().min(3)) as u16;
    let has_room = area.height >= 28;
    let protected_lines = if stats.protected.is_empty() { 0 } else { 2 + stats.protected.len().min(PROTECTED) as u16 };
    let [state, rates, half_open, ports, protected, sources, events, help] = Layout::vertical([
        Constraint::Length(2 + attack_lines),
        Constraint::Length(if has_room { 6 } else { 3 }),
        Constraint::Length(1),
        Constraint::Length(if has_room { 2 + stats.ports.len().min(PORTS) as u16 } else { 0 }),
        Constraint::Length(if has_room { protected_lines } else { 0 }),
        Constraint::Min(4),
        Constraint::Length(if has_room { EVENTS + 1 } else { 0 }),
        Constraint::Length(1),
    ])
    .areas(area);
    draw_state(view, stats, frame, state);
    draw_rates(view, stats, frame, rates);
    draw_half_open(stats, frame, half_open);
    draw_ports(stats, frame, ports);
    draw_protected(&stats.protected, frame, protected);
    draw_sources(view, stats.time, frame, sources);
    draw_events(view, stats.time, frame, events);
    draw_help(view, frame, help);
}

fn draw_nothing(view: &View, frame: &mut Frame<'_>, area: Rect) {
    let text = view.problem.clone().unwrap_or_else(|| "connecting to the daemon …".to_owned());
    let lines = vec![Line::from(text), Line::from("q quits; retrying every second").dim()];
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: true }), area);
}

/// Draws the most important values, one per line, for a small terminal.
fn draw_essentials(view: &View, stats: &Stats, frame: &mut Frame<'_>, area: Rect) {
    let mut lines = vec![state_line(stats)];
    if let Some(problem) = &view.problem {
        lines.push(Line::from(format!("no connection: {problem}")).red());
    }
    lines.push(Line::from(format!("SYN/s {:.0}", stats.rates.syn_per_second)));
    lines.push(Line::from(format!("let in/s {:.0}", stats.rates.completed_per_second)));
    lines.push(Line::from(format!("dropped/s {:.0}", stats.rates.dropped_per_second)));
    lines.push(Line::from(format!("half open {}", stats.half_open.kernel.max(stats.half_open.datapath))));
    lines.push(Line::from("too small for more").dim());
    frame.render_widget(Paragraph::new(lines), area);
}

const fn color_of(state: &str) -> Color {
    match state.as_bytes() {
        b"calm" => Color::Green,
        b"attack" => Color::Red,
        _ => Color::Yellow,
    }
}

fn state_line(stats: &Stats) -> Line<'_> {
    let state =
        Span::styled(stats.state.to_uppercase(), Style::new().fg(color_of(&stats.state)).add_modifier(Modifier::BOLD));
    let since = stats.attack.as_ref().map_or(stats.state_since, |attack| attack.since);
    let kind = stats.attack.as_ref().map_or_else(String::new, |attack| format!(" {}", attack.kind));
    Line::from(vec![state, Span::raw(kind).bold(), Span::raw(format!(" for {}", between(since, stats.time)))])
}

fn draw_state(view: &View, stats: &Stats, frame: &mut Frame<'_>, area: Rect) {
    let interfaces: Vec<String> =
        stats.interfaces.iter().map(|interface| format!("{} ({})", interface.name, interface.xdp_mode)).collect();
    let right = match &view.problem {
        Some(problem) => Span::raw(format!("no connection: {problem}")).red(),
        None => Span::raw(format!("tcpguard {}  {}", stats.version, interfaces.join(", "))).dim(),
    };
    let mut first = state_line(stats);
    first.push_span("   ");
    first.push_span(right);
    let mut lines = vec![first];
    if let Some(attack) = &stats.attack {
        lines.extend(attack.evidence.iter().take(3).map(|evidence| Line::from(format!("  {evidence}"))));
    }
    lines.push(Line::from(format!("  {}", measures(stats))).yellow());
    frame.render_widget(Paragraph::new(lines), area);
}

/// Describes the active measures in one line.
fn measures(stats: &Stats) -> String {
    let mut done = Vec::new();
    for port in &stats.measures.challenge.ports {
        done.push(format!("port {} challenged by {}", port.port, port.method));
    }
    if stats.measures.blocks > 0 {
        done.push(format!("{} blocked", stats.measures.blocks));
    }
    done.extend(stats.measures.signatures.iter().map(|signature| format!("dropped: {signature}")));
    done.extend(stats.measures.kernel_settings.iter().map(|setting| format!("{}={}", setting.name, setting.value)));
    if stats.syn_attack_protect == 0 {
        done.push("watching only".to_owned());
    }
    done.join(", ")
}

fn draw_rates(view: &View, stats: &Stats, frame: &mut Frame<'_>, area: Rect) {
    let rates = &stats.rates;
    let title = Line::from(vec![
        Span::raw(format!(" SYN/s {:.0} ", rates.syn_per_second)).blue(),
        Span::raw(format!(" let in/s {:.0} ", rates.completed_per_second)).green(),
        Span::raw(format!(" dropped/s {:.0} ", rates.dropped_per_second)).red(),
        Span::raw(format!(" challenged/s {:.0} ", rates.challenged_per_second)).yellow(),
        Span::raw(format!(" sources/s {:.0} ", rates.distinct_sources_per_second)),
    ]);
    let block = Block::bordered().title(title);
    let inner = block.inner(area);
    let skipped = view.rates.len().saturating_sub(inner.width.into());
    let shown: Vec<u64> = view.rates.iter().skip(skipped).copied().collect();
    frame.render_widget(Sparkline::default().block(block).data(&shown).style(Style::new().fg(Color::Blue)), area);
}

fn draw_half_open(stats: &Stats, frame: &mut Frame<'_>, area: Rect) {
    let (half_open, limit) = (&stats.half_open, stats.thresholds.max_half_open);
    let most = half_open.kernel.max(half_open.datapath);
    let share = (most as f64 / f64::from(limit.max(1))).min(1.0);
    let label = format!("half open: kernel {}, datapath {}, threshold {limit}", half_open.kernel, half_open.datapath);
    let color = if share >= 1.0 { Color::Red } else { Color::Green };
    frame.render_widget(Gauge::default().ratio(share).label(label).gauge_style(Style::new().fg(color)), area);
}

fn draw_ports(stats: &Stats, frame: &mut Frame<'_>, area: Rect) {
    let mut ports: Vec<&Port> = stats.ports.iter().collect();
    ports.sort_by_key(|port| (std::cmp::Reverse((port.half_open, port.syn)), port.port));
    let rows = ports.into_iter().take(PORTS).map(|port| {
        let used = format!("{} of {}", port.half_open.max(port.accept_queue), port.backlog);
        let remark = if port.slow_application { "accepts too slowly" } else { "" };
        row([
            port.port.to_string(),
            port.syn.to_string(),
            port.completed.to_string(),
            used,
            port.challenged.to_string(),
            remark.to_owned(),
        ])
    });
    let widths = [8, 12, 12, 16, 12, 20].map(Constraint::Length);
    frame.render_widget(
        Table::new(rows, widths).header(heading(["PORT", "SYN", "COMPLETED", "BACKLOG", "CHALLENGED", ""])),
        area,
    );
}

/// Draws the networks behind this host, those with the most half-open handshakes first.
fn draw_protected(sections: &[Protected], frame: &mut Frame<'_>, area: Rect) {
    let mut sections: Vec<&Protected> = sections.iter().collect();
    sections.sort_by_key(|section| std::cmp::Reverse(section.half_open));
    let rows = sections.into_iter().take(PROTECTED).map(|section| {
        let sum = |count: fn(&ProtectedPort) -> u64| section.ports.iter().map(count).sum::<u64>().to_string();
        let way = if section.is_answered_elsewhere() { "answers elsewhere" } else { "" };
        row([
            section.name.clone(),
            sum(|port| port.syn),
            sum(|port| port.completed),
            format!("{} of {}", section.half_open, section.max_half_open),
            section.method.clone().unwrap_or_else(|| "-".to_owned()),
            section.state.clone(),
            way.to_owned(),
        ])
        .style(Style::new().fg(color_of(&section.state)))
    });
    let widths = [16, 12, 12, 16, 12, 8, 18].map(Constraint::Length);
    let names = ["PROTECTED", "SYN", "COMPLETED", "HALF-OPEN", "CHALLENGE", "STATE", ""];
    frame.render_widget(Table::new(rows, widths).header(heading(names)), area);
}

fn draw_sources(view: &View, now: Timestamp, frame: &mut Frame<'_>, area: Rect) {
    let sources = view.wanted_sources();
    let rows = sources.iter().skip(view.scroll).take(area.height.into()).map(|source| source_row(source, now));
    let mark = |sort, name: &str| if view.sort == sort { format!("{name} ▾") } else { name.to_owned() };
    let headings = [
        "SOURCE".to_owned(),
        mark(Sort::Syn, "SYN"),
        "COMPLETED".to_owned(),
        mark(Sort::HalfOpen, "HALF-OPEN"),
        mark(Sort::Dropped, "DROPPED"),
        "STATUS".to_owned(),
    ];
    let widths = [
        Constraint::Length(24),
        Constraint::Length(10),
        Constraint::Length(10),
        Constraint::Length(12),
        Constraint::Length(10),
        Constraint::Min(16),
    ];
    let header =
        Row::new(headings.map(Cell::from)).style(Style::new().add_modifier(Modifier::BOLD | Modifier::REVERSED));
    frame.render_widget(Table::new(rows, widths).header(header), area);
    if sources.is_empty() && area.height > 1 {
        let text = if view.filter.is_empty() { "no source has sent a SYN yet" } else { "no busy source matches" };
        let below = Rect { y: area.y + 1, height: 1, ..area };
        frame.render_widget(Paragraph::new(text).dim(), below);
    }
}

fn source_row(source: &Source, now: Timestamp) -> Row<'static> {
    let (done, style) = match &source.blocked_until {
        Some(until) => (format!("blocked for {}", between(now, *until)), Style::new().fg(Color::Red)),
        None if source.proven => ("proven".to_owned(), Style::new().fg(Color::Green)),
        None if source.challenged > 0 => ("challenged".to_owned(), Style::new()),
        None => (String::new(), Style::new()),
    };
    let numbers = [source.syn, source.completed, source.half_open, source.dropped].map(|number| number.to_string());
    let [syn, completed, half_open, dropped] = numbers;
    row([source.source.clone(), syn, completed, half_open, dropped, done]).style(style)
}

fn draw_events(view: &View, now: Timestamp, frame: &mut Frame<'_>, area: Rect) {
    let lines = view.events.iter().take(EVENTS.into()).map(|event| {
        let would = if event.watch_only { "would be: " } else { "" };
        let time = when(event.time, now, &TimeZone::system());
        Line::from(vec![Span::raw(time).dim(), Span::raw(format!(" {would}{}", event.message))])
    });
    let title = Line::from(" events ").dim();
    frame.render_widget(
        Paragraph::new(lines.collect::<Vec<_>>())
            .block(Block::new().borders(ratatui::widgets::Borders::TOP).title(title)),
        area,
    );
}

fn draw_help(view: &View, frame: &mut Frame<'_>, area: Rect) {
    let line = if view.is_typing {
        Line::from(format!("find: {}_   Enter keeps it, Esc clears it", view.filter)).bold()
    } else if view.filter.is_empty() {
        Line::from("q quit   s sort   / find a source   ↑↓ scroll").dim()
    } else {
        Line::from(format!("only sources with \"{}\"   Esc shows all   q quit   s sort   / find", view.filter)).dim()
    };
    frame.render_widget(Paragraph::new(line), area);
}

fn row<const COLUMNS: usize>(cells: [String; COLUMNS]) -> Row<'static> {
    Row::new(cells.map(Cell::from))
}

fn heading<const COLUMNS: usize>(names: [&'static str; COLUMNS]) -> Row<'static> {
    Row::new(names.map(Cell::from)).style(Style::new().add_modifier(Modifier::BOLD))
}

/// Formats the local time of day, with the date if it is not today's.
fn when(time: Timestamp, now: Timestamp, zone: &TimeZone) -> String {
    let (time, now) = (time.to_zoned(zone.clone()), now.to_zoned(zone.clone()));
    let format = if time.date() == now.date() { "%H:%M:%S" } else { "%Y-%m-%d %H:%M:%S" };
    time.strftime(format).to_string()
}

fn between(since: Timestamp, until: Timestamp) -> String {
    match until.duration_since(since).as_secs().max(0) {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests;
