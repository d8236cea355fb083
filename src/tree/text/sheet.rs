//! Keys and values, rendered as text and as JSON.

use crate::protection::control::quote;
use crate::protection::{WallTime, size_text, text_time};
use serde_json::{Map, json};

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Words.
    Text(String),
    /// A count.
    Number(u64),
    /// Bytes: exact in both, the text in the largest unit that divides them.
    Bytes(u64),
    /// Nanoseconds: seconds with one decimal in the text, with all in JSON.
    Duration(u64),
    /// Wall time.
    Time(WallTime),
    /// Yes or no.
    Flag(bool),
    /// There is none.
    None,
    /// Several words.
    Words(Vec<String>),
    /// Several things of one kind: a line each.
    Rows(Vec<Sheet>),
}

/// Keys and values in order.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Sheet {
    lines: Vec<(&'static str, Value)>,
}

impl Sheet {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a line.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) -> &mut Self {
        self.lines.push((key, value.into()));
        self
    }

    /// Adds a line, unless there is nothing to say.
    pub fn set_some(&mut self, key: &'static str, value: Option<impl Into<Value>>) -> &mut Self {
        if let Some(value) = value {
            self.set(key, value);
        }
        self
    }

    /// The text of the file.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for (key, value) in &self.lines {
            match value {
                Value::Rows(rows) => {
                    for row in rows {
                        let pairs: Vec<String> =
                            row.lines.iter().map(|(k, v)| format!("{k}={}", quote(&v.text()))).collect();
                        out.push_str(&format!("{key}: {}\n", pairs.join(" ")));
                    }
                }
                value => out.push_str(&format!("{key}: {}\n", one_line(&value.text()))),
            }
        }
        out
    }

    /// The same as JSON. Rows are an array under the plural of their key; all else has its own.
    pub fn json(&self) -> serde_json::Value {
        let mut map = Map::new();
        for (key, value) in &self.lines {
            let key = if matches!(value, Value::Rows(_)) { plural(key) } else { (*key).to_owned() };
            map.insert(key, value.json());
        }
        map.into()
    }
}

fn plural(key: &str) -> String {
    if key.ends_with("ss") { format!("{key}es") } else { format!("{key}s") }
}

/// Text from elsewhere can't make a second line.
fn one_line(text: &str) -> String {
    if text.chars().any(char::is_control) { quote(text) } else { text.to_owned() }
}

impl Value {
    fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number(number) => number.to_string(),
            Self::Bytes(bytes) => size_text(*bytes),
            Self::Duration(ns) => format!("{}.{}s", ns / 1_000_000_000, ns / 100_000_000 % 10),
            Self::Time(time) => text_time(*time),
            Self::Flag(yes) => if *yes { "yes" } else { "no" }.to_owned(),
            Self::None => "none".to_owned(),
            Self::Words(words) if words.is_empty() => "none".to_owned(),
            Self::Words(words) => words.join(", "),
            Self::Rows(rows) => rows.len().to_string(),
        }
    }

    fn json(&self) -> serde_json::Value {
        match self {
            Self::Text(text) => json!(text),
            Self::Number(number) | Self::Bytes(number) => json!(number),
            Self::Duration(ns) => json!(*ns as f64 / 1e9),
            Self::Time(time) => json!(text_time(*time)),
            Self::Flag(yes) => json!(yes),
            Self::None => json!(null),
            Self::Words(words) => json!(words),
            Self::Rows(rows) => rows.iter().map(Sheet::json).collect::<Vec<_>>().into(),
        }
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<bool> for Value {
    fn from(yes: bool) -> Self {
        Self::Flag(yes)
    }
}

impl From<Vec<Sheet>> for Value {
    fn from(rows: Vec<Sheet>) -> Self {
        Self::Rows(rows)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::None, Into::into)
    }
}
