//! Every dependency between crates is an arrow of the crate table, and every arrow a dependency.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Violation;
use super::architecture::CrateRow;
use crate::shell;

/// Every crate may test with it; nothing may ship with it.
const TESTKIT: &str = "lazy-attn-testkit";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Normal or build dependency.
    Shipped,
    Tests,
}

/// The crates under `crates/` and the workspace crates each depends on.
#[derive(Debug, Default)]
pub(super) struct Workspace {
    arrows: BTreeMap<String, Vec<(String, Use)>>,
}

impl Workspace {
    pub(super) fn load(root: &Path) -> Result<Workspace> {
        let mut command = shell::cargo(root);
        command.args(["metadata", "--no-deps", "--format-version", "1"]);
        Workspace::parse(&shell::read(&mut command)?)
    }

    fn parse(metadata: &str) -> Result<Workspace> {
        let metadata: Value = serde_json::from_str(metadata)?;
        let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
        let named = packages.iter().filter_map(|package| Some((package["name"].as_str()?, package)));
        let crates: BTreeMap<&str, &Value> = named.filter(|(name, _)| *name != "xtask").collect();
        let arrows = crates.iter().map(|(&name, package)| {
            let dependencies = package["dependencies"].as_array().into_iter().flatten();
            let internal = dependencies.filter_map(dependency);
            let internal = internal.filter(|(name, _)| crates.contains_key(name.as_str()));
            (name.to_owned(), internal.collect())
        });
        Ok(Workspace { arrows: arrows.collect() })
    }
}

fn dependency(dependency: &Value) -> Option<(String, Use)> {
    let usage = if dependency["kind"] == "dev" { Use::Tests } else { Use::Shipped };
    Some((dependency["name"].as_str()?.to_owned(), usage))
}

pub(super) fn check(rows: &[CrateRow], workspace: &Workspace) -> Vec<Violation> {
    let mut messages = Vec::new();
    for (name, arrows) in &workspace.arrows {
        match rows.iter().find(|row| row.name == *name) {
            Some(row) => messages.extend(compare(row, arrows)),
            None => messages.push(format!("crate `{name}` has no row in the crate table")),
        }
    }
    for row in rows.iter().filter(|row| !workspace.arrows.contains_key(&row.name)) {
        messages.push(format!("the crate table has a row for `{}`, which does not exist", row.name));
    }
    let violation =
        |message| Violation { path: "ARCHITECTURE.md".to_owned(), line: 0, rule: "arrows", message };
    messages.into_iter().map(violation).collect()
}

fn compare(row: &CrateRow, arrows: &[(String, Use)]) -> Vec<String> {
    let name = &row.name;
    let is_allowed = |(to, usage): &(String, Use)| {
        row.dependencies.contains(to) || (*usage == Use::Tests && to == TESTKIT)
    };
    let extra = arrows.iter().filter(|arrow| !is_allowed(arrow));
    let extra = extra.map(|(to, _)| format!("`{name}` depends on `{to}`, an arrow the table does not have"));
    let exists = |to: &String| arrows.contains(&(to.clone(), Use::Shipped));
    let stale = row.dependencies.iter().filter(|to| !exists(to));
    let stale = stale.map(|to| format!("the table has an arrow `{name}` -> `{to}` that no manifest has"));
    extra.chain(stale).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const METADATA: &str = r#"{"packages": [
        {"name": "lazy-attn", "dependencies": [
            {"name": "lazy-attn-types", "kind": null}, {"name": "serde", "kind": null},
            {"name": "lazy-attn-testkit", "kind": "dev"}]},
        {"name": "lazy-attn-types", "dependencies": []},
        {"name": "lazy-attn-testkit", "dependencies": [{"name": "lazy-attn-types", "kind": null}]},
        {"name": "xtask", "dependencies": [{"name": "lazy-attn", "kind": null}]}]}"#;

    fn problems(rows: &[(&str, &[&str])]) -> Vec<String> {
        let rows: Vec<CrateRow> = rows
            .iter()
            .map(|(name, dependencies)| CrateRow {
                name: (*name).to_owned(),
                dependencies: dependencies.iter().map(|&to| to.to_owned()).collect(),
            })
            .collect();
        check(&rows, &Workspace::parse(METADATA).unwrap()).into_iter().map(|v| v.message).collect()
    }

    const TESTKIT_ROW: (&str, &[&str]) = ("lazy-attn-testkit", &["lazy-attn-types"]);
    const TYPES_ROW: (&str, &[&str]) = ("lazy-attn-types", &[]);

    #[test]
    fn a_table_that_tells_the_truth_passes() {
        assert!(problems(&[("lazy-attn", &["lazy-attn-types"]), TYPES_ROW, TESTKIT_ROW]).is_empty());
    }

    #[test]
    fn an_arrow_outside_the_table_fails() {
        let found = problems(&[("lazy-attn", &[]), TYPES_ROW, TESTKIT_ROW]);
        assert!(
            found.len() == 1 && found[0].contains("`lazy-attn` depends on `lazy-attn-types`"),
            "{found:?}"
        );
    }

    #[test]
    fn an_arrow_that_is_gone_fails() {
        let rows = [("lazy-attn", &["lazy-attn-types", "lazy-attn-kv"][..]), TYPES_ROW, TESTKIT_ROW];
        let found = problems(&rows);
        assert!(found.len() == 1 && found[0].contains("that no manifest has"), "{found:?}");
    }

    #[test]
    fn crates_and_rows_come_in_pairs() {
        let found = problems(&[TYPES_ROW, TESTKIT_ROW, ("lazy-attn-gone", &[])]);
        assert_eq!(found.len(), 2, "{found:?}");
    }

    #[test]
    fn shipping_with_the_test_kit_fails() {
        let metadata = METADATA.replace(r#""dev""#, "null");
        let row = CrateRow { name: "lazy-attn".into(), dependencies: vec!["lazy-attn-types".into()] };
        let workspace = Workspace::parse(&metadata).unwrap();
        let found = compare(&row, &workspace.arrows["lazy-attn"]);
        assert!(found.len() == 1 && found[0].contains(TESTKIT), "{found:?}");
    }
}
