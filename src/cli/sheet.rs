//! `key: value` text, read.

use crate::protection::control::Line;

/// The lines of a file, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sheet {
    lines: Vec<(String, String)>,
}

impl Sheet {
    /// Takes a text apart; lines without a colon are passed over.
    pub fn parse(text: &str) -> Self {
        let pair = |line: &str| line.split_once(':').map(|(k, v)| (k.trim().to_owned(), v.trim().to_owned()));
        Self { lines: text.lines().filter_map(pair).collect() }
    }

    /// The first value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.lines.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    /// The value of a key, or `-` for none.
    pub fn show(&self, key: &str) -> String {
        match self.get(key) {
            None | Some("none" | "") => "-".to_owned(),
            Some(value) => value.to_owned(),
        }
    }

    /// All values of a key that are `name=value` pairs.
    pub fn rows(&self, key: &str) -> impl Iterator<Item = Row> {
        self.lines.iter().filter(move |(k, _)| k == key).filter_map(|(_, value)| Row::parse(value))
    }
}

/// Pairs of one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row(Line);

impl Row {
    /// Takes pairs apart, under the quoting of control lines.
    pub fn parse(text: &str) -> Option<Self> {
        Line::parse(text.as_bytes()).ok().map(Self)
    }

    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.option(name)
    }

    /// The value of a name, or `-`.
    pub fn show(&self, name: &str) -> String {
        self.get(name).unwrap_or("-").to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_rows() {
        let sheet = Sheet::parse(
            "state: standby\nhead-time: 2026-11-20T21:33:33.120Z\njob: none\nnoise\n\
                                  disk: name=\"a b\" size=1GiB\ndisk: name=c size=2GiB\n",
        );
        assert_eq!(sheet.get("state"), Some("standby"));
        assert_eq!(sheet.get("head-time"), Some("2026-11-20T21:33:33.120Z"));
        assert_eq!((sheet.show("job"), sheet.show("nothing")), ("-".to_owned(), "-".to_owned()));
        let names: Vec<String> = sheet.rows("disk").map(|row| row.show("name")).collect();
        assert_eq!(names, ["a b", "c"]);
        assert_eq!(sheet.rows("disk").next().unwrap().get("role"), None);
    }
}
