//! How a plan is made.

use lazy_attn_types::{DocumentFocus, Run, SegmentView, SharedReads, StepInput};

use super::{
    BlockWrite, Coverage, FocusedToken, Item, Part, PartialsPer, Plan, PlanConfig, Row, Span, Visibility,
    first_in_window,
    split::{Half, Piece, PiecePart, PieceRow},
};
use crate::error::AttnError;

/// Makes plans.
#[derive(Debug, Clone)]
pub struct Planner {
    config: PlanConfig,
}

impl Planner {
    /// A planner that divides work as `config` says.
    ///
    /// # Errors
    /// [`AttnError::Unsupported`] for a unit that is no power of two from 16 to 256, or a bound of zero.
    pub fn new(config: PlanConfig) -> Result<Planner, AttnError> {
        config.validate()?;
        Ok(Planner { config })
    }

    /// How work is divided.
    #[must_use]
    pub fn config(&self) -> &PlanConfig {
        &self.config
    }

    /// The plan of a step that has passed [`StepInput::validate`].
    ///
    /// # Panics
    /// If a range of `input` lies outside its array, which `validate` rules out.
    #[must_use]
    pub fn plan(&self, input: &StepInput) -> Plan {
        let mut builder = Builder::new(self.config, input);
        builder.add_writes();
        if input.shared_reads == SharedReads::Once {
            builder.add_shared();
        }
        builder.add_chains();
        builder.finish()
    }
}

/// A read of a segment that another context may read too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Reader {
    handle: u64,
    /// What the view shows: contexts that see different ranges read apart.
    seen: (u32, u32),
    view: u32,
    run: u32,
}

/// A partial in the order in which it is merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct MergeEntry {
    token: u32,
    view: u32,
    begin: u32,
    slot: u32,
}

struct Builder<'a> {
    config: PlanConfig,
    input: &'a StepInput,
    /// Whether a shared piece covers the view, by index of the view.
    is_shared: Vec<bool>,
    pieces: Vec<Piece>,
    merges: Vec<MergeEntry>,
    plan: Plan,
}

