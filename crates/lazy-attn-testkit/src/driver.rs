//! Plays contexts through any executor, with the least control plane that can do it.
//!
//! [`Pool`] hands out blocks in a scattered order, [`StepBuilder`] lays runs out flat, [`Player`] keeps documents
//! resident and drives a context to its tokens. No scheduling, no eviction, no time.

use std::collections::HashMap;

use lazy_attn_types::{
    AttentionMode, BlockId, BlockSize, ExecError, Executor, Position, Run, SegmentHandle, SegmentKind,
    SegmentView, StepInput, TokenId,
};

use crate::oracle::decoder::append;
use crate::part::{Part, Placed, place};
use crate::rng::SplitMix64;

/// Storage of one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSegment {
    /// Its identity.
    pub handle: SegmentHandle,
    /// Its block list.
    pub blocks: Vec<BlockId>,
    /// Tokens written so far.
    pub num_tokens: u32,
}

/// Free blocks of an executor's store, in a random order so that no test passes by contiguity.
#[derive(Debug, Clone)]
pub struct Pool {
    block_size: BlockSize,
    free: Vec<BlockId>,
    next_handle: u64,
}

impl Pool {
    /// All blocks `0..num_blocks`, shuffled by `seed`.
    #[must_use]
    pub fn scattered(num_blocks: u32, block_size: BlockSize, seed: u64) -> Pool {
        let mut free: Vec<BlockId> = (0..num_blocks).map(BlockId).collect();
        SplitMix64::new(seed).shuffle(&mut free);
        Pool { block_size, free, next_handle: 1 }
    }

    /// Room for `max_tokens`, none of them written.
    ///
    /// # Panics
    /// If the pool has too few blocks left; the test asked for a store that is too small.
    pub fn allocate(&mut self, max_tokens: u32) -> StoredSegment {
        let needed = self.block_size.blocks_for(max_tokens) as usize;
        assert!(needed <= self.free.len(), "{needed} blocks wanted, {} are free", self.free.len());
        let blocks = self.free.split_off(self.free.len() - needed);
        let handle = SegmentHandle(self.next_handle);
        self.next_handle += 1;
        StoredSegment { handle, blocks, num_tokens: 0 }
    }

    /// Takes the blocks of `segment` back.
    pub fn release(&mut self, segment: StoredSegment) {
        self.free.extend(segment.blocks);
    }

    /// Blocks nobody holds.
    #[must_use]
    pub fn num_free(&self) -> usize {
        self.free.len()
    }
}

/// One run before it is flattened.
#[derive(Debug, Clone)]
pub struct RunSpec<'a> {
    /// Segments of the context with their starts; the last is written to.
    pub context: Vec<(&'a StoredSegment, u32)>,
    /// The run's tokens.
    pub tokens: &'a [TokenId],
    /// Index of the first of them in the last segment.
    pub first_local: u32,
    /// Indices into `tokens` whose logits are wanted, ascending.
    pub outputs: Vec<u32>,
}

/// Lays runs out as a [`StepInput`]; block lists of a segment that several runs read are stored once.
#[derive(Debug, Default)]
pub struct StepBuilder {
    input: StepInput,
    placed_blocks: HashMap<SegmentHandle, u32>,
}

impl StepBuilder {
    /// An empty step.
    #[must_use]
    pub fn new() -> StepBuilder {
        StepBuilder::default()
    }

    /// Appends `run`.
    pub fn push(&mut self, run: &RunSpec<'_>) {
        let first_token = self.input.tokens.len() as u32;
        let num_tokens = run.tokens.len() as u32;
        self.input.runs.push(Run {
            first_token,
            num_tokens,
            first_segment: self.input.segments.len() as u32,
            num_segments: run.context.len() as u32,
            first_local: run.first_local,
        });
        self.input.tokens.extend_from_slice(run.tokens);
        self.input.output_tokens.extend(run.outputs.iter().map(|output| first_token + output));
        for (index, &(segment, start)) in run.context.iter().enumerate() {
            let is_own = index + 1 == run.context.len();
            let num_tokens = if is_own { run.first_local + num_tokens } else { segment.num_tokens };
            let view = SegmentView {
                handle: segment.handle,
                first_block: self.first_block(segment),
                num_blocks: segment.blocks.len() as u32,
                first_seen: 0,
                num_tokens,
                start: Position(start),
                origin: Position(start),
            };
            self.input.segments.push(view);
        }
    }

