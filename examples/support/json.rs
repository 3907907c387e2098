//! One JSON object a line, its fields in the order in which they are added.
//!
//! Text is escaped by `serde_json`; bytes are written as base64, and what is missing as `null`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// An object under construction.
pub struct Object(String);

impl Object {
    /// An empty object.
    pub fn new() -> Self {
        Self(String::from("{"))
    }

    /// A field whose value is JSON already.
    pub fn raw(mut self, name: &str, json: &str) -> Self {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push_str(&quoted(name));
        self.0.push(':');
        self.0.push_str(json);
        self
    }

    /// A field of text.
    pub fn text(self, name: &str, value: &str) -> Self {
        self.raw(name, &quoted(value))
    }

    /// A field of a number.
    pub fn number(self, name: &str, value: impl Into<i64>) -> Self {
        let value: i64 = value.into();
        self.raw(name, &value.to_string())
    }

    /// A field of bytes.
    pub fn bytes(self, name: &str, value: Option<&[u8]>) -> Self {
        self.raw(name, &encoded(value))
    }

    /// The record fields that every tool prints alike.
    pub fn key_value_headers<'h>(
        self,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl Iterator<Item = (&'h [u8], Option<&'h [u8]>)>,
    ) -> Self {
        let pair =
            |(name, value): (&[u8], _)| format!("[{},{}]", quoted(&String::from_utf8_lossy(name)), encoded(value));
        let headers: Vec<String> = headers.map(pair).collect();
        self.bytes("key", key).bytes("value", value).raw("headers", &format!("[{}]", headers.join(",")))
    }

    /// The finished line, without its end.
    pub fn finish(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

/// A JSON string.
pub fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Bytes in base64, or `null`.
fn encoded(bytes: Option<&[u8]>) -> String {
    bytes.map_or_else(|| "null".to_owned(), |bytes| format!("\"{}\"", STANDARD.encode(bytes)))
}
