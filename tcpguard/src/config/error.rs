//! Configuration errors. Each message is one sentence and names the position in the file.

use std::ops::Range;

use thiserror::Error;

/// The reason a configuration was refused.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {file}: {source}")]
    Unreadable {
        /// Path of the file.
        file: String,
        /// The I/O error.
        source: std::io::Error,
    },
    /// A command-line argument has an invalid value.
    #[error("{0}")]
    Argument(String),
    /// The file is not TOML, a key is unknown, or a value is invalid.
    #[error("{file}:{line}:{column}: {message}")]
    Syntax {
        /// Name of the file.
        file: String,
        /// Line number, starting at 1.
        line: usize,
        /// Column in characters, starting at 1.
        column: usize,
        /// Description of the error.
        message: String,
    },
}

/// The values of Windows' `SynAttackProtect`, and the keys that correspond to them.
const WINDOWS_VALUES: [(&str, &str); 4] = [
    ("SynAttackProtect", "syn_attack_protect"),
    ("TcpMaxHalfOpen", "max_half_open in [thresholds]"),
    ("TcpMaxHalfOpenRetried", "max_half_open_retried in [thresholds]"),
    ("TcpMaxPortsExhausted", "max_ports_exhausted in [thresholds]"),
];

/// Returns which key to use if `message` is about one of Windows' names.
fn windows_hint(message: &str) -> Option<String> {
    let is_about = |name: &str| message.to_lowercase().contains(&format!("unknown field `{}`", name.to_lowercase()));
    let (name, key) = WINDOWS_VALUES.into_iter().find(|(name, _)| is_about(name))?;
    Some(format!("; for Windows' {name} set {key}"))
}

/// An invalid value.
pub(super) struct Problem {
    pub message: String,
    /// Byte range of the value in the file.
    pub span: Range<usize>,
}

impl Problem {
    pub fn at(self, file: &str, text: &str) -> ConfigError {
        ConfigError::located(file, text, self.span.start, self.message)
    }
}

impl ConfigError {
    pub(super) fn syntax(file: &str, text: &str, error: &toml::de::Error) -> Self {
        let start = error.span().map_or(0, |span| span.start);
        let message = error.message().trim().replace('\n', "; ");
        let hint = windows_hint(&message).unwrap_or_default();
        Self::located(file, text, start, message + &hint)
    }

    fn located(file: &str, text: &str, position: usize, message: String) -> Self {
        let before = text.get(..position).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|character| *character != '\n').count() + 1;
        Self::Syntax { file: file.to_owned(), line, column, message }
    }
}
