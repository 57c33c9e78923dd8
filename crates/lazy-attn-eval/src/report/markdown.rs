//! The report as tables for a page of documentation.

use super::{Comparison, ModeResult, Report};
use crate::statistics::{Difference, NUM_RESAMPLES};

/// `report` as Markdown.
#[must_use]
pub fn to_markdown(report: &Report) -> String {
    let setting = &report.setting;
    let mut lines = vec![
        format!("## {}, {}", setting.dataset, setting.model),
        String::new(),
        format!(
            "{} questions ({} left out because they do not fit), greedy, at most {} tokens; 95 % intervals from {NUM_RESAMPLES} \
             resamples of the questions, seed {}.",
            report.num_questions, report.num_left_out, setting.max_tokens, setting.seed
        ),
        String::new(),
    ];
    lines.extend(results(&report.results));
    if !report.comparisons.is_empty() {
        lines.push(String::new());
        lines.extend(comparisons(&report.comparisons));
    }
    if report.results.iter().any(|result| !result.groups.is_empty()) {
        lines.push(String::new());
        lines.extend(groups(&report.results));
    }
    lines.join("\n") + "\n"
}

/// A table; a column nobody has a value for is left out.
fn table(headings: &[&str], rows: &[Vec<Option<String>>]) -> Vec<String> {
    let is_used = |column: &usize| rows.iter().any(|row| row[*column].is_some());
    let columns: Vec<usize> = (0..headings.len()).filter(is_used).collect();
    let line = |cells: Vec<String>| format!("| {} |", cells.join(" | "));
    let head = line(columns.iter().map(|&column| headings[column].to_owned()).collect());
    let rule = format!("|{}", "---|".repeat(columns.len()));
    let body = rows
        .iter()
        .map(|row| line(columns.iter().map(|&column| row[column].clone().unwrap_or_default()).collect()));
    [head, rule].into_iter().chain(body).collect()
}

fn results(results: &[ModeResult]) -> Vec<String> {
    let headings = [
        "mode",
        "EM",
        "F1",
        "contains",
        "accuracy",
        "log-likelihood per token",
        "same in all orders",
        "prompt tokens",
        "computed",
        "recomputed",
    ];
    let row = |result: &ModeResult| {
        let likelihood = result
            .log_likelihood
            .map(|found| format!("{:.3} [{:.3}, {:.3}]", found.per_token, found.ci[0], found.ci[1]));
        let stability = result.stability.map(|found| with_interval(found.identical, found.ci));
        vec![
            Some(result.mode.clone()),
            Some(with_interval(result.em, result.ci.em)),
            Some(with_interval(result.f1, result.ci.f1)),
            Some(format!("{:.1}", result.contains)),
            result.accuracy.map(|share| format!("{share:.1}")),
            likelihood,
            stability,
            Some(format!("{:.0}", result.cost.prompt_tokens)),
            Some(format!("{:.0}", result.cost.computed_tokens)),
            Some(format!("{:.0}", result.cost.recomputed_tokens)),
        ]
    };
    table(&headings, &results.iter().map(row).collect::<Vec<_>>())
}

fn with_interval(value: f64, [low, high]: [f64; 2]) -> String {
    format!("{value:.1} [{low:.1}, {high:.1}]")
}

fn comparisons(comparisons: &[Comparison]) -> Vec<String> {
    let headings = ["less", "EM", "F1", "log-likelihood per token", "same answers"];
    let row = |found: &Comparison| {
        vec![
            Some(format!("{} - {}", found.mode, found.baseline)),
            Some(points(&found.em, 1)),
            Some(points(&found.f1, 1)),
            found.log_likelihood.map(|difference| points(&difference, 3)),
            Some(format!("{:.1} %", found.identical)),
        ]
    };
    table(&headings, &comparisons.iter().map(row).collect::<Vec<_>>())
}

fn points(difference: &Difference, digits: usize) -> String {
    let estimate = difference.estimate;
    let p_value =
        if difference.p_value < 0.001 { "< 0.001".into() } else { format!("= {:.3}", difference.p_value) };
    format!(
        "{:+.digits$} [{:+.digits$}, {:+.digits$}], p {p_value}",
        estimate.mean, estimate.low, estimate.high
    )
}

fn groups(results: &[ModeResult]) -> Vec<String> {
    let Some(first) = results.first() else { return Vec::new() };
    let modes: Vec<String> = results.iter().map(|result| format!("{} EM / F1", result.mode)).collect();
    let headings: Vec<&str> =
        ["questions", "n"].into_iter().chain(modes.iter().map(String::as_str)).collect();
    let row = |index: usize| {
        let group = &first.groups[index];
        let of_modes = results
            .iter()
            .map(|result| result.groups.get(index).map(|found| format!("{:.1} / {:.1}", found.em, found.f1)));
        [Some(group.group.clone()), Some(group.n.to_string())].into_iter().chain(of_modes).collect()
    };
    table(&headings, &(0..first.groups.len()).map(row).collect::<Vec<_>>())
}
