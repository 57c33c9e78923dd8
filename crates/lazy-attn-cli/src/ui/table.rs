//! Columns of text.

/// A table whose columns are as wide as their widest cell.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub(crate) fn new(headings: &[&str]) -> Table {
        Table { rows: vec![headings.iter().map(|&heading| heading.to_owned()).collect()] }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The table as lines; cells of a column whose entries all start with a digit are aligned to the right.
    pub(crate) fn lines(&self) -> Vec<String> {
        let num_columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let columns: Vec<(usize, bool)> = (0..num_columns).map(|column| self.column(column)).collect();
        self.rows
            .iter()
            .map(|row| {
                let cells = row.iter().zip(&columns).map(|(cell, &(width, is_numeric))| {
                    let spare = " ".repeat(width - cell.chars().count());
                    if is_numeric { format!("{spare}{cell}") } else { format!("{cell}{spare}") }
                });
                cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
            })
            .collect()
    }

    fn column(&self, column: usize) -> (usize, bool) {
        let cells = || self.rows.iter().filter_map(|row| row.get(column));
        let width = cells().map(|cell| cell.chars().count()).max().unwrap_or(0);
        let mut entries = cells().skip(1).filter(|cell| !cell.is_empty()).peekable();
        let is_numeric =
            entries.peek().is_some() && entries.all(|cell| cell.starts_with(|c: char| c.is_ascii_digit()));
        (width, is_numeric)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_numbers_to_the_right() {
        let mut table = Table::new(&["name", "n"]);
        table.row(["long name".to_owned(), "7".to_owned()]);
        table.row(["é".to_owned(), "123".to_owned()]);
        assert_eq!(table.lines(), ["name         n", "long name    7", "é          123"]);
    }
}
