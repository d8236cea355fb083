//! Control files as they are read, `allowed` and `check`.

use super::sheet::{Sheet, Value};
use crate::protection::admission::{Allowed, moment_name};
use crate::protection::control::usage;
use crate::protection::report::{ControlReport, LossReport, Outcome};
use crate::protection::{Column, Refusal, Refused, Verb};

/// What reading a control file shows: what the verb does, how it is used, whether it would be accepted now, what
/// each choice loses; on the handle that wrote, above all that, the outcome.
pub fn control_sheet(r: &ControlReport) -> Sheet {
    let mut sheet = Sheet::new();
    // What came of a line goes first: `now` is what another one would meet.
    if let Some((line, outcome)) = &r.outcome {
        sheet.set("written", line.as_str());
        outcome_lines(&mut sheet, outcome);
    }
    sheet
        .set("verb", r.verb.name())
        .set("does", r.verb.says())
        .set("usage", usage(r.verb))
        .set("now", allowed_text(&r.now));
    if let Allowed::No(refused) = &r.now {
        refusal_lines(&mut sheet, refused);
    }
    if !r.losses.is_empty() {
        sheet.set("loss", r.losses.iter().map(loss).collect::<Vec<_>>());
    }
    sheet
}

/// What came of lines written to a `policy` file.
pub fn outcome_sheet(outcome: &Outcome) -> Sheet {
    let mut sheet = Sheet::new();
    outcome_lines(&mut sheet, outcome);
    sheet
}

fn refusal_lines(sheet: &mut Sheet, refused: &Refused) {
    sheet
        .set("refusal", refused.refusal.name())
        .set("why", refused.message())
        .set("do", refused.remedy())
        .set("retry", refused.refusal.entry().retry);
}

fn outcome_lines(sheet: &mut Sheet, outcome: &Outcome) {
    match outcome {
        Outcome::Job(job) => {
            sheet.set("outcome", "accepted").set("outcome-job", job.as_str());
        }
        Outcome::Done(text) => {
            sheet.set("outcome", "done").set("outcome-says", text.as_str());
        }
        Outcome::WouldDo { steps, outage } => {
            let row = |step: &String| {
                let mut row = Sheet::new();
                row.set("does", step.as_str());
                row
            };
            sheet
                .set("outcome", "dry-run")
                .set("outcome-step", steps.iter().map(row).collect::<Vec<_>>())
                .set("outcome-outage", outage.map_or(Value::Text("unknown".to_owned()), Value::Duration));
        }
        Outcome::Refused(refused) => {
            sheet
                .set("outcome", "refused")
                .set("outcome-refusal", refused.refusal.name())
                .set("outcome-why", refused.message())
                .set("outcome-do", refused.remedy());
        }
    }
}

fn loss(l: &LossReport) -> Sheet {
    let mut row = Sheet::new();
    row.set("choice", l.choice.as_str())
        .set("moment", moment_name(l.moment.moment))
        .set("last-write", Value::Time(l.moment.time))
        .set("bytes", l.bytes.map_or(Value::Text("unknown".to_owned()), Value::Bytes))
        .set("writes", l.writes)
        .set("time", Value::Duration(l.age))
        .set("at-least", l.at_least);
    row
}

fn allowed_text(allowed: &Allowed) -> String {
    match allowed {
        Allowed::Yes => "accepted".to_owned(),
        Allowed::With(with) => format!("accepted with {with}"),
        Allowed::No(_) => "refused".to_owned(),
    }
}

/// `allowed`: the verbs that would be accepted now, and why not the others.
pub fn allowed_sheet(verbs: &[(Verb, Allowed)]) -> Sheet {
    let mut sheet = Sheet::new();
    for (verb, allowed) in verbs {
        let text = match allowed {
            Allowed::No(refused) => format!("refused {refused}"),
            other => allowed_text(other),
        };
        sheet.set(verb.name(), text);
    }
    sheet
}

/// One command of `check`: each rule with its result.
type Checked = (Column, Option<Refused>, Vec<(Refusal, Option<Refused>)>);

/// `check`: for each command of the loop what the state says, then every rule with its result, before it is needed.
pub fn check_sheet(commands: &[Checked]) -> Sheet {
    let mut rows = Vec::new();
    let mut failing = 0_u64;
    let mut row = |command: Column, rule: &str, result: Option<&Refused>| {
        failing += u64::from(result.is_some());
        let mut row = Sheet::new();
        row.set("command", command.name())
            .set("name", rule)
            .set("result", if result.is_some() { "fails" } else { "ok" })
            .set_some("why", result.map(Refused::message))
            .set_some("do", result.map(Refused::remedy));
        rows.push(row);
    };
    for (command, by_state, rules) in commands {
        row(*command, by_state.as_ref().map_or("state", |refused| refused.refusal.name()), by_state.as_ref());
        for (rule, result) in rules {
            row(*command, rule.name(), result.as_ref());
        }
    }
    let mut sheet = Sheet::new();
    sheet.set("failing", failing).set("rule", rows);
    sheet
}
