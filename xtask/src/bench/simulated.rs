//! Simulated hit ratios beside their closed forms: `lazyattn bench simulate hits --json` as a table and charts.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use lazy_attn_plot::{Axis, LineChart, Mark, Series};
use serde::Deserialize;

/// The folder, which holds nothing that was measured, and the file in it.
pub(super) const FOLDER: &str = "simulated";
const FILE: &str = "hits.json";

#[derive(Debug, Deserialize)]
struct Hits {
    about: String,
    rows: Vec<Row>,
}

/// One policy in one store.
#[derive(Debug, Clone, Deserialize)]
struct Row {
    alpha: f64,
    #[serde(rename = "room, documents")]
    room: u32,
    policy: String,
    #[serde(rename = "found in place, %")]
    in_place: f64,
    #[serde(rename = "standard error")]
    error: f64,
    #[serde(rename = "found elsewhere, %")]
    elsewhere: f64,
    #[serde(rename = "top C, %")]
    best: f64,
    #[serde(rename = "least recently used, %")]
    lru: f64,
    #[serde(rename = "top C/D, %")]
    best_copies: f64,
    #[serde(rename = "least recently used of copies, %")]
    lru_copies: f64,
}

/// The part of the page, and the charts of the folder; nothing if the file is not there.
pub(super) fn section(results: &Path) -> Result<Option<String>> {
    let folder = results.join(FOLDER);
    let Ok(text) = fs::read_to_string(folder.join(FILE)) else { return Ok(None) };
    let hits: Hits = serde_json::from_str(&text).with_context(|| format!("{FILE} is no table of hits"))?;
    let mut page = format!(
        "\n## Hit ratios by the size of the store: simulated\n\n    lazyattn bench simulate hits --json\n\n\
         The real scheduler and KV store without a model; nothing here was measured on a device. Traffic: {}. In place: as it is needed. \
         Elsewhere: at another position, to be rotated. *Top C* is the best that any store can do that does not know the future.\n\n{}\n",
        hits.about,
        table(&hits.rows)
    );
    for alpha in alphas(&hits.rows) {
        let of: Vec<Row> = hits.rows.iter().filter(|row| row.alpha == alpha).cloned().collect();
        let file = format!("hits-a{alpha}.svg");
        fs::write(folder.join(&file), chart(alpha, &of)?)?;
        let _ = writeln!(page, "![Hit ratios, alpha {alpha}, simulated](results/{FOLDER}/{file})\n");
    }
    Ok(Some(page))
}

fn alphas(rows: &[Row]) -> Vec<f64> {
    let mut alphas: Vec<f64> = rows.iter().map(|row| row.alpha).collect();
    alphas.dedup();
    alphas
}

fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| alpha | C | policy | in place | elsewhere | top C | least recently used | top C/D | least recently used, copies |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let Row { alpha, room, policy, in_place, error, elsewhere, best, lru, best_copies, lru_copies } = row;
        let _ = writeln!(
            text,
            "| {alpha} | {room} | `{policy}` | {in_place:.1} +- {error:.1} % | {elsewhere:.1} % | {best:.1} % | {lru:.1} % \
             | {best_copies:.1} % | {lru_copies:.1} % |"
        );
    }
    text
}

/// A closed form's name in the legend, and where a row has its percentage.
type ClosedForm = (&'static str, fn(&Row) -> f64);

fn chart(alpha: f64, rows: &[Row]) -> Result<String> {
    let first = rows.first().map(|row| row.policy.clone()).unwrap_or_default();
    let closed: [ClosedForm; 4] = [
        ("top C", |row| row.best),
        ("least recently used", |row| row.lru),
        ("top C/D", |row| row.best_copies),
        ("least recently used, copies", |row| row.lru_copies),
    ];
    let line = |(name, value): ClosedForm| {
        let points = rows.iter().filter(|row| row.policy == first);
        Series::new(name, Mark::Dashes, points.map(|row| (f64::from(row.room), value(row) / 100.0)).collect())
    };
    let mut policies: Vec<&str> = rows.iter().map(|row| row.policy.as_str()).collect();
    policies.sort_unstable();
    policies.dedup();
    let dots = policies.into_iter().map(|policy| {
        let points = rows.iter().filter(|row| row.policy == policy);
        Series::new(
            policy,
            Mark::Dots,
            points.map(|row| (f64::from(row.room), row.in_place / 100.0)).collect(),
        )
    });
    let chart = LineChart {
        title: format!("Document tokens found in place, alpha {alpha}, and the closed forms (simulated)"),
        x: Axis::linear("room, documents of a pool of 100").over(0.0, 100.0),
        y: Axis::linear("part of the document tokens").over(0.0, 1.0),
        series: closed.map(line).into_iter().chain(dots).collect(),
    };
    Ok(chart.to_svg()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simulated_ratios_become_a_table_and_a_chart_that_say_so() {
        let row = |room: u32, policy: &str| Row {
            alpha: 1.1,
            room,
            policy: policy.to_owned(),
            in_place: 40.0,
            error: 0.25,
            elsewhere: 0.0,
            best: 50.0,
            lru: 35.0,
            best_copies: 20.0,
            lru_copies: 10.0,
        };
        let rows = [row(5, "lazy"), row(5, "reencode"), row(50, "lazy"), row(50, "reencode")];
        assert!(table(&rows).contains("| 1.1 | 5 | `lazy` | 40.0 +- 0.2 % |"), "{}", table(&rows));
        let svg = chart(1.1, &rows).unwrap();
        assert!(
            svg.contains("(simulated)") && svg.contains(">top C/D</text>") && svg.contains(">lazy</text>")
        );
        assert_eq!(alphas(&rows), [1.1]);
    }
}
