//! A real browser in a namespace of the lab: headless Chromium, driven by `tests/browser/driver.mjs`.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use xtask::bpf::toolchain::target_folder;

use crate::namespace::Namespace;

const CHROMIUM: &str = "/usr/bin/chromium";

/// A page in the browser. Dropping it ends both.
pub struct Browser {
    process: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Browser {
    /// Starts one in `namespace`.
    ///
    /// # Errors
    /// Returns an error if it is not installed: `cargo xtask test` does that.
    pub fn start(namespace: &Namespace) -> Result<Self> {
        let folder = target_folder().join("browser");
        let mut command: Command = namespace.command("node");
        command.current_dir(&folder).arg(folder.join("driver.mjs")).arg(CHROMIUM);
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("no browser in {}: `cargo xtask test` installs one", folder.display()))?;
        let orders = process.stdin.take().context("no way to the browser")?;
        let answers = BufReader::new(process.stdout.take().context("no way back from the browser")?);
        Ok(Self { process, orders, answers })
    }

    fn order(&mut self, order: &Value) -> Result<Value> {
        writeln!(self.orders, "{order}").context("the browser has ended")?;
        let mut line = String::new();
        self.answers.read_line(&mut line).context("the browser does not answer")?;
        let mut answer: Value = serde_json::from_str(&line).with_context(|| format!("the browser said {line:?}"))?;
        match answer["error"].as_str() {
            Some(error) => bail!("{order}: {error}"),
            None => Ok(answer["value"].take()),
        }
    }

    /// Opens a page; the status of the answer.
    ///
    /// # Errors
    /// Returns an error if there is none.
    pub fn open(&mut self, url: &str) -> Result<u64> {
        self.order(&json!({"do": "open", "url": url}))?.as_u64().context("no status")
    }

    /// Makes the window this large, in pixels.
    ///
    /// # Errors
    /// Returns an error if the browser has ended.
    pub fn size(&mut self, width: u32, height: u32) -> Result<()> {
        self.order(&json!({"do": "size", "width": width, "height": height})).map(drop)
    }

    /// Asks for `light` or `dark` colours.
    ///
    /// # Errors
    /// Returns an error if the browser has ended.
    pub fn colors(&mut self, scheme: &str) -> Result<()> {
        self.order(&json!({"do": "colors", "scheme": scheme})).map(drop)
    }

    /// The text that is shown of what `selector` finds first.
    ///
    /// # Errors
    /// Returns an error if it finds nothing.
    pub fn text(&mut self, selector: &str) -> Result<String> {
        Ok(self.order(&json!({"do": "text", "of": selector}))?.as_str().unwrap_or_default().to_owned())
    }

    /// The same of all that it finds.
    ///
    /// # Errors
    /// Returns an error if the browser has ended.
    pub fn texts(&mut self, selector: &str) -> Result<Vec<String>> {
        let texts = self.order(&json!({"do": "texts", "of": selector}))?;
        Ok(texts.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect())
    }

    /// Types `text` where `selector` is.
    ///
    /// # Errors
    /// Returns an error if nothing can be typed there.
    pub fn fill(&mut self, selector: &str, text: &str) -> Result<()> {
        self.order(&json!({"do": "type", "into": selector, "text": text})).map(drop)
    }

    /// Presses a key, as in `Tab`.
    ///
    /// # Errors
    /// Returns an error if there is no such key.
    pub fn press(&mut self, key: &str) -> Result<()> {
        self.order(&json!({"do": "press", "key": key})).map(drop)
    }

    /// Waits until the JavaScript expression `until` is true; the milliseconds it took.
    ///
    /// # Errors
    /// Returns an error if it is not within 15 seconds.
    pub fn wait(&mut self, until: &str) -> Result<u64> {
        self.order(&json!({"do": "wait", "until": until}))?.as_u64().context("no time")
    }

    /// The value of a JavaScript expression.
    ///
    /// # Errors
    /// Returns an error if it throws.
    pub fn evaluate(&mut self, script: &str) -> Result<Value> {
        self.order(&json!({"do": "evaluate", "script": script}))
    }

    /// Keeps a picture of the whole page.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written.
    pub fn screenshot(&mut self, path: &Path) -> Result<()> {
        self.order(&json!({"do": "screenshot", "path": path})).map(drop)
    }

    /// Whether the page has complained, or asked anybody else for something, since the last time.
    ///
    /// # Errors
    /// Returns an error if it has.
    pub fn is_content(&mut self) -> Result<()> {
        let problems = self.problems()?;
        ensure!(problems["complaints"] == json!([]), "the page complains: {}", problems["complaints"]);
        ensure!(problems["outside"] == json!([]), "the page asks others: {}", problems["outside"]);
        Ok(())
    }

    /// What it complained of (`complaints`), and whom it asked (`outside`), since the last time.
    ///
    /// # Errors
    /// Returns an error if the browser has ended.
    pub fn problems(&mut self) -> Result<Value> {
        self.order(&json!({"do": "problems"}))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if self.process.kill().is_ok() {
            self.process.wait().ok();
        }
    }
}
