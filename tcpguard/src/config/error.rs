//! What can be wrong with a configuration, each in one sentence that names the place.

use std::ops::Range;

use thiserror::Error;

/// Why a configuration was refused.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {file}: {source}")]
    Unreadable {
        /// The file.
        file: String,
        /// The reason.
        source: std::io::Error,
    },
    /// An argument of the command line cannot be used.
    #[error("{0}")]
    Argument(String),
    /// It is not TOML, or a key is unknown or of the wrong type.
    #[error("{file}:{line}:{column}: {message}")]
    Syntax {
        /// The file.
        file: String,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What is wrong there.
        message: String,
    },
}

/// A value that cannot be used.
pub(super) struct Problem {
    pub message: String,
    /// Bytes of the file that the value takes up.
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
        Self::located(file, text, start, message)
    }

    fn located(file: &str, text: &str, position: usize, message: String) -> Self {
        let before = text.get(..position).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|character| *character != '\n').count() + 1;
        Self::Syntax { file: file.to_owned(), line, column, message }
    }
}
