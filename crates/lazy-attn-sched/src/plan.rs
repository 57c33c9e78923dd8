//! One step of work.

use std::fmt;
use std::sync::Arc;

use lazy_attn_kv::Found;
use lazy_attn_types::{BlockId, Position, RequestId, SegmentHandle, SequenceId, TokenId, TokenRange};

use crate::SchedError;

/// A segment where it is stored, placed in one context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedSegment {
    /// Which storage it is.
    pub handle: SegmentHandle,
    /// Its blocks, in order.
    pub blocks: Arc<[BlockId]>,
    /// Valid tokens, those written in this step included.
    pub num_tokens: u32,
    /// Which of them later segments of the context see.
    pub seen: TokenRange,
    /// Logical position of its token 0, seen or not.
    pub start: Position,
    /// Position from which its stored keys are rotated.
    pub origin: Position,
}

/// What a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Work {
    /// Part of a document, alone.
    Encode,
    /// Part of a text segment.
    Prefill,
    /// The last prompt token, which opens the tail.
    FirstToken,
    /// The token chosen last.
    Decode,
    /// Tokens of a tail that a preemption took away.
    Rerun,
}

impl Work {
    /// Whether the logits of the run's last token are wanted.
    #[must_use]
    pub fn wants_logits(self) -> bool {
        matches!(self, Work::FirstToken | Work::Decode)
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Work::Encode => "encode",
            Work::Prefill => "prefill",
            Work::FirstToken => "first",
            Work::Decode => "decode",
            Work::Rerun => "rerun",
        })
    }
}

/// The tokens of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunTokens {
    /// Tokens `first_local..first_local + num_tokens` of this segment, or of a tail that is run again.
    OfSegment(Arc<[TokenId]>),
    /// The one new token that a tail runs.
    OfTail(TokenId),
    /// The same, drawn by row `row` of the plan before, which has not been closed.
    Carried {
        /// Counted over [`StepPlan::rows`].
        row: u32,
    },
}

/// A segment that comes to another position instead of being run, before the runs of its step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedReencoding {
    /// The sequence it is done for; others may wait for it too.
    pub sequence: SequenceId,
    /// What is read.
    pub from: SegmentHandle,
    /// Its blocks.
    pub from_blocks: Arc<[BlockId]>,
    /// What is written: the same storage, or another one.
    pub own: PlacedSegment,
    /// What keys are rotated by.
    pub distance: i32,
}

/// Contiguous tokens of one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedRun {
    /// The sequence it is done for; others may wait for it too.
    pub sequence: SequenceId,
    /// What it is for.
    pub work: Work,
    /// Where its tokens come from.
    pub source: RunTokens,
    /// Index of its first token inside its segment.
    pub first_local: u32,
    /// How many tokens it runs.
    pub num_tokens: u32,
    /// All segments of the sequence's context; the run sees what the first `num_earlier` show.
    pub context: Arc<[PlacedSegment]>,
    /// How many of them it sees.
    pub num_earlier: usize,
    /// The segment its tokens are written to.
    pub own: PlacedSegment,
}

impl PlannedRun {
    /// The segments it sees beside its own.
    #[must_use]
    pub fn earlier(&self) -> &[PlacedSegment] {
        &self.context[..self.num_earlier]
    }

    /// Its tokens, in order; any token stands for one that is carried.
    #[must_use]
    pub fn tokens(&self) -> &[TokenId] {
        match &self.source {
            RunTokens::OfSegment(tokens) => &tokens[self.first_local as usize..][..self.num_tokens as usize],
            RunTokens::OfTail(token) => std::slice::from_ref(token),
            RunTokens::Carried { .. } => &[TokenId(0)],
        }
    }

    pub(crate) fn end(&self) -> u32 {
        self.first_local + self.num_tokens
    }
}

/// A sequence that starts to run in this step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// Whose it is.
    pub request: RequestId,
    /// The sequence.
    pub sequence: SequenceId,
    /// How each segment of its context was found, in order.
    pub found: Vec<Found>,
}

/// A sequence that gave its blocks to others. It goes on later, with the tokens it has generated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preempted {
    /// Whose it is.
    pub request: RequestId,
    /// The sequence.
    pub sequence: SequenceId,
    /// Tokens whose KV nobody else needed: at most so many are computed again.
    pub lost_tokens: u64,
}

