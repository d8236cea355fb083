//! Commands that only read.

use super::Surroundings;
use crate::cli::exit::{Exit, Failure};
use crate::cli::mount::Mount;
use crate::cli::sheet::{Row, Sheet};
use crate::cli::show;
use crate::protection::parse_point_name;
use serde_json::{Value, json};
use std::time::Duration;

type Around<'a, 'b> = &'a mut Surroundings<'b>;

/// A file as it is, or its JSON beside it.
fn raw(mount: &Mount, around: Around<'_, '_>, file: &str, json: bool) -> Result<(), Failure> {
    let text = mount.read(if json { format!("{file}.json") } else { file.to_owned() })?;
    around.print(&text)
}

/// A file of a VM or group as it is.
pub fn file(
    mount: &Mount,
    around: Around<'_, '_>,
    name: &str,
    file: &str,
    json: bool,
) -> Result<Exit, Failure> {
    raw(mount, around, &format!("{}/{file}", mount.item(name)?), json)?;
    Ok(Exit::Ok)
}

/// Parses the JSON beside a file.
fn value(mount: &Mount, file: &str) -> Result<Value, Failure> {
    let text = mount.read(format!("{file}.json"))?;
    let wrong = |error| Failure::new(Exit::Failed, format!("{file}.json: {error}"));
    serde_json::from_str(&text).map_err(wrong)
}

/// `status`.
pub fn status(
    mount: &Mount,
    around: Around<'_, '_>,
    names: &[String],
    next: bool,
    json: bool,
) -> Result<Exit, Failure> {
    let all = if names.is_empty() { mount.list("vms")? } else { names.to_vec() };
    let items = all.iter().map(|name| Ok((name, mount.item(name)?))).collect::<Result<Vec<_>, Failure>>()?;
    if json {
        let values = items.iter().map(|(_, dir)| value(mount, &format!("{dir}/status")));
        let values = values.collect::<Result<Vec<_>, _>>()?;
        around.json(&Value::Array(values))?;
    } else if next {
        for (name, dir) in &items {
            let step = mount.sheet(format!("{dir}/status"))?.show("next");
            around.print(&format!("{name}: {step}\n"))?;
        }
    } else if names.is_empty() {
        let mut rows = Vec::new();
        for (name, dir) in &items {
            rows.push(show::status_row(name, &mount.sheet(format!("{dir}/status"))?));
        }
        around.print(&show::table(show::STATUS, rows))?;
    } else {
        for (at, (_, dir)) in items.iter().enumerate() {
            if at > 0 {
                around.print("\n")?;
            }
            raw(mount, around, &format!("{dir}/status"), false)?;
        }
    }
    Ok(Exit::Ok)
}

/// `health`.
pub fn health(mount: &Mount, around: Around<'_, '_>, name: &str, json: bool) -> Result<Exit, Failure> {
    let path = format!("{}/health", mount.item(name)?);
    if json {
        raw(mount, around, &path, true)?;
        return Ok(Exit::Ok);
    }
    let sheet = mount.sheet(&path)?;
    around.print(&format!("{}\n", sheet.show("health")))?;
    let rows: Vec<Row> = sheet.rows("reason").collect();
    if !rows.is_empty() {
        let keys = ["severity", "name", "since", "figure", "limit", "do"];
        let rows = rows.iter().map(|row| keys.iter().map(|k| row.show(k)).collect());
        around.print(&show::table(&["SEVERITY", "REASON", "SINCE", "FIGURE", "LIMIT", "DO"], rows))?;
    }
    Ok(Exit::Ok)
}

/// `check`: exit code 4 where a rule fails.
pub fn check(mount: &Mount, around: Around<'_, '_>, name: &str, json: bool) -> Result<Exit, Failure> {
    let path = format!("{}/check", mount.item(name)?);
    let sheet = mount.sheet(&path)?;
    if json {
        raw(mount, around, &path, true)?;
    } else {
        let keys = ["command", "name", "result", "why", "do"];
        let rows = sheet.rows("rule").map(|row| keys.iter().map(|k| row.show(k)).collect());
        around.print(&show::table(&["COMMAND", "RULE", "RESULT", "WHY", "DO"], rows))?;
    }
    match sheet.get("failing") {
        Some("0") => Ok(Exit::Ok),
        Some(_) => Ok(Exit::Refused),
        None => Err(Failure::new(Exit::Failed, format!("{path} has no line `failing`"))),
    }
}

