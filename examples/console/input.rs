//! The lines of standard input, as records.

use std::io::{self, BufRead, BufReader, Read, StdinLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use stratalog::format::{HeaderRef, Record};
use stratalog::types::Timestamp;

/// Bytes of the longest line that is read: no topic takes larger records.
const LINE_SIZE_MAX: u64 = 1 << 31;

/// Names and values, which may be null.
type Headers = Vec<(String, Option<Vec<u8>>)>;

/// A record that was read, and where it was.
pub struct InputRecord {
    /// The number of its line, from 1.
    pub line: u64,
    /// The partition that the line names.
    pub partition: Option<u32>,
    /// Its key.
    pub key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Headers,
    timestamp: Option<Timestamp>,
}

impl InputRecord {
    /// What to append.
    pub fn record(&self) -> Record<'_> {
        let mut record = Record::from_parts(self.key.as_deref(), self.value.as_deref());
        for (name, value) in &self.headers {
            record = record.with_header(HeaderRef { name: name.as_bytes(), value: value.as_deref() });
        }
        match self.timestamp {
            Some(timestamp) => record.timestamp(timestamp),
            None => record,
        }
    }

    /// Bytes that the record takes in a batch, at most.
    pub fn size_max(&self) -> usize {
        // Length, attributes, time, offset, sizes of key and value, number of headers: 36 bytes if each is as long as can be.
        let size = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        let headers: usize = self.headers.iter().map(|(name, value)| 10 + name.len() + size(value)).sum();
        36 + size(&self.key) + size(&self.value) + headers
    }
}

/// How lines become records.
pub enum Layout {
    /// A line is a value.
    Values,
    /// A line is a key, this separator, and a value.
    KeysAndValues(String),
    /// A line is a JSON object.
    Json,
}

/// Reads standard input line by line.
pub struct Input {
    reader: BufReader<StdinLock<'static>>,
    layout: Layout,
    /// The number of the last line, from 1.
    pub line: u64,
}

/// Why there is no record.
pub enum InputError {
    /// Standard input can't be read.
    Io(io::Error),
    /// The line makes no record.
    Line(String),
}

impl Input {
    /// Starts at the first line.
    pub fn new(layout: Layout) -> Self {
        Self { reader: BufReader::with_capacity(1 << 16, io::stdin().lock()), layout, line: 0 }
    }

    /// Whether the next line may have to be waited for.
    pub fn is_drained(&self) -> bool {
        self.reader.buffer().is_empty()
    }

    /// The next record; `None` at the end.
    pub fn next(&mut self) -> Result<Option<InputRecord>, InputError> {
        loop {
            let mut line = Vec::new();
            let read = (&mut self.reader).take(LINE_SIZE_MAX).read_until(b'\n', &mut line).map_err(InputError::Io)?;
            if read == 0 {
                return Ok(None);
            }
            self.line += 1;
            if line.last() == Some(&b'\n') {
                line.pop();
            } else if read as u64 == LINE_SIZE_MAX {
                return Err(InputError::Line(format!("longer than {LINE_SIZE_MAX} bytes")));
            }
            let is_blank = line.iter().all(u8::is_ascii_whitespace);
            if is_blank && matches!(self.layout, Layout::Json) {
                continue;
            }
            return self.parse(line).map(Some).map_err(InputError::Line);
        }
    }

    fn parse(&self, line: Vec<u8>) -> Result<InputRecord, String> {
        match &self.layout {
            Layout::Values => Ok(plain(self.line, None, line)),
            Layout::KeysAndValues(separator) => {
                let size = separator.len();
                let at = line.windows(size).position(|window| window == separator.as_bytes());
                let parts = at.and_then(|at| Some((line.get(..at)?, line.get(at + size..)?)));
                let (key, value) = parts.ok_or_else(|| format!("no key separator {separator:?} in it"))?;
                Ok(plain(self.line, Some(key.to_vec()), value.to_vec()))
            }
            Layout::Json => parse_json(self.line, &line),
        }
    }
}

fn plain(line: u64, key: Option<Vec<u8>>, value: Vec<u8>) -> InputRecord {
    InputRecord { line, partition: None, key, value: Some(value), headers: Vec::new(), timestamp: None }
}

/// A record from the object that `consume --json` prints, whose `offset` means nothing here.
fn parse_json(line: u64, text: &[u8]) -> Result<InputRecord, String> {
    let value: Value = serde_json::from_slice(text).map_err(|error| format!("not JSON: {error}"))?;
    let Value::Object(fields) = value else { return Err("not a JSON object".to_owned()) };
    let known = ["partition", "offset", "timestamp", "key", "value", "headers"];
    if let Some(field) = fields.keys().find(|field| !known.contains(&field.as_str())) {
        return Err(format!("unknown field {field:?}"));
    }
    Ok(InputRecord {
        line,
        partition: partition(&fields)?,
        key: bytes("key", fields.get("key"))?,
        value: bytes("value", fields.get("value"))?,
        headers: headers(fields.get("headers"))?,
        timestamp: timestamp(&fields)?,
    })
}

fn partition(fields: &Map<String, Value>) -> Result<Option<u32>, String> {
    let Some(value) = fields.get("partition").filter(|value| !value.is_null()) else { return Ok(None) };
    let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
    number.map(Some).ok_or_else(|| format!("field \"partition\": expected a partition's number or null, got {value}"))
}

/// -1 is Kafka's way to say none.
fn timestamp(fields: &Map<String, Value>) -> Result<Option<Timestamp>, String> {
    let Some(value) = fields.get("timestamp").filter(|value| !value.is_null()) else { return Ok(None) };
    match value.as_i64() {
        Some(-1) => Ok(None),
        Some(millis @ 0..) => Ok(Timestamp::from_millis(millis)),
        _ => Err(format!("field \"timestamp\": expected milliseconds since 1970 or null, got {value}")),
    }
}

fn bytes(name: &str, value: Option<&Value>) -> Result<Option<Vec<u8>>, String> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => {
            STANDARD.decode(text).map(Some).map_err(|error| format!("field {name:?}: not base64: {error}"))
        }
        Some(_) => Err(format!("field {name:?}: expected base64 or null")),
    }
}

fn headers(value: Option<&Value>) -> Result<Headers, String> {
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(pairs)) => pairs.iter().map(header).collect(),
        Some(_) => Err("field \"headers\": expected a list of pairs".to_owned()),
    }
}

fn header(pair: &Value) -> Result<(String, Option<Vec<u8>>), String> {
    match pair.as_array().map(Vec::as_slice) {
        Some([Value::String(name), value]) => Ok((name.clone(), bytes("headers", Some(value))?)),
        _ => Err(format!("field \"headers\": expected pairs of a name and base64 or null, got {pair}")),
    }
}
