//! A browser in a namespace of the lab: headless Chromium, driven by `tests/browser/driver.mjs`.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use xtask::bpf::toolchain::target_folder;

use crate::{namespace::Namespace, process::KilledOnDrop};

const CHROMIUM: &str = "/usr/bin/chromium";

/// A browser with one page. Dropping it ends the browser.
pub struct Browser {
    _process: KilledOnDrop,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Browser {
    /// Starts a browser in `namespace`.
    ///
    /// # Errors
    /// Returns an error if it is not installed: `cargo xtask test` installs it.
    pub fn start(namespace: &Namespace) -> Result<Self> {
        let folder = target_folder().join("browser");
        let mut command: Command = namespace.command("node");
        command.current_dir(&folder).arg(folder.join("driver.mjs")).arg(CHROMIUM);
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("no browser in {}: `cargo xtask test` installs one", folder.display()))?;
        let orders = process.stdin.take().context("no standard input of the browser")?;
        let answers = BufReader::new(process.stdout.take().context("no standard output of the browser")?);
        Ok(Self { _process: KilledOnDrop(process), orders, answers })
    }

    fn order(&mut self, order: &Value) -> Result<Value> {
        writeln!(self.orders, "{order}").context("the browser has exited")?;
        let mut line = String::new();
        self.answers.read_line(&mut line).context("the browser does not respond")?;
        let mut answer: Value =
            serde_json::from_str(&line).with_context(|| format!("the browser responded {line:?}"))?;
        match answer["error"].as_str() {
            Some(error) => bail!("{order}: {error}"),
            None => Ok(answer["value"].take()),
        }
    }

    /// Opens a page and returns the HTTP status.
    ///
    /// # Errors
    /// Returns an error if there is no response.
    pub fn open(&mut self, url: &str) -> Result<u64> {
        self.order(&json!({"do": "open", "url": url}))?.as_u64().context("no HTTP status")
    }

    /// Sets the window's size, in pixels.
    ///
    /// # Errors
    /// Returns an error if the browser has exited.
    pub fn size(&mut self, width: u32, height: u32) -> Result<()> {
        self.order(&json!({"do": "size", "width": width, "height": height})).map(drop)
    }

    /// Emulates the preferred colour scheme, `light` or `dark`.
    ///
    /// # Errors
    /// Returns an error if the browser has exited.
    pub fn colors(&mut self, scheme: &str) -> Result<()> {
        self.order(&json!({"do": "colors", "scheme": scheme})).map(drop)
    }

    /// Returns the visible text of the first element that matches `selector`.
    ///
    /// # Errors
    /// Returns an error if there is none.
    pub fn text(&mut self, selector: &str) -> Result<String> {
        Ok(self.order(&json!({"do": "text", "of": selector}))?.as_str().unwrap_or_default().to_owned())
    }

    /// Returns the visible text of every element that matches `selector`.
    ///
    /// # Errors
    /// Returns an error if the browser has exited.
    pub fn texts(&mut self, selector: &str) -> Result<Vec<String>> {
        let texts = self.order(&json!({"do": "texts", "of": selector}))?;
        Ok(texts.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect())
    }

    /// Sets the text of the field that matches `selector`.
    ///
    /// # Errors
    /// Returns an error if there is no such field.
    pub fn fill(&mut self, selector: &str, text: &str) -> Result<()> {
        self.order(&json!({"do": "type", "into": selector, "text": text})).map(drop)
    }

    /// Presses a key, for example `Tab`.
    ///
    /// # Errors
    /// Returns an error if the key does not exist.
    pub fn press(&mut self, key: &str) -> Result<()> {
        self.order(&json!({"do": "press", "key": key})).map(drop)
    }

    /// Waits until the JavaScript expression `until` is true and returns the milliseconds that took.
    ///
    /// # Errors
    /// Returns an error if it does not become true within 15 seconds.
    pub fn wait(&mut self, until: &str) -> Result<u64> {
        self.order(&json!({"do": "wait", "until": until}))?.as_u64().context("no duration")
    }

    /// Evaluates a JavaScript expression.
    ///
    /// # Errors
    /// Returns an error if it throws.
    pub fn evaluate(&mut self, script: &str) -> Result<Value> {
        self.order(&json!({"do": "evaluate", "script": script}))
    }

    /// Saves a picture of the whole page as `path`.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written.
    pub fn screenshot(&mut self, path: &Path) -> Result<()> {
        self.order(&json!({"do": "screenshot", "path": path})).map(drop)
    }

    /// Checks that since the last call the page reported no problem and sent no request to another host.
    ///
    /// # Errors
    /// Returns an error if it did.
    pub fn is_content(&mut self) -> Result<()> {
        let problems = self.problems()?;
        ensure!(problems["complaints"] == json!([]), "the page reported problems: {}", problems["complaints"]);
        ensure!(problems["outside"] == json!([]), "the page sent requests to other hosts: {}", problems["outside"]);
        Ok(())
    }

    /// Returns the problems reported (`complaints`) and the foreign URLs requested (`outside`) since the last call.
    ///
    /// # Errors
    /// Returns an error if the browser has exited.
    pub fn problems(&mut self) -> Result<Value> {
        self.order(&json!({"do": "problems"}))
    }
}
