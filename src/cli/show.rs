//! Tables.

use super::sheet::Sheet;
use comfy_table::{ContentArrangement, Table, presets};

/// A table without borders; columns are separated by two blanks, and nothing is cut.
pub fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}

/// The columns of `status`.
pub const STATUS: &[&str] =
    &["NAME", "STATE", "DIRECTION", "HEALTH", "RPO", "BACKLOG", "LATEST-POINT", "JOB", "FLAGS"];

/// One row of `status`.
pub fn status_row(name: &str, status: &Sheet) -> Vec<String> {
    let keys = ["state", "direction", "health", "rpo", "backlog", "latest-point", "job", "flags"];
    std::iter::once(name.to_owned()).chain(keys.iter().map(|key| status.show(key))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up_and_cut_nothing() {
        let long = "x".repeat(300);
        let text = table(&["A", "LONG"], [vec!["one".into(), long.clone()], vec!["2".into(), "-".into()]]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "A    LONG");
        assert_eq!(lines[1], format!("one  {long}"));
        assert_eq!(lines[2], "2    -");
    }
}
