//! The command line, taken apart word by word.

use std::collections::VecDeque;
use std::env;
use std::fmt::Display;
use std::str::FromStr;

use stratalog::config::TopicConfig;

use crate::failure::Failure;

/// The words that are still to be read.
pub struct Arguments(VecDeque<String>);

impl Arguments {
    /// The words this program was started with.
    pub fn of_program() -> Result<Self, Failure> {
        let word = |word: std::ffi::OsString| {
            word.into_string().map_err(|word| Failure::input(format!("argument {} is not UTF-8", word.display())))
        };
        env::args_os().skip(1).map(word).collect::<Result<_, _>>().map(Self)
    }

    /// The next word.
    pub fn next(&mut self) -> Option<String> {
        self.0.pop_front()
    }

    /// The word that belongs to `option`.
    pub fn value(&mut self, option: &str) -> Result<String, Failure> {
        self.next().ok_or_else(|| Failure::input(format!("{option} needs a value")))
    }

    /// The number that belongs to `option`.
    pub fn number<N: FromStr>(&mut self, option: &str, expected: impl Display) -> Result<N, Failure> {
        let word = self.value(option)?;
        word.parse().map_err(|_| Failure::input(format!("{option}: expected {expected}, got {word:?}")))
    }

    /// The `key=value` that belongs to `option`, set in `config`.
    pub fn setting(&mut self, option: &str, config: &mut TopicConfig) -> Result<(), Failure> {
        let word = self.value(option)?;
        let Some((key, value)) = word.split_once('=') else {
            return Err(Failure::input(format!("{option}: expected key=value, got {word:?}")));
        };
        Ok(config.set(key, value)?)
    }
}

/// Keeps the value of an option that may come once.
pub fn once<T>(slot: &mut Option<T>, option: &str, value: T) -> Result<(), Failure> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(Failure::input(format!("{option} is given twice"))),
    }
}

/// The value of an option that a command can't do without.
pub fn required<T>(slot: Option<T>, command: &str, option: &str) -> Result<T, Failure> {
    slot.ok_or_else(|| Failure::input(format!("{command} needs {option}")))
}

/// What a command says to a word that it doesn't know.
pub fn unknown(command: &str, word: &str) -> Failure {
    Failure::input(format!("{command}: unknown argument {word:?}"))
}
