//! Cutting work to size: pieces are made of whole units, so that no cut shows in a result.

use lazy_attn_types::DocumentFocus;

use super::{Part, Row, Span};

/// A part and the place of its segment in the context.
#[derive(Debug, Clone, Copy)]
pub(super) struct PiecePart {
    pub(super) part: Part,
    /// Index of the view in the step in a chain, zero in a shared piece; see [`Piece::order`].
    pub(super) view: u32,
}

/// A row and, in a shared piece, the place of the segment in the row's context.
#[derive(Debug, Clone, Copy)]
pub(super) struct PieceRow {
    pub(super) row: Row,
    /// Index of the view in the step in a shared piece, zero in a chain.
    pub(super) view: u32,
}

/// Which parts of a context a piece of a focused run has: all of them that it has, in one fold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Half {
    /// The documents that are focused.
    Documents(DocumentFocus),
    /// Everything else.
    Rest,
}

/// Work before it is cut: all rows attend to all parts.
#[derive(Debug, Clone, Default)]
pub(super) struct Piece {
    pub(super) parts: Vec<PiecePart>,
    pub(super) rows: Vec<PieceRow>,
    /// Whether the parts are all that the rows see.
    pub(super) is_whole: bool,
    /// Whether it may be cut between units. Not for long runs: a partial per unit and token would fill memory.
    pub(super) splits_keys: bool,
    /// Set in a run that focuses its documents.
    pub(super) half: Option<Half>,
}

impl Piece {
    /// Sort key of a partial of `row` over `part`: one of the two views is zero.
    pub(super) fn order(part: &PiecePart, row: &PieceRow) -> u32 {
        part.view + row.view
    }

    /// Estimated work, in pairs of keys and rows. Reading a key costs about as much as four rows using it, and a unit
    /// about as much as sixteen keys, whatever its length.
    pub(super) fn cost(&self, unit_tokens: u32) -> u64 {
        let keys: u64 = self.parts.iter().map(|entry| keys_cost(entry.part, unit_tokens)).sum();
        keys * self.cost_per_key()
    }

    fn cost_per_key(&self) -> u64 {
        self.rows.len() as u64 + 4
    }

    /// Cuts the piece into pieces of at most `max_rows` rows.
    pub(super) fn split_rows(self, max_rows: u32, out: &mut Vec<Piece>) {
        let max_rows = max_rows as usize;
        if self.rows.len() <= max_rows {
            out.push(self);
            return;
        }
        let size = self.rows.len().div_ceil(self.rows.len().div_ceil(max_rows));
        for rows in self.rows.chunks(size) {
            out.push(Piece { parts: self.parts.clone(), rows: rows.to_vec(), ..self });
        }
    }

    /// Cuts the piece between units into about equal pieces of at most about `budget`.
    pub(super) fn split_keys(self, unit_tokens: u32, budget: u64, out: &mut Vec<Piece>) {
        let cost = self.cost(unit_tokens);
        let num_pieces = cost.div_ceil(budget.max(1));
        if num_pieces <= 1 {
            out.push(self);
            return;
        }
        let budget = cost.div_ceil(num_pieces);
        let mut open = Piece { rows: self.rows.clone(), ..Piece::default() };
        let mut open_cost = 0;
        for entry in &self.parts {
            for unit in entry.part.units(unit_tokens) {
                let part = Part { keys: unit, ..entry.part };
                let unit_cost = keys_cost(part, unit_tokens) * self.cost_per_key();
                // Cut where it is nearer to the budget to stop than to go on.
                if !open.parts.is_empty() && open_cost + unit_cost / 2 > budget {
                    let next = Piece { rows: self.rows.clone(), ..Piece::default() };
                    out.push(std::mem::replace(&mut open, next));
                    open_cost = 0;
                }
                open.push_unit(PiecePart { part, ..*entry });
                open_cost += unit_cost;
            }
        }
        out.push(open);
    }

    /// Appends a unit, joining it to the last part where it continues that.
    fn push_unit(&mut self, entry: PiecePart) {
        match self.parts.last_mut() {
            Some(last) if last.view == entry.view && last.part.keys.end == entry.part.keys.begin => {
                last.part.keys = Span { begin: last.part.keys.begin, end: entry.part.keys.end };
            }
            _ => self.parts.push(entry),
        }
    }
}

fn keys_cost(part: Part, unit_tokens: u32) -> u64 {
    u64::from(part.keys.len()) + 16 * u64::from(part.num_units(unit_tokens))
}
