//! Rows under named columns: as Markdown, and as JSON.

use std::fmt;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

/// One entry of a table.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// A name.
    Text(String),
    /// A whole number.
    Count(u64),
    /// A number, shown with so many digits behind the point.
    Number(f64, usize),
    /// There is none.
    Missing,
}

impl From<&str> for Cell {
    fn from(text: &str) -> Cell {
        Cell::Text(text.to_owned())
    }
}

impl From<u32> for Cell {
    fn from(count: u32) -> Cell {
        Cell::Count(count.into())
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cell::Text(text) => f.write_str(text),
            Cell::Count(count) => write!(f, "{count}"),
            Cell::Number(value, digits) => write!(f, "{value:.digits$}"),
            Cell::Missing => f.write_str("-"),
        }
    }
}

impl Serialize for Cell {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Cell::Text(text) => serializer.serialize_str(text),
            Cell::Count(count) => serializer.serialize_u64(*count),
            Cell::Number(value, _) => serializer.serialize_f64(*value),
            Cell::Missing => serializer.serialize_none(),
        }
    }
}

/// What a section of the study found. Everything in it is simulated.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// Name of the section.
    pub name: &'static str,
    /// What was simulated.
    pub about: String,
    /// Heads of the columns, with units.
    pub columns: &'static [&'static str],
    /// Entries, one a column.
    pub rows: Vec<Vec<Cell>>,
}

impl Table {
    /// # Panics
    /// If a row has another number of entries than there are columns.
    #[must_use]
    pub(super) fn new(
        name: &'static str,
        about: &str,
        columns: &'static [&'static str],
        rows: impl IntoIterator<Item = Vec<Cell>>,
    ) -> Table {
        let rows: Vec<Vec<Cell>> = rows.into_iter().collect();
        assert!(rows.iter().all(|row| row.len() == columns.len()), "{name}: a row has an entry a column");
        Table { name, about: about.to_owned(), columns, rows }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "## {}: {} (simulated)\n", self.name, self.about)?;
        writeln!(f, "| {} |\n|{}", self.columns.join(" | "), "---|".repeat(self.columns.len()))?;
        for row in &self.rows {
            let row: Vec<String> = row.iter().map(Cell::to_string).collect();
            writeln!(f, "| {} |", row.join(" | "))?;
        }
        Ok(())
    }
}

/// A row by its columns.
struct Row<'a>(&'a [&'static str], &'a [Cell]);

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().zip(self.1))
    }
}

impl Serialize for Table {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(4))?;
        map.serialize_entry("simulated", &true)?;
        map.serialize_entry("name", self.name)?;
        map.serialize_entry("about", &self.about)?;
        let rows: Vec<Row<'_>> = self.rows.iter().map(|row| Row(self.columns, row)).collect();
        map.serialize_entry("rows", &rows)?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_markdown_and_json() {
        let rows = [vec![Cell::from("lazy"), Cell::Number(1.234, 1)], vec!["none".into(), Cell::Missing]];
        let table = Table::new("hits", "a store", &["policy", "hits, %"], rows);
        assert_eq!(
            table.to_string(),
            "## hits: a store (simulated)\n\n| policy | hits, % |\n|---|---|\n| lazy | 1.2 |\n| none | - |\n"
        );
        assert_eq!(
            serde_json::to_string(&table).unwrap(),
            r#"{"simulated":true,"name":"hits","about":"a store","rows":[{"policy":"lazy","hits, %":1.234},{"policy":"none","hits, %":null}]}"#
        );
    }
}
