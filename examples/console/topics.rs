//! `topics`: create, list, describe, alter, delete.

use std::io::{self, Write};

use stratalog::config::TopicConfig;
use stratalog::partition::Partition;
use stratalog::store::{LogStore, Topic};
use stratalog::types::{Offset, ProducerId};

use crate::arguments::{Arguments, once, required, unknown};
use crate::failure::Failure;
use crate::json::{Object, quoted};
use crate::root::Root;

/// What the options of the subcommands say.
#[derive(Default)]
struct Options {
    topic: Option<String>,
    partitions: Option<u32>,
    config: TopicConfig,
    json: bool,
}

/// Runs `topics`.
pub fn run(root: &Root, mut arguments: Arguments) -> Result<(), Failure> {
    let Some(command) = arguments.next() else {
        return Err(Failure::input("topics needs one of create, list, describe, alter, delete"));
    };
    let allowed: &[&str] = match command.as_str() {
        "create" | "alter" => &["--topic", "--partitions", "--config"],
        "list" => &[],
        "describe" => &["--topic", "--json"],
        "delete" => &["--topic"],
        other => return Err(unknown("topics", other)),
    };
    let name = format!("topics {command}");
    let options = parse(&name, allowed, arguments)?;
    match command.as_str() {
        "create" => create(root, &name, options),
        "list" => root.read(list),
        "describe" => root.read(|store| describe(store, &options)),
        "alter" => alter(root, &name, options),
        _ => {
            let topic = required(options.topic, &name, "--topic")?;
            root.write(|store| Ok(store.delete_topic(&topic)?))
        }
    }
}

fn parse(command: &str, allowed: &[&str], mut arguments: Arguments) -> Result<Options, Failure> {
    let mut options = Options::default();
    while let Some(word) = arguments.next() {
        if !allowed.contains(&word.as_str()) {
            return Err(unknown(command, &word));
        }
        match word.as_str() {
            "--topic" => once(&mut options.topic, &word, arguments.value(&word)?)?,
            "--partitions" => {
                let partitions = arguments.number(&word, "a number of partitions")?;
                once(&mut options.partitions, &word, partitions)?;
            }
            "--config" => arguments.setting(&word, &mut options.config)?,
            _ => options.json = true,
        }
    }
    Ok(options)
}

fn create(root: &Root, command: &str, options: Options) -> Result<(), Failure> {
    let topic = required(options.topic, command, "--topic")?;
    let partitions = required(options.partitions, command, "--partitions")?;
    options.config.validate()?;
    root.write(|store| Ok(store.create_topic(&topic, partitions, options.config).map(drop)?))
}

fn alter(root: &Root, command: &str, options: Options) -> Result<(), Failure> {
    let topic = required(options.topic, command, "--topic")?;
    if options.partitions.is_none() && options.config == TopicConfig::new() {
        return Err(Failure::input("topics alter needs --partitions or --config"));
    }
    root.write(|store| {
        let topic = store.topic(&topic)?;
        let config = options.config.over(&topic.config());
        // Everything that can be refused is refused before anything is changed.
        config.resolve(store.config().default_topic_config())?;
        if let Some(partitions) = options.partitions {
            store.add_partitions(topic.name().as_str(), partitions)?;
        }
        Ok(topic.alter_config(config)?)
    })
}

fn list(store: &LogStore) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    for topic in store.topics() {
        writeln!(out, "{}", topic.name())?;
    }
    Ok(out.flush()?)
}

fn describe(store: &LogStore, options: &Options) -> Result<(), Failure> {
    let topics = match &options.topic {
        Some(name) => vec![store.topic(name)?],
        None => store.topics(),
    };
    let mut out = io::stdout().lock();
    for topic in &topics {
        if options.json {
            writeln!(out, "{}", to_json(topic))?;
        } else {
            write_table(&mut out, topic)?;
        }
    }
    Ok(out.flush()?)
}

fn to_json(topic: &Topic) -> String {
    let partition = |partition: Partition| {
        Object::new()
            .number("partition", partition.id().partition.value())
            .number("log_start_offset", partition.log_start_offset().value())
            .number("high_watermark", partition.high_watermark().value())
            .number("log_end_offset", partition.log_end_offset().value())
            .number("last_stable_offset", partition.last_stable_offset().value())
            .raw("open_transactions", &format!("[{}]", open_transactions(&partition).join(",")))
            .finish()
    };
    let partitions: Vec<String> = topic.partitions().into_iter().map(partition).collect();
    let config = topic.config();
    let config = config.explicit_entries().fold(Object::new(), |object, (key, value)| object.text(key, value));
    Object::new()
        .text("topic", topic.name().as_str())
        .raw("id", &topic.id().map_or_else(|| "null".to_owned(), |id| quoted(&id.to_string())))
        .raw("partitions", &format!("[{}]", partitions.join(",")))
        .raw("config", &config.finish())
        .finish()
}

fn open_transactions(partition: &Partition) -> Vec<String> {
    let object = |(producer, first): (ProducerId, Offset)| {
        Object::new().number("producer_id", producer.value()).number("first_offset", first.value()).finish()
    };
    partition.open_transactions().into_iter().map(object).collect()
}

fn write_table(out: &mut impl Write, topic: &Topic) -> io::Result<()> {
    let id = topic.id().map_or_else(|| "no id".to_owned(), |id| id.to_string());
    writeln!(out, "{}  ({id})", topic.name())?;
    for (key, value) in topic.config().explicit_entries() {
        writeln!(out, "  {key}={value}")?;
    }
    for partition in topic.partitions() {
        let (start, end) = (partition.log_start_offset().value(), partition.log_end_offset().value());
        let (number, size) = (partition.id().partition.value(), partition.size());
        write!(out, "  partition {number:>4}  offsets {start:>12} to {end:>12}  {size:>14} bytes")?;
        match partition.open_transactions().len() {
            0 => writeln!(out)?,
            count => writeln!(out, "  open transactions {count}, stable up to {}", partition.last_stable_offset())?,
        }
    }
    Ok(())
}
