//! A plan as a table, for people and snapshot tests.

use std::fmt;

use super::{Coverage, Item, Part, Plan, Row, Visibility};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} tokens, {} items, {} slots, units of {} keys",
            self.num_tokens,
            self.items.len(),
            self.num_slots,
            self.config.unit_tokens
        )?;
        for (index, item) in self.items.iter().enumerate() {
            self.fmt_item(f, index, item)?;
        }
        for token in 0..self.num_tokens as usize {
            writeln!(f, "merge token {token}: {:?}", self.merge_list(token))?;
        }
        Ok(())
    }
}

impl Plan {
    fn fmt_item(&self, f: &mut fmt::Formatter<'_>, index: usize, item: &Item) -> fmt::Result {
        let coverage = match item.coverage {
            Coverage::Whole => "whole",
            Coverage::Partial => "part ",
        };
        let slots = item.slots();
        write!(f, "item {index:<3} {coverage} slots {:>3}..{:<3} keys", slots.begin, slots.end)?;
        for part in self.parts_of(item) {
            write!(f, " {part}")?;
        }
        write!(f, " | rows")?;
        for row in self.rows_of(item) {
            write!(f, " {row}")?;
        }
        writeln!(f)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.visibility {
            Visibility::All => "",
            Visibility::Causal => "^",
        };
        let (begin, end) = (self.num_skipped + self.keys.begin, self.num_skipped + self.keys.end);
        write!(f, "s{}[{begin}..{end}]{mark}@{}", self.handle.0, self.start)
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.token, self.base)
    }
}
