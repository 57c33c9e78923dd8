//! The tables of ARCHITECTURE.md that rules read.

/// A row of the crate table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CrateRow {
    /// Package name.
    pub(super) name: String,
    /// Package names of the internal dependencies.
    pub(super) dependencies: Vec<String>,
}

/// The rows of the table under `## Crates`: name, purpose, internal dependencies, the rest.
pub(super) fn crate_rows(architecture: &str) -> Vec<CrateRow> {
    let rows = table_under(architecture, "## Crates");
    rows.iter()
        .filter_map(|cells| {
            let name = code_span(cells.first()?)?;
            let dependencies = cells.get(2)?.split(',').filter_map(|short| package_name(short.trim()));
            Some(CrateRow { name: name.to_owned(), dependencies: dependencies.collect() })
        })
        .collect()
}

/// First column of the table under `## Unsafe code`.
pub(super) fn unsafe_paths(architecture: &str) -> Vec<String> {
    let rows = table_under(architecture, "## Unsafe code");
    rows.iter().filter_map(|cells| Some(code_span(cells.first()?)?.to_owned())).collect()
}

/// Table rows between `heading` and the next heading of its level, split into trimmed cells.
fn table_under(text: &str, heading: &str) -> Vec<Vec<String>> {
    let lines = text.lines().skip_while(|line| line.trim_end() != heading).skip(1);
    lines
        .take_while(|line| !line.starts_with("## "))
        .filter(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect())
        .collect()
}

fn code_span(cell: &str) -> Option<&str> {
    cell.strip_prefix('`')?.strip_suffix('`')
}

/// `attn` is the crate `lazy-attn`; every other short name is a suffix of it.
fn package_name(short: &str) -> Option<String> {
    match short {
        "" | "-" => None,
        "attn" => Some("lazy-attn".to_owned()),
        _ => Some(format!("lazy-attn-{short}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# A\n## Crates\n| crate | what | internal deps |\n|---|---|---|\n\
        | `lazy-attn` | attends | types |\n| `lazy-attn-types` | ids | - |\n## Unsafe code\n\
        | path | why |\n|---|---|\n| `a/b` | c |\n## Other\n| `x` | y | z |\n";

    #[test]
    fn only_rows_with_a_crate_in_code_marks_are_read() {
        let row = |name: &str, dependencies: &[&str]| CrateRow {
            name: name.to_owned(),
            dependencies: dependencies.iter().map(|&name| name.to_owned()).collect(),
        };
        assert_eq!(crate_rows(TEXT), [row("lazy-attn", &["lazy-attn-types"]), row("lazy-attn-types", &[])]);
    }

    #[test]
    fn unsafe_paths_come_from_their_own_table() {
        assert_eq!(unsafe_paths(TEXT), ["a/b"]);
    }
}