    /// The step.
    #[must_use]
    pub fn finish(self) -> StepInput {
        self.input
    }

    fn first_block(&mut self, segment: &StoredSegment) -> u32 {
        let block_ids = &mut self.input.block_ids;
        *self.placed_blocks.entry(segment.handle).or_insert_with(|| {
            let first = block_ids.len() as u32;
            block_ids.extend_from_slice(&segment.blocks);
            first
        })
    }
}

/// A context whose prompt has been run.
#[derive(Debug, Clone)]
pub struct Played {
    /// Its segments with their starts; the last one has room for the continuation.
    pub segments: Vec<(StoredSegment, u32)>,
    /// Logits of the last prompt token, `[vocab_size]`.
    pub logits: Vec<f32>,
}

/// Drives contexts through an executor.
///
/// ```
/// use lazy_attn_testkit::{FakeConfig, FakeExecutor, Part, Player, expected_tokens};
/// use lazy_attn_types::AttentionMode;
///
/// let request = [Part::document(0..20), Part::document(30..35), Part::text(40..44)];
/// let mut player = Player::new(FakeExecutor::new(FakeConfig::default()), 1);
/// let tokens = player.greedy(&request, AttentionMode::Block, 3)?;
/// assert_eq!(tokens, expected_tokens(&request, AttentionMode::Block, 97, 3));
/// # Ok::<(), lazy_attn_types::ExecError>(())
/// ```
#[derive(Debug)]
pub struct Player<E> {
    /// The executor.
    pub executor: E,
    /// Its free blocks.
    pub pool: Pool,
    /// Documents that are encoded already, by their tokens.
    pub documents: HashMap<Vec<TokenId>, StoredSegment>,
    /// Most tokens of a run; longer segments are run in pieces.
    pub max_run_tokens: usize,
    /// Room left behind a prompt for its continuation.
    pub max_new_tokens: u32,
}

impl<E: Executor> Player<E> {
    /// A player with every block free, scattered by `seed`.
    #[must_use]
    pub fn new(executor: E, seed: u64) -> Player<E> {
        let info = executor.info();
        let pool = Pool::scattered(info.num_blocks, info.block_size, seed);
        let max_run_tokens = info.max_step_tokens as usize;
        Player { executor, pool, documents: HashMap::new(), max_run_tokens, max_new_tokens: 32 }
    }

    /// The storage of the document `tokens`, encoded alone unless it is resident.
    ///
    /// # Errors
    /// What the executor says.
    pub fn document(&mut self, tokens: &[TokenId]) -> Result<StoredSegment, ExecError> {
        if let Some(resident) = self.documents.get(tokens) {
            return Ok(resident.clone());
        }
        let segment = self.pool.allocate(tokens.len() as u32);
        let (segment, _) = self.write(&[], segment, 0, tokens)?;
        self.documents.insert(tokens.to_vec(), segment.clone());
        Ok(segment)
    }

    /// Runs `parts`, placed back to back from position 0.
    ///
    /// # Errors
    /// What the executor says.
    pub fn play(&mut self, parts: &[Part], mode: AttentionMode) -> Result<Played, ExecError> {
        self.play_placed(&place(parts, mode))
    }

    /// Runs `context`; its documents stay resident.
    ///
    /// # Errors
    /// What the executor says.
    pub fn play_placed(&mut self, context: &[Placed]) -> Result<Played, ExecError> {
        let mut played = Played { segments: Vec::with_capacity(context.len()), logits: Vec::new() };
        for part in context {
            let segment = match part.kind {
                SegmentKind::Document => self.document(&part.tokens)?,
                SegmentKind::Text => {
                    let room = part.tokens.len() as u32 + self.max_new_tokens;
                    let segment = self.pool.allocate(room);
                    let (segment, logits) =
                        self.write(&played.segments, segment, part.start, &part.tokens)?;
                    played.logits = logits;
                    segment
                }
            };
            played.segments.push((segment, part.start));
        }
        Ok(played)
    }

