//! A line taken apart: words and `key=value`, with quotes.

use super::LINE_MAX;
use std::fmt;

/// Why bytes are no control line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// Nothing but blanks: no command yet.
    #[error("the line is empty")]
    Empty,
    /// 4096 bytes or more.
    #[error("the line has {LINE_MAX} bytes or more")]
    TooLong,
    /// More than one line.
    #[error("there are two lines; one command is one line")]
    TwoLines,
    /// Not UTF-8.
    #[error("the line is not UTF-8")]
    NotText,
    /// A control character outside of an escape.
    #[error("there is a control character (byte {0})")]
    ControlCharacter(usize),
    /// A quote that doesn't end, or text directly behind one that ends.
    #[error("the quotes around `{0}` don't match")]
    Quotes(String),
    /// An escape that there isn't.
    #[error("`\\{0}` is no escape: \\\", \\\\, \\n, \\t and \\xNN are")]
    Escape(String),
    /// A key that isn't one.
    #[error("`{0}` is no key: lower-case letters, digits and `-`, a letter first")]
    BadKey(String),
    /// A key twice.
    #[error("`{0}=` stands there twice")]
    Twice(String),
    /// What a control file shows.
    #[error("`{0}` is what this file shows, not a command")]
    Shown(String),
}

/// Words in order, and values by key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Line {
    /// The words without a key.
    pub words: Vec<String>,
    /// Keys with their values, in order.
    pub options: Vec<(String, String)>,
}

impl Line {
    /// Takes the bytes of one write apart.
    pub fn parse(bytes: &[u8]) -> Result<Self, LineError> {
        if bytes.len() >= LINE_MAX {
            return Err(LineError::TooLong);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| LineError::NotText)?;
        let text = text.trim_matches(|c| matches!(c, ' ' | '\t' | '\r' | '\n'));
        if text.is_empty() {
            return Err(LineError::Empty);
        }
        if text.contains('\n') {
            return Err(LineError::TwoLines);
        }
        if let Some((at, _)) = text.char_indices().find(|(_, c)| c.is_control() && !matches!(c, '\t' | '\r'))
        {
            return Err(LineError::ControlCharacter(at));
        }
        let mut line = Self::default();
        let mut rest = text;
        loop {
            rest = rest.trim_start_matches(blank);
            if rest.is_empty() {
                break;
            }
            rest = line.token(rest)?;
        }
        match line.words.first() {
            Some(first) if first.ends_with(':') => Err(LineError::Shown(first.clone())),
            None if line.options.is_empty() => Err(LineError::Empty),
            _ => Ok(line),
        }
    }

    /// Takes one token off and returns the rest.
    fn token<'a>(&mut self, text: &'a str) -> Result<&'a str, LineError> {
        if text.starts_with('"') {
            let (word, rest) = quoted(text)?;
            self.words.push(word);
            return Ok(rest);
        }
        let end = text.find(|c| blank(c) || c == '"' || c == '=').unwrap_or(text.len());
        let (head, rest) = text.split_at(end);
        let Some(value) = rest.strip_prefix('=') else {
            if rest.starts_with('"') {
                return Err(LineError::Quotes(clip(text)));
            }
            self.words.push(head.to_owned());
            return Ok(rest);
        };
        if !is_key(head) {
            return Err(LineError::BadKey(head.to_owned()));
        }
        if self.options.iter().any(|(key, _)| key == head) {
            return Err(LineError::Twice(head.to_owned()));
        }
        let (value, rest) = if value.starts_with('"') {
            quoted(value)?
        } else {
            let end = value.find(|c| blank(c) || c == '"').unwrap_or(value.len());
            let (value, rest) = value.split_at(end);
            if rest.starts_with('"') {
                return Err(LineError::Quotes(clip(text)));
            }
            (value.to_owned(), rest)
        };
        self.options.push((head.to_owned(), value));
        Ok(rest)
    }

    /// The value of a key.
    pub fn option(&self, key: &str) -> Option<&str> {
        self.options.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }
}

impl fmt::Display for Line {
    /// The line that reads back as this one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = self.words.iter().map(|word| quote(word));
        let options = self.options.iter().map(|(key, value)| format!("{key}={}", quote(value)));
        f.write_str(&words.chain(options).collect::<Vec<_>>().join(" "))
    }
}

fn blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r')
}

fn is_key(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// At most forty characters, for a message.
fn clip(text: &str) -> String {
    text.chars().take(40).collect()
}

/// The text in the quotes that `text` begins with, and what stands behind them.
fn quoted(text: &str) -> Result<(String, &str), LineError> {
    let unmatched = || LineError::Quotes(clip(text));
    let mut out = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => {
                let rest = &text[at + 1..];
                return if rest.is_empty() || rest.starts_with(blank) {
                    Ok((out, rest))
                } else {
                    Err(unmatched())
                };
            }
            '\\' => match chars.next().ok_or_else(unmatched)?.1 {
                escaped @ ('"' | '\\') => out.push(escaped),
                'n' => out.push('\n'),
                't' => out.push('\t'),
                'x' => {
                    let digits: String = chars.by_ref().take(2).map(|(_, c)| c).collect();
                    let code = u8::from_str_radix(&digits, 16)
                        .ok()
                        .filter(|b| digits.len() == 2 && (*b < 0xa0) && char::from(*b).is_control());
                    out.push(char::from(code.ok_or_else(|| LineError::Escape(format!("x{digits}")))?));
                }
                other => return Err(LineError::Escape(other.to_string())),
            },
            c => out.push(c),
        }
    }
    Err(unmatched())
}

/// A word or value as it is typed: in quotes where it needs them.
pub fn quote(text: &str) -> String {
    let plain = |c: char| !c.is_control() && !matches!(c, ' ' | '"' | '=') && !c.is_whitespace();
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
