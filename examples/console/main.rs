//! The command-line tools of Kafka's quick start, on a folder: topics, produce, consume; and compacting by hand.
//!
//! ```text
//! cargo run --release --example console -- --dir DIR topics create --topic events --partitions 4
//! cargo run --release --example console -- --dir DIR produce --topic events < lines
//! cargo run --release --example console -- --dir DIR consume --topic events --from-beginning --timeout-ms 0
//! ```
//!
//! Commands that only read open the folder read-only, so they work beside a writer and on a copy of a Kafka log directory.
//! The others open it for writing, and so recover it. Exit code: 0 done, 1 the disk failed, 2 bad input.

mod arguments;
mod compact;
mod consume;
mod failure;
mod input;
#[path = "../support/json.rs"]
mod json;
mod produce;
mod root;
mod topics;

use std::process::ExitCode;

use stratalog::config::TopicConfig;

use arguments::{Arguments, once, required};
use failure::Failure;
use root::Root;

const USAGE: &str = "\
usage: console --dir DIR [--default k=v]... COMMAND
  topics create --topic T --partitions N [--config k=v]...
  topics list
  topics describe [--topic T] [--json]
  topics alter --topic T [--partitions N] [--config k=v]...
  topics delete --topic T
  produce --topic T [--partition P] [--key-separator S] [--durable] [--batch N] [--codec C] [--json]
  consume --topic T [--partition P] [--offset earliest|latest|N] [--from-timestamp MS] [--from-beginning]
          [--max-messages N] [--timeout-ms N] [--json]
          [--isolation read_committed|read_uncommitted]
  compact --topic T [--partition P]
--default sets what holds for topics without a config of their own, such as those that Kafka wrote.";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !matches!(failure, Failure::EnoughSeen) {
                eprintln!("console: {failure}");
            }
            failure.exit_code()
        }
    }
}

fn run() -> Result<(), Failure> {
    let mut arguments = Arguments::of_program()?;
    let (mut dir, mut defaults) = (None, TopicConfig::new());
    loop {
        let Some(word) = arguments.next() else {
            return Err(Failure::input(format!("no command given\n{USAGE}")));
        };
        match word.as_str() {
            "--dir" => once(&mut dir, "--dir", arguments.value("--dir")?)?,
            "--default" => arguments.setting("--default", &mut defaults)?,
            "--help" | "-h" => {
                println!("{USAGE}");
                return Ok(());
            }
            command => return dispatch(command, arguments, dir, defaults),
        }
    }
}

fn dispatch(command: &str, arguments: Arguments, dir: Option<String>, defaults: TopicConfig) -> Result<(), Failure> {
    let run = match command {
        "topics" => topics::run,
        "produce" => produce::run,
        "consume" => consume::run,
        "compact" => compact::run,
        other => return Err(Failure::input(format!("unknown command {other:?}\n{USAGE}"))),
    };
    defaults.validate()?;
    run(&Root::new(required(dir, command, "--dir DIR before it")?, defaults), arguments)
}
