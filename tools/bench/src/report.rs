//! Medians, ratios, a table and JSON.

use crate::fio::{Figures, JOBS};
use crate::{Compare, Result};
use serde::Serialize;
use std::fmt::Write as _;
use std::path::Path;

/// All figures of a comparison, in the order in which they came.
pub struct Report {
    rounds: Vec<(String, String, Figures)>,
    machine: Machine,
}

#[derive(Serialize)]
struct Machine {
    kernel: String,
    processors: usize,
    device: Option<String>,
    seconds: u32,
    rounds: usize,
    mebibytes: u64,
}

/// One target in one job.
#[derive(Serialize)]
struct Row {
    job: String,
    target: String,
    #[serde(flatten)]
    median: Figures,
    /// Operations against the raw file's in the same round, median of the rounds; 1 is equal.
    to_raw: Option<f64>,
    /// Operations against the pass-through mount's, likewise.
    to_passthrough: Option<f64>,
    /// Operations against the null mount's, likewise.
    to_null: Option<f64>,
    /// Slowest and fastest round, operations a second.
    range: (f64, f64),
}

impl Report {
    pub fn new(device: Option<String>, options: &Compare) -> Self {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let machine = Machine {
            kernel: kernel.trim().to_owned(),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            device,
            seconds: options.seconds,
            rounds: options.rounds,
            mebibytes: options.size,
        };
        Self { rounds: Vec::new(), machine }
    }

    pub fn add(&mut self, job: &str, target: &str, figures: Figures) {
        self.rounds.push((job.into(), target.into(), figures));
    }

    /// The table, and JSON where it is wanted.
    pub fn print(&self, json: Option<&Path>) -> Result<()> {
        let rows = self.rows();
        let table = table(&rows);
        let text =
            serde_json::to_string_pretty(&serde_json::json!({ "machine": self.machine, "rows": rows }))?;
        match json {
            Some(path) if path == Path::new("-") => {
                eprint!("{table}");
                println!("{text}");
            }
            Some(path) => {
                print!("{table}");
                std::fs::write(path, text)?;
            }
            None => print!("{table}"),
        }
        Ok(())
    }

    fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        for (job, target, _) in &self.rounds {
            if rows.iter().any(|row| row.job == *job && row.target == *target) {
                continue;
            }
            let of_both = self.rounds.iter().filter(|(j, t, _)| j == job && t == target);
            let figures: Vec<Figures> = of_both.map(|(_, _, figures)| *figures).collect();
            let operations = sorted(figures.iter().map(|f| f.operations));
            let written = figures.iter().filter_map(|f| f.written_per_byte);
            rows.push(Row {
                job: job.clone(),
                target: target.clone(),
                median: Figures {
                    operations: median(&operations).unwrap_or(0.0),
                    mebibytes: median(&sorted(figures.iter().map(|f| f.mebibytes))).unwrap_or(0.0),
                    median_us: median(&sorted(figures.iter().map(|f| f.median_us))).unwrap_or(0.0),
                    p99_us: median(&sorted(figures.iter().map(|f| f.p99_us))).unwrap_or(0.0),
                    written_per_byte: median(&sorted(written)),
                    records_per_batch: median(&sorted(figures.iter().filter_map(|f| f.records_per_batch))),
                },
                to_raw: None,
                to_passthrough: None,
                to_null: None,
                range: (
                    operations.first().copied().unwrap_or(0.0),
                    operations.last().copied().unwrap_or(0.0),
                ),
            });
        }
        for row in &mut rows {
            row.to_raw = self.ratio(row, "raw");
            row.to_passthrough = self.ratio(row, "passthrough");
            row.to_null = self.ratio(row, "null");
        }
        rows
    }

    /// Round by round, because the disk changes more from minute to minute than targets differ. Of a target with
    /// several numbers of threads the fastest in each round counts.
    fn ratio(&self, row: &Row, to: &str) -> Option<f64> {
        let of = |target: &dyn Fn(&str) -> bool| {
            let found = self.rounds.iter().filter(|(job, name, _)| *job == row.job && target(name));
            found.map(|(_, name, figures)| (name.clone(), figures.operations)).collect::<Vec<_>>()
        };
        let own = of(&|name| name == row.target);
        let others = of(&|name| name.split('/').next() == Some(to));
        let kinds =
            others.iter().map(|(name, _)| name).collect::<std::collections::BTreeSet<_>>().len().max(1);
        let ratios = own.iter().zip(others.chunks(kinds)).filter_map(|((_, own), round)| {
            let other = round.iter().map(|(_, operations)| *operations).fold(0.0, f64::max);
            (other > 0.0).then_some(own / other)
        });
        median(&sorted(ratios))
    }
}

fn table(rows: &[Row]) -> String {
    let mut out = String::new();
    for job in JOBS.iter().filter(|job| rows.iter().any(|row| row.job == job.name)) {
        let _ = writeln!(out, "\n{} ({})", job.about, job.name);
        let _ = writeln!(
            out,
            "  {:<15} {:>9} {:>9} {:>7} {:>7} {:>7} {:>9} {:>9} {:>8} {:>7}  {}",
            "target",
            "ops/s",
            "MiB/s",
            "/raw",
            "/pass",
            "/null",
            "p50 µs",
            "p99 µs",
            "written",
            "/batch",
            "range"
        );
        for row in rows.iter().filter(|row| row.job == job.name) {
            let ratio = |r: Option<f64>| r.map_or_else(|| "-".into(), |r| format!("{r:.2}"));
            let _ = writeln!(
                out,
                "  {:<15} {:>9.0} {:>9.1} {:>7} {:>7} {:>7} {:>9.1} {:>9.1} {:>8} {:>7}  {:.0}..{:.0}",
                row.target,
                row.median.operations,
                row.median.mebibytes,
                ratio(row.to_raw),
                ratio(row.to_passthrough),
                ratio(row.to_null),
                row.median.median_us,
                row.median.p99_us,
                ratio(row.median.written_per_byte),
                ratio(row.median.records_per_batch),
                row.range.0,
                row.range.1,
            );
        }
    }
    out
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

fn median(sorted: &[f64]) -> Option<f64> {
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[half]),
        _ => Some((sorted[half - 1] + sorted[half]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_numbers() {
        assert_eq!(median(&sorted([3.0, 1.0, 2.0].into_iter())), Some(2.0));
        assert_eq!(median(&sorted([4.0, 1.0].into_iter())), Some(2.5));
        assert_eq!(median(&[]), None);
    }
}