impl<'a> Builder<'a> {
    fn new(config: PlanConfig, input: &'a StepInput) -> Builder<'a> {
        let plan = Plan {
            config,
            stored_keys: input.stored_keys,
            num_tokens: input.tokens.len() as u32,
            num_slots: 0,
            num_blocks_min: 0,
            writes: Vec::new(),
            block_ids: Vec::new(),
            parts: Vec::new(),
            rows: Vec::new(),
            items: Vec::new(),
            merge_begin: Vec::new(),
            merge_slots: Vec::new(),
            focused: Vec::new(),
        };
        let is_shared = vec![false; input.segments.len()];
        Builder { config, input, is_shared, pieces: Vec::new(), merges: Vec::new(), plan }
    }

    fn add_writes(&mut self) {
        let block_size = self.config.block_size;
        for run in &self.input.runs {
            let own = own_view(self.input, run);
            let blocks = self.input.blocks_of(own);
            let mut done = 0;
            while done < run.num_tokens {
                let first_local = run.first_local + done;
                let (entry, first_slot) = block_size.locate(first_local);
                let num_tokens = (block_size.get() - first_slot).min(run.num_tokens - done);
                let block = blocks[entry as usize];
                let first_token = run.first_token + done;
                let rotation = own.start.advance(first_local).0 as i32 - own.origin.0 as i32;
                let write = BlockWrite { block, first_slot, first_token, first_local, rotation, num_tokens };
                self.plan.writes.push(write);
                done += num_tokens;
            }
        }
        self.plan.writes.sort_unstable_by_key(|write| (write.block, write.first_slot));
        let last = self.plan.writes.last().map_or(0, |write| write.block.0 + 1);
        self.plan.num_blocks_min = last;
    }

    /// Pieces of the segments that several contexts of small runs read.
    fn add_shared(&mut self) {
        let mut readers = self.shareable_readers();
        readers.sort_unstable();
        for group in readers.chunk_by(|a, b| (a.handle, a.seen) == (b.handle, b.seen)) {
            if group.len() < 2 {
                continue;
            }
            let mut piece = Piece { splits_keys: true, ..Piece::default() };
            let mut first_index = u32::MAX;
            for reader in group {
                self.is_shared[reader.view as usize] = true;
                let view = self.input.segments[reader.view as usize];
                for row in rows_of(self.input, &self.input.runs[reader.run as usize]) {
                    let distance = row.base - view.start.0 as i32;
                    let first = self.first_in_view(&view, row);
                    if first < self.num_keys(&view) {
                        first_index = first_index.min(first);
                        let row = Row { token: row.token, base: distance };
                        piece.rows.push(PieceRow { row, view: reader.view });
                    }
                }
            }
            let view = self.input.segments[group[0].view as usize];
            let keys = Span { begin: self.unit_floor(first_index), end: self.num_keys(&view) };
            // Rows bring their distances from the segment, which stands at one place for all of them if its origin is another.
            let origin = view.origin.0 as i32 - view.start.0 as i32;
            let part = Part { start: 0, origin, ..self.part(&view, keys, Visibility::All) };
            piece.parts.push(PiecePart { part, view: 0 });
            piece.split_rows(self.config.max_item_tokens, &mut self.pieces);
        }
    }

    fn shareable_readers(&self) -> Vec<Reader> {
        let mut readers = Vec::new();
        for (run_index, run) in self.input.runs.iter().enumerate() {
            if run.num_tokens > self.config.max_shared_run_tokens || !self.input.focused_of(run).is_empty() {
                continue;
            }
            let nearest = rows_of(self.input, run).next();
            for view in run.first_segment..run.first_segment + run.num_segments - 1 {
                let segment = self.input.segments[view as usize];
                let num_keys = self.num_keys(&segment);
                let is_long = num_keys >= self.config.min_shared_tokens.max(1);
                if is_long && nearest.is_some_and(|row| self.first_in_view(&segment, row) < num_keys) {
                    let seen = (segment.first_seen, segment.num_tokens);
                    readers.push(Reader { handle: segment.handle.0, seen, view, run: run_index as u32 });
                }
            }
        }
        readers
    }

    /// Pieces of what is left of each context.
    fn add_chains(&mut self) {
        for run in &self.input.runs {
            let is_small = run.num_tokens <= self.config.max_shared_run_tokens;
            let rows: Vec<Row> = rows_of(self.input, run).collect();
            let max_rows = if is_small { self.config.max_item_tokens } else { self.rows_per_item(run) };
            let chunk_size = rows.len().div_ceil(rows.len().div_ceil(max_rows as usize));
            let lists = self.copy_lists(run);
            for rows in rows.chunks(chunk_size) {
                let piece = self.chain(run, rows, &lists);
                match self.input.focused_of(run).first() {
                    None => self.pieces.push(Piece { splits_keys: is_small, ..piece }),
                    Some(focused) => self.add_halves(run, focused.focus, piece),
                }
            }
        }
    }

    /// The documents of a piece of a focused run, and the rest of it.
    fn add_halves(&mut self, run: &Run, focus: DocumentFocus, piece: Piece) {
        let focused = self.input.focused_of(run);
        let is_focused =
            |part: &PiecePart| focused.binary_search_by_key(&part.view, |view| view.view).is_ok();
        let (documents, rest): (Vec<_>, Vec<_>) = piece.parts.into_iter().partition(is_focused);
        for (half, parts) in [(Half::Documents(focus), documents), (Half::Rest, rest)] {
            if !parts.is_empty() {
                let rows = piece.rows.clone();
                self.pieces.push(Piece { parts, rows, half: Some(half), ..Piece::default() });
            }
        }
    }

    /// Copies the block lists of the views no shared piece covers; gives each view's first entry.
    fn copy_lists(&mut self, run: &Run) -> Vec<u32> {
        let input = self.input;
        let mut lists = Vec::with_capacity(run.num_segments as usize);
        for (view, segment) in (run.first_segment as usize..).zip(input.segments_of(run)) {
            let is_used = !self.is_shared[view];
            lists.push(if is_used { self.copy_blocks(segment) } else { 0 });
        }
        lists
    }

    /// Tokens per item of a long run: enough items for every worker, but not fewer than a tile's worth of tokens.
    fn rows_per_item(&self, run: &Run) -> u32 {
        let smallest = 8.min(self.config.max_item_tokens);
        run.num_tokens.div_ceil(self.config.target_items).clamp(smallest, self.config.max_item_tokens)
    }

    fn chain(&self, run: &Run, rows: &[Row], lists: &[u32]) -> Piece {
        let mut piece = Piece { is_whole: true, ..Piece::default() };
        piece.rows.extend(rows.iter().map(|&row| PieceRow { row, view: 0 }));
        let (first, last) = (rows[0], rows[rows.len() - 1]);
        for (index, segment) in self.input.segments_of(run).iter().enumerate() {
            let view = run.first_segment + index as u32;
            if self.is_shared[view as usize] {
                piece.is_whole = false;
                continue;
            }
            let is_own = index + 1 == run.num_segments as usize;
            let visibility = if is_own { Visibility::Causal } else { Visibility::All };
            let end =
                if is_own { (last.base - segment.start.0 as i32) as u32 + 1 } else { self.num_keys(segment) };
            let begin = self.unit_floor(self.first_in_view(segment, first));
            if begin < end && self.first_in_view(segment, first) < end {
                let part = self.part_of(segment, lists[index], Span { begin, end }, visibility);
                piece.parts.push(PiecePart { part, view });
            }
        }
        piece
    }

    fn finish(mut self) -> Plan {
        let unit_tokens = self.config.unit_tokens;
        let total: u64 = self.pieces.iter().map(|piece| piece.cost(unit_tokens)).sum();
        let budget = total.div_ceil(u64::from(self.config.target_items));
        let mut cut = Vec::with_capacity(self.pieces.len());
        for piece in std::mem::take(&mut self.pieces) {
            if piece.splits_keys {
                piece.split_keys(unit_tokens, budget, &mut cut);
            } else {
                cut.push(piece);
            }
        }
        for piece in &cut {
            self.add_item(piece);
        }
        self.add_merge_lists();
        self.plan
    }

    fn add_item(&mut self, piece: &Piece) {
        let unit_tokens = self.config.unit_tokens;
        let plan = &mut self.plan;
        let parts_begin = plan.parts.len() as u32;
        let rows_begin = plan.rows.len() as u32;
        plan.parts.extend(piece.parts.iter().map(|entry| entry.part));
        plan.rows.extend(piece.rows.iter().map(|entry| entry.row));
        let num_units: u32 = piece.parts.iter().map(|entry| entry.part.num_units(unit_tokens)).sum();
        let per_unit = self.config.partials == PartialsPer::Unit && !piece.is_whole && piece.half.is_none();
        let focus = if let Some(Half::Documents(focus)) = piece.half { focus } else { DocumentFocus::OFF };
        let item = Item {
            parts: Span { begin: parts_begin, end: plan.parts.len() as u32 },
            rows: Span { begin: rows_begin, end: plan.rows.len() as u32 },
            first_slot: plan.num_slots,
            slots_per_row: if per_unit { num_units } else { 1 },
            coverage: if piece.is_whole { Coverage::Whole } else { Coverage::Partial },
            focus,
        };
        plan.num_slots = item.slots().end;
        plan.items.push(item);
        for (index, row) in piece.rows.iter().enumerate() {
            let first_slot = item.first_slot + index as u32 * item.slots_per_row;
            if focus.is_on() {
                plan.focused.push(FocusedToken { token: row.row.token, slot: first_slot, focus });
            }
            let units = piece.parts.iter().flat_map(|entry| {
                entry.part.units(unit_tokens).map(move |unit| (Piece::order(entry, row), unit.begin))
            });
            for ((view, begin), slot) in units.zip(first_slot..first_slot + item.slots_per_row) {
                self.merges.push(MergeEntry { token: row.row.token, view, begin, slot });
            }
        }
    }

    fn add_merge_lists(&mut self) {
        self.merges.sort_unstable();
        let plan = &mut self.plan;
        plan.focused.sort_unstable_by_key(|focused| focused.token);
        plan.merge_begin.resize(plan.num_tokens as usize + 1, 0);
        for entry in &self.merges {
            plan.merge_begin[entry.token as usize + 1] += 1;
            plan.merge_slots.push(entry.slot);
        }
        for token in 0..plan.num_tokens as usize {
            plan.merge_begin[token + 1] += plan.merge_begin[token];
        }
    }

    fn part(&mut self, view: &SegmentView, keys: Span, visibility: Visibility) -> Part {
        let first_block = self.copy_blocks(view);
        self.part_of(view, first_block, keys, visibility)
    }

    fn copy_blocks(&mut self, view: &SegmentView) -> u32 {
        let first_block = self.plan.block_ids.len() as u32;
        let block_size = self.config.block_size;
        // Whole blocks are skipped, so a view reads like a segment that begins where it begins.
        let shown = view.first_seen / block_size.get()..block_size.blocks_for(view.num_tokens);
        let blocks = &self.input.blocks_of(view)[shown.start as usize..shown.end as usize];
        self.plan.block_ids.extend_from_slice(blocks);
        let needed = blocks.iter().map(|block| block.0 + 1).max().unwrap_or(0);
        self.plan.num_blocks_min = self.plan.num_blocks_min.max(needed);
        first_block
    }

    /// Lowest index of `view` inside the window of `row`, whose base is its position.
    fn first_in_view(&self, view: &SegmentView, row: Row) -> u32 {
        let first_position = i64::from(view.start.0) + i64::from(self.num_skipped(view));
        first_in_window(i64::from(row.base) - first_position, self.config.window) as u32
    }

    fn unit_floor(&self, index: u32) -> u32 {
        index / self.config.unit_tokens * self.config.unit_tokens
    }

    fn part_of(&self, view: &SegmentView, first_block: u32, keys: Span, visibility: Visibility) -> Part {
        let num_skipped = self.num_skipped(view);
        let num_hidden = view.first_seen - num_skipped;
        let (start, origin) = (view.start.0 as i32, view.origin.0 as i32);
        Part { handle: view.handle, first_block, keys, num_skipped, num_hidden, start, origin, visibility }
    }

    /// Tokens of the blocks before the first of which `view` shows anything.
    fn num_skipped(&self, view: &SegmentView) -> u32 {
        view.first_seen / self.config.block_size.get() * self.config.block_size.get()
    }

    /// How many keys `view` has, those hidden in its first block included.
    fn num_keys(&self, view: &SegmentView) -> u32 {
        view.num_tokens - self.num_skipped(view)
    }
}

/// The segment `run` is written to.
fn own_view<'a>(input: &'a StepInput, run: &Run) -> &'a SegmentView {
    let views = input.segments_of(run);
    &views[views.len() - 1]
}

/// The tokens of `run`, with their positions.
fn rows_of(input: &StepInput, run: &Run) -> impl Iterator<Item = Row> + use<> {
    let first_token = run.first_token;
    let first_position = own_view(input, run).start.0 + run.first_local;
    (0..run.num_tokens)
        .map(move |index| Row { token: first_token + index, base: (first_position + index) as i32 })
}