/// A request that ends without an answer: it can never run, or its deadline passed while it waited or ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// The request; none of its samples runs any more.
    pub request: RequestId,
    /// Why.
    pub error: SchedError,
}

/// One step of work. Closed by exactly one [`commit`](crate::Scheduler::commit), [`abort`](crate::Scheduler::abort) or
/// [`withdraw`](crate::Scheduler::withdraw), which consume it.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a plan is closed by `Scheduler::commit` or `Scheduler::abort`"]
pub struct StepPlan {
    /// Number of the step, from 0.
    pub step: u64,
    /// The work, in the order of its rows.
    pub runs: Vec<PlannedRun>,
    /// What comes to another position before that, in this order.
    pub reencodings: Vec<PlannedReencoding>,
    /// Sequences that give way, in that order.
    pub preempted: Vec<Preempted>,
    /// Sequences that go on after a preemption.
    pub resumed: Vec<Admitted>,
    /// Sequences that start.
    pub admitted: Vec<Admitted>,
    /// Sequences that ended because they generate nothing and all their segments are complete.
    pub filled: Vec<SequenceId>,
    /// Requests that never can, and those whose deadline passed.
    pub rejected: Vec<Rejected>,
    /// Sequences running, the admitted and resumed ones included.
    pub num_running: u32,
    /// Requests still waiting.
    pub num_waiting: usize,
    /// Most tokens the step may run.
    pub max_tokens: u32,
}

impl StepPlan {
    pub(crate) fn empty(step: u64, max_tokens: u32) -> StepPlan {
        StepPlan {
            step,
            runs: Vec::new(),
            reencodings: Vec::new(),
            preempted: Vec::new(),
            resumed: Vec::new(),
            admitted: Vec::new(),
            filled: Vec::new(),
            rejected: Vec::new(),
            num_running: 0,
            num_waiting: 0,
            max_tokens,
        }
    }

    /// The runs whose logits are wanted; the outcomes of a commit are in this order.
    pub fn rows(&self) -> impl Iterator<Item = &PlannedRun> {
        self.runs.iter().filter(|run| run.work.wants_logits())
    }

    /// Whether there is nothing to execute.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty() && self.reencodings.is_empty()
    }

    /// Tokens of all reencodings.
    #[must_use]
    pub fn num_reencoded_tokens(&self) -> u32 {
        self.reencodings.iter().map(|reencoding| reencoding.own.num_tokens).sum()
    }

    /// Tokens of all runs.
    #[must_use]
    pub fn num_tokens(&self) -> u32 {
        self.runs.iter().map(|run| run.num_tokens).sum()
    }
}

impl fmt::Display for StepPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (step, used, max) = (self.step, self.num_tokens(), self.max_tokens);
        let (running, waiting) = (self.num_running, self.num_waiting);
        writeln!(f, "step {step}: {used} of {max} tokens, {running} running, {waiting} waiting")?;
        for preempted in &self.preempted {
            let (sequence, lost) = (preempted.sequence.to_string(), preempted.lost_tokens);
            writeln!(f, "  preempt {sequence:<12} {lost} tokens lost")?;
        }
        let started = self.resumed.iter().map(|resumed| ("resume", resumed));
        let started = started.chain(self.admitted.iter().map(|admitted| ("admit", admitted)));
        for (what, Admitted { sequence, found, .. }) in started {
            let found: Vec<String> = found.iter().map(|found| format!("{found:?}")).collect();
            writeln!(f, "  {what:<7} {:<12} [{}]", sequence.to_string(), found.join(" "))?;
        }
        for rejected in &self.rejected {
            writeln!(f, "  reject  {:<12} {}", rejected.request.to_string(), rejected.error)?;
        }
        for PlannedReencoding { sequence, from, own, distance, .. } in &self.reencodings {
            let (sequence, own) = (sequence.to_string(), own.handle.0);
            writeln!(f, "  rotate  {sequence:<12} segment {own:<3} from segment {} by {distance}", from.0)?;
        }
        for run in &self.runs {
            let sequence = run.sequence.to_string();
            let tokens = format!("{}..{}", run.first_local, run.end());
            let seen: Vec<String> = run.earlier().iter().map(|seen| seen.handle.0.to_string()).collect();
            let (work, own) = (run.work, run.own.handle.0);
            writeln!(f, "  {work:<7} {sequence:<12} segment {own:<3} {tokens:<8} sees [{}]", seen.join(" "))?;
        }
        Ok(())
    }
}
