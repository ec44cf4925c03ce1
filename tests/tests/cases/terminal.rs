//! `tcpguard top` in a terminal: what it shows, and whether it restores the terminal however it ends.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use anyhow::{Context, Result, ensure};
use lab::{Daemon, Lab, Setup, build::binary, eventually, process::KilledOnDrop};
use nix::{
    libc::winsize,
    pty::openpty,
    sys::{
        signal::{Signal, kill},
        termios::{Termios, tcgetattr},
    },
    unistd::Pid,
};

/// The escape sequence that switches back from the alternate screen.
const USUAL_SCREEN: &str = "\x1b[?1049l";
const SHOW_CURSOR: &str = "\x1b[?25h";

/// `tcpguard top` in a pseudo-terminal.
struct Top {
    process: KilledOnDrop,
    keyboard: File,
    shown: Arc<Mutex<String>>,
    terminal: OwnedFd,
    before: Termios,
}

impl Top {
    fn start(daemon: &Daemon, (columns, rows): (u16, u16)) -> Result<Self> {
        let size = winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).context("cannot open a pseudo-terminal")?;
        let before = tcgetattr(&pty.slave)?;
        let end = || -> Result<Stdio> { Ok(Stdio::from(pty.slave.try_clone()?)) };
        let process = std::process::Command::new(binary()?)
            .args(["top", "--socket"])
            .arg(daemon.socket())
            .env("TERM", "xterm-256color")
            .stdin(end()?)
            .stdout(end()?)
            .stderr(end()?)
            .spawn()
            .context("cannot run tcpguard")?;
        let (shown, mut screen) = (Arc::new(Mutex::new(String::new())), File::from(pty.master.try_clone()?));
        let drawn = Arc::clone(&shown);
        thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(read @ 1..) = screen.read(&mut chunk) {
                let text = String::from_utf8_lossy(&chunk[..read]).into_owned();
                drawn.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
            }
        });
        Ok(Self {
            process: KilledOnDrop(process),
            keyboard: File::from(pty.master),
            shown,
            terminal: pty.slave,
            before,
        })
    }

    fn text(&self) -> String {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn shows(&self, word: &str) -> Result<()> {
        eventually(&format!("the screen shows {word:?}"), || Ok(self.text()), |text| text.contains(word)).map(drop)
    }

    fn press(&mut self, keys: &str) -> Result<()> {
        self.keyboard.write_all(keys.as_bytes()).context("cannot write to the terminal")
    }

    /// Waits until the program exits, and checks that the terminal is restored.
    fn ends_well(mut self) -> Result<()> {
        eventually(
            "the program exits",
            || Ok(self.process.0.try_wait()?.map(|status| status.success())),
            Option::is_some,
        )?;
        eventually(
            "the normal screen is restored",
            || Ok(self.text()),
            |text| text.rfind(USUAL_SCREEN) > text.rfind("\x1b[?1049h") && text.contains(SHOW_CURSOR),
        )?;
        ensure!(tcgetattr(&self.terminal)? == self.before, "the terminal's settings were not restored");
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.process.0.id() as i32), signal).context("cannot signal the program")
    }
}

#[test]
fn the_terminal_is_put_back_however_it_ends() -> Result<()> {
    let lab = Lab::new()?;
    let daemon = Setup::new(&lab)?.start()?;
    for end in ["q", "\x03", "SIGTERM", "SIGINT", "SIGHUP"] {
        let mut top = Top::start(&daemon, (100, 30))?;
        top.shows("CALM")?;
        match end {
            "SIGTERM" => top.signal(Signal::SIGTERM)?,
            "SIGINT" => top.signal(Signal::SIGINT)?,
            "SIGHUP" => top.signal(Signal::SIGHUP)?,
            key => top.press(key)?,
        }
        top.ends_well().with_context(|| format!("after {end:?}"))?;
    }
    Ok(())
}

#[test]
fn a_terminal_of_twenty_columns_is_shown_the_essentials() -> Result<()> {
    let lab = Lab::new()?;
    let daemon = Setup::new(&lab)?.start()?;
    let mut top = Top::start(&daemon, (20, 10))?;
    for word in ["CALM", "SYN/s", "too small for more"] {
        top.shows(word)?;
    }
    top.press("q")?;
    top.ends_well()
}

#[test]
fn a_daemon_that_ends_and_comes_back_is_followed() -> Result<()> {
    let lab = Lab::new()?;
    let folder = tempfile::tempdir()?;
    let (socket, store) = (folder.path().join("tcpguard.sock"), folder.path().join("store.sqlite"));
    let config = format!(
        "interfaces = [\"lab-server\"]\n[listen]\nsocket = \"{}\"\n[store]\npath = \"{}\"\n",
        socket.display(),
        store.display()
    );
    let setup = || -> Result<Setup> { Ok(Setup::new(&lab)?.whole_config(&config).listening_on(&socket)) };
    let mut daemon = setup()?.start()?;
    let mut top = Top::start(&daemon, (100, 30))?;
    top.shows("CALM")?;
    daemon.end(Signal::SIGTERM)?;
    top.shows("no connection")?;
    let so_far = top.text().len();
    let _daemon = setup()?.start()?;
    eventually("the screen is live again", || Ok(top.text()[so_far..].to_owned()), |text| text.contains("lab-server"))?;
    top.press("q")?;
    top.ends_well()
}

#[test]
fn without_a_terminal_it_says_what_to_use() -> Result<()> {
    let lab = Lab::new()?;
    let daemon = Setup::new(&lab)?.start()?;
    let output = lab::daemon::tcpguard(&["top"], &daemon.socket())?;
    ensure!(output.status.code() == Some(1), "{}", output.status);
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(error.contains("needs a terminal") && error.contains("tcpguard status"), "{error}");
    Ok(())
}