/// `policy`: shows, or writes the changed lines as one write.
pub fn policy(
    mount: &Mount,
    around: Around<'_, '_>,
    name: &str,
    changes: &[String],
    json: bool,
) -> Result<Exit, Failure> {
    let path = format!("{}/policy", mount.item(name)?);
    if !changes.is_empty() {
        let mut lines = String::new();
        for change in changes {
            let (key, value) = change.split_once('=').ok_or_else(|| {
                Failure::new(Exit::Usage, format!("`{change}`: expected is key=value, such as window=48h"))
            })?;
            lines.push_str(&format!("{}: {}\n", key.trim(), value.trim()));
        }
        // One write, as to a control file: all lines or none, and a refusal says which line and why.
        mount.command(&path, lines.trim_end())?;
    }
    raw(mount, around, &path, json)?;
    Ok(Exit::Ok)
}

/// `points`.
pub fn points(mount: &Mount, around: Around<'_, '_>, name: &str, json: bool) -> Result<Exit, Failure> {
    let dir = format!("{}/recovery-points", mount.item(name)?);
    let names = mount.list(&dir)?;
    let points: Vec<_> = names
        .iter()
        .filter_map(|name| {
            let (time, kind, label) = parse_point_name(name)?;
            Some((name.clone(), crate::protection::text_time(time), kind, label.unwrap_or("").to_owned()))
        })
        .collect();
    if json {
        let all = points.iter().map(
            |(name, time, kind, label)| json!({ "name": name, "time": time, "kind": kind, "label": label }),
        );
        around.json(&all.collect::<Vec<_>>().into())?;
    } else {
        let rows =
            points.into_iter().map(|(name, time, kind, label)| vec![time, kind.to_string(), label, name]);
        around.print(&show::table(&["TIME", "KIND", "LABEL", "NAME"], rows))?;
    }
    Ok(Exit::Ok)
}

/// `jobs`.
pub fn jobs(mount: &Mount, around: Around<'_, '_>, json: bool) -> Result<Exit, Failure> {
    let mut ids = mount.list("jobs")?;
    ids.sort_by_key(|id| (id.len(), id.clone()));
    if json {
        let values = ids.iter().map(|id| value(mount, &format!("jobs/{id}/status")));
        let values = values.collect::<Result<Vec<_>, _>>()?;
        around.json(&Value::Array(values))?;
        return Ok(Exit::Ok);
    }
    let mut rows = Vec::new();
    for id in &ids {
        let status = match mount.sheet(format!("jobs/{id}/status")) {
            // Jobs come and go while the list is made.
            Err(failure) if failure.exit == Exit::NotFound => continue,
            other => other?,
        };
        let mut row = vec![id.clone()];
        row.extend(["kind", "subject", "state", "step", "progress", "outcome"].map(|key| status.show(key)));
        rows.push(row);
    }
    around.print(&show::table(&["JOB", "KIND", "SUBJECT", "STATE", "STEP", "PROGRESS", "OUTCOME"], rows))?;
    Ok(Exit::Ok)
}

/// One job.
pub fn job(mount: &Mount, around: Around<'_, '_>, id: &str, json: bool) -> Result<Exit, Failure> {
    raw(mount, around, &format!("jobs/{id}/status"), json)?;
    Ok(Exit::Ok)
}

/// `events`: the newest ones of a subject, and on request what follows.
pub fn events(
    mount: &Mount,
    around: Around<'_, '_>,
    subject: Option<&str>,
    last: Option<usize>,
    follow: bool,
    json: bool,
) -> Result<Exit, Failure> {
    let file = if json { "site/events.json" } else { "site/events" };
    let concerns = |line: &str| match subject {
        None => true,
        Some(wanted) if json => serde_json::from_str::<Value>(line).is_ok_and(|v| v["subject"] == wanted),
        Some(wanted) => Row::parse(line).is_some_and(|row| row.get("subject") == Some(wanted)),
    };
    let mut seen = 0;
    let mut first = true;
    loop {
        let text = mount.read(file)?;
        // A file that became shorter was begun anew. A line that has no end yet is left for the next look.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let from = if seen <= whole && text.is_char_boundary(seen) { seen } else { 0 };
        let mut lines: Vec<&str> = text[from..whole].lines().filter(|line| concerns(line)).collect();
        if let Some(count) = last.filter(|_| first) {
            lines.drain(..lines.len().saturating_sub(count));
        }
        for line in lines {
            // Lines of the text are filled up with blanks to the length of the JSON's.
            around.print(&format!("{}\n", line.trim_end()))?;
        }
        (seen, first) = (whole, false);
        if !follow {
            return Ok(Exit::Ok);
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// What a verb would lose, for a person who is asked to confirm.
pub fn losses(control: &Sheet) -> String {
    let keys = ["choice", "last-write", "bytes", "writes", "time", "at-least"];
    let rows: Vec<Vec<String>> =
        control.rows("loss").map(|row| keys.iter().map(|k| row.show(k)).collect()).collect();
    if rows.is_empty() {
        return String::new();
    }
    show::table(&["CHOICE", "LAST-WRITE", "LOSES", "WRITES", "TIME", "AT-LEAST"], rows)
}
