//! Files of lines that become more: `site/events`, `events.json`, a job's `log`. `tail -f` follows them.
//!
//! L1. A byte stays at its offset as long as the file is open. What is dropped at the old end of the events moves the
//!     beginning of a later opening only.
//! L2. A line of `events` has the length of its line in `events.json`: it is filled up with blanks. So both are read
//!     from any offset without an index, and neither says what the other doesn't.

use crate::protection::control::quote;
use crate::tree::controls::Controls;
use crate::tree::node::{Form, JobFile, Node, SiteFile};
use crate::tree::ops::{Answer, Errno};
use crate::tree::tree::{Tree, failed};
use serde_json::Value;

/// The longest line of events, bytes.
const LINE_MAX: u64 = 64 << 10;

/// An opening.
pub(super) enum Lines {
    /// Events from this offset of all that ever were.
    Events(Form, u64),
    /// A job's.
    Log(String),
}

impl Tree {
    pub(super) fn lines_of(&self, node: &Node) -> Answer<Lines> {
        match node {
            Node::SiteFile(SiteFile::Events, form) => {
                Ok(Lines::Events(*form, self.host.controls().events().range().0))
            }
            Node::JobFile(id, JobFile::Log, _) => Ok(Lines::Log(id.clone())),
            _ => Err(Errno::EINVAL),
        }
    }

    pub(super) fn read_lines(&self, lines: &Lines, offset: u64, size: usize) -> Answer<Vec<u8>> {
        let controls = self.host.controls();
        match lines {
            Lines::Log(id) => controls.job_log(id, offset, size).map_err(failed),
            Lines::Events(Form::Json, begin) => events(controls, begin + offset, size),
            Lines::Events(Form::Text, begin) => {
                let at = begin + offset;
                let from = at.saturating_sub(LINE_MAX).max(*begin);
                let bytes = events(controls, from, (at - from) as usize + size + LINE_MAX as usize)?;
                let first = (at - from) as usize;
                let mut text = as_text(&bytes);
                if text.len() <= first {
                    return Ok(Vec::new());
                }
                text.drain(..first);
                text.truncate(size);
                Ok(text)
            }
        }
    }

    pub(super) fn length_of_lines(&self, lines: &Lines) -> Answer<u64> {
        match lines {
            Lines::Log(id) => {
                let log = self.host.controls().job_log(id, 0, 16 << 20).map_err(failed)?;
                Ok(log.len() as u64)
            }
            Lines::Events(_, begin) => Ok(self.host.controls().events().range().1.saturating_sub(*begin)),
        }
    }
}

/// Bytes from an offset, over the ends of files.
fn events(controls: &dyn Controls, mut at: u64, size: usize) -> Answer<Vec<u8>> {
    let mut out = Vec::new();
    while out.len() < size {
        let (from, piece) = controls.events().read(at, size - out.len()).map_err(failed)?;
        if piece.is_empty() {
            break;
        }
        at = from + piece.len() as u64;
        out.extend_from_slice(&piece);
    }
    Ok(out)
}

/// L2. The part of a line before the first line break, whose beginning isn't there, stays as it is: nobody reads it.
fn as_text(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len());
    for line in json.split_inclusive(|b| *b == b'\n') {
        let whole = line.strip_suffix(b"\n").and_then(|l| serde_json::from_slice::<Value>(l).ok());
        let Some(Value::Object(map)) = whole else {
            out.extend_from_slice(line);
            continue;
        };
        // The time first, so that lines sort by it.
        let first = map.iter().filter(|(key, _)| *key == "time");
        let words: Vec<String> = first
            .chain(map.iter().filter(|(key, _)| *key != "time"))
            .map(|(key, value)| match value {
                Value::String(text) => format!("{key}={}", quote(text)),
                other => format!("{key}={other}"),
            })
            .collect();
        let mut text = words.join(" ").into_bytes();
        text.resize(line.len() - 1, b' ');
        out.extend_from_slice(&text);
        out.push(b'\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::site::events::Event;

    #[test]
    fn text_has_the_length_of_the_json() {
        let hard = [
            "",
            "plain",
            "a \"quoted\" one",
            "tab\there",
            "line\nbreak",
            "back\\slash",
            "ü – ∞",
            "\u{7}bell",
        ];
        for text in hard {
            let event = Event::command(0, (0, 10, 4_000_000), Some("web 01"), text, text);
            let json = format!("{}\n", serde_json::to_string(&event).unwrap());
            let shown = as_text(json.as_bytes());
            assert_eq!(shown.len(), json.len(), "{text:?}");
            let shown = String::from_utf8(shown).unwrap();
            assert!(shown.contains("uid=0 ") && shown.ends_with('\n'), "{shown:?}");
            assert_eq!(shown.matches('\n').count(), 1, "{shown:?}");
        }
    }
}
