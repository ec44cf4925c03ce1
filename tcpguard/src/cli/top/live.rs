//! The dashboard on the screen: follows the daemon and the keyboard.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use crossterm::event::{Event as TerminalEvent, EventStream};
use futures_util::StreamExt;
use hyper::Method;
use ratatui::DefaultTerminal;
use serde::de::DeserializeOwned;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::sleep,
};

use super::{
    super::{
        client::{Messages, ask},
        runtime, sentence,
        sort::Sort,
    },
    keys::{self, Reaction},
    screen,
    view::View,
};
use crate::{
    api::model::{HistoryReport, Source, Stats},
    events::Event,
};

/// Interval of connection attempts while the daemon does not answer.
const RETRY: Duration = Duration::from_secs(1);
/// Capacity of the queue of updates to be shown.
const MAX_WAITING: usize = 16;
/// Number of past events requested at the start.
const EVENTS: usize = 50;
/// Number of sources requested, and searched by the filter: as many as the daemon keeps ready.
const SOURCES: usize = 256;

/// An update from the daemon.
enum News {
    Stats(Box<Stats>),
    Sources(Vec<Source>),
    History(HistoryReport),
    Event(Event),
    Lost(String),
}

/// Shows `view` of the daemon at `socket` until `q` is pressed.
pub(super) fn run(socket: PathBuf, view: View) -> Result<()> {
    let runtime = runtime()?;
    // This also installs a panic hook that restores the terminal before the panic is reported.
    let mut terminal = ratatui::try_init().context("cannot use this terminal")?;
    let result = runtime.block_on(show(&mut terminal, socket, view));
    ratatui::try_restore().context("cannot restore the terminal: run `reset`")?;
    result
}

async fn show(terminal: &mut DefaultTerminal, socket: PathBuf, mut view: View) -> Result<()> {
    let (tell, mut news) = mpsc::channel(MAX_WAITING);
    let (choose, sort) = tokio::sync::watch::channel(view.sort);
    tokio::spawn(follow(socket, tell, sort));
    let mut keys = EventStream::new();
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let mut hang_up = signal(SignalKind::hangup()).context("cannot wait for SIGHUP")?;
    loop {
        terminal.draw(|frame| screen::draw(&view, frame)).context("cannot draw")?;
        tokio::select! {
            Some(news) = news.recv() => take(&mut view, news),
            key = keys.next() => match key {
                Some(Ok(TerminalEvent::Key(key))) if key.is_press() => match keys::press(&mut view, key) {
                    Reaction::Quit => return Ok(()),
                    Reaction::Stay => { choose.send_replace(view.sort); }
                },
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error).context("cannot read the keyboard"),
                None => return Ok(()),
            },
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hang_up.recv() => return Ok(()),
        }
    }
}

fn take(view: &mut View, news: News) {
    match news {
        News::Stats(stats) => view.take_stats(*stats),
        News::Sources(sources) => view.sources = sources,
        News::History(history) => view.take_history(&history),
        News::Event(event) => view.take_event(event),
        News::Lost(problem) => view.problem = Some(problem),
    }
}

/// Sends the daemon's updates to `tell`, across restarts of the daemon, until the receiver is dropped.
async fn follow(socket: PathBuf, tell: mpsc::Sender<News>, sort: tokio::sync::watch::Receiver<Sort>) {
    while !tell.is_closed() {
        if let Err(error) = follow_once(&socket, &tell, &sort).await {
            // Sending fails only if the receiver is gone, which ends the loop.
            tell.send(News::Lost(sentence(&error))).await.ok();
        }
        sleep(RETRY).await;
    }
}

async fn follow_once(
    socket: &Path,
    tell: &mpsc::Sender<News>,
    sort: &tokio::sync::watch::Receiver<Sort>,
) -> Result<()> {
    let mut messages = Messages::follow(socket, "/live").await?;
    tell.send(News::History(get(socket, "/history").await?)).await?;
    for event in get::<Vec<Event>>(socket, &format!("/events?limit={EVENTS}")).await? {
        tell.send(News::Event(event)).await?;
    }
    while let Some(message) = messages.next().await? {
        if message.name == "event" {
            tell.send(News::Event(serde_json::from_str(&message.data)?)).await?;
            continue;
        }
        tell.send(News::Stats(Box::new(serde_json::from_str(&message.data)?))).await?;
        let order = sort.borrow().name();
        tell.send(News::Sources(get(socket, &format!("/sources?sort={order}&limit={SOURCES}")).await?)).await?;
    }
    bail!("the daemon has ended")
}

async fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T> {
    ask(socket, Method::GET, path, None).await
}