    /// Runs `token` behind a played context, whose last segment must be text, and keeps its logits there.
    ///
    /// # Errors
    /// What the executor says.
    ///
    /// # Panics
    /// If the context has no segment.
    pub fn advance(&mut self, played: &mut Played, token: TokenId) -> Result<(), ExecError> {
        let last = played.segments.pop();
        assert!(last.is_some(), "a played context has a segment");
        if let Some((segment, start)) = last {
            let (segment, logits) = self.write(&played.segments, segment, start, &[token])?;
            played.segments.push((segment, start));
            played.logits = logits;
        }
        Ok(())
    }

    /// Greedy continuation of `parts` by `num_tokens` tokens.
    ///
    /// # Errors
    /// What the executor says.
    pub fn greedy(
        &mut self,
        parts: &[Part],
        mode: AttentionMode,
        num_tokens: usize,
    ) -> Result<Vec<TokenId>, ExecError> {
        let mut played = self.play(parts, mode)?;
        let mut tokens = Vec::with_capacity(num_tokens);
        while tokens.len() < num_tokens {
            let token = greedy_token(&played.logits);
            tokens.push(token);
            if tokens.len() < num_tokens {
                self.advance(&mut played, token)?;
            }
        }
        self.release(played);
        Ok(tokens)
    }

    /// Frees the text of a played context; documents stay resident.
    pub fn release(&mut self, played: Played) {
        for (segment, _) in played.segments {
            let is_document = self.documents.values().any(|document| document.handle == segment.handle);
            if !is_document {
                self.pool.release(segment);
            }
        }
    }

    /// Runs several runs as one step; returns the logits of every wanted row, in order.
    ///
    /// # Errors
    /// What the executor says.
    pub fn step(&mut self, runs: &[RunSpec<'_>]) -> Result<Vec<Vec<f32>>, ExecError> {
        let mut builder = StepBuilder::new();
        for run in runs {
            builder.push(run);
        }
        let input = builder.finish();
        let vocab_size = self.executor.info().vocab_size as usize;
        let output = self.executor.execute(&input)?;
        Ok(output.logits.chunks_exact(vocab_size).map(<[f32]>::to_vec).collect())
    }

    /// Writes `tokens` to the end of `segment` at `start` behind `earlier`; returns it with the last row's logits.
    fn write(
        &mut self,
        earlier: &[(StoredSegment, u32)],
        mut segment: StoredSegment,
        start: u32,
        tokens: &[TokenId],
    ) -> Result<(StoredSegment, Vec<f32>), ExecError> {
        let mut logits = Vec::new();
        for piece in tokens.chunks(self.max_run_tokens) {
            let mut context: Vec<(&StoredSegment, u32)> =
                earlier.iter().map(|(segment, start)| (segment, *start)).collect();
            context.push((&segment, start));
            let run = RunSpec {
                context,
                tokens: piece,
                first_local: segment.num_tokens,
                outputs: vec![piece.len() as u32 - 1],
            };
            logits = self.step(&[run])?.pop().unwrap_or_default();
            segment.num_tokens += piece.len() as u32;
        }
        Ok((segment, logits))
    }
}

/// The token with the largest logit, the first of equals.
#[must_use]
pub fn greedy_token(logits: &[f32]) -> TokenId {
    let mut best = 0;
    for (index, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = index;
        }
    }
    TokenId(best as u32)
}

/// `context` with `tokens` appended to its text.
#[must_use]
pub fn extended(mut context: Vec<Placed>, tokens: &[TokenId]) -> Vec<Placed> {
    for &token in tokens {
        append(&mut context, token);
    }
    context
}
