//! From logits on the device to rows on the host: drawing tokens, and copies that the host waits for later.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaView};
use lazy_attn::AttnError;
use lazy_attn::cuda::{
    CudaDevice, LaSampling, LogitShape, NOT_FINITE, NOTHING_ALLOWED, PinnedReader, PinnedRing,
};
use lazy_attn_types::exec::{CarriedToken, OutputKind, RowSampling, SampledRow, StepOutput};
use lazy_attn_types::{StepInput, TokenId};

/// Steps whose rows may be on their way at once.
pub(super) const STEPS_IN_FLIGHT: usize = 2;

/// How the tokens of a step are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Drawing {
    /// Not at all: only logits are wanted.
    None,
    /// The most likely ones.
    Greedy,
    /// As each row asks.
    Sampled,
}

impl Drawing {
    pub(super) fn of(input: &StepInput) -> Drawing {
        let kinds = input.outputs.iter().filter_map(|kind| match kind {
            OutputKind::Token(sampling) => Some(sampling.temperature),
            OutputKind::Logits => None,
        });
        kinds.fold(Drawing::None, |drawing, temperature| match (drawing, temperature > 0.0) {
            (_, true) | (Drawing::Sampled, _) => Drawing::Sampled,
            _ => Drawing::Greedy,
        })
    }
}

/// Where rows of output go.
#[derive(Debug)]
pub(super) struct Outputs {
    device: Arc<CudaDevice>,
    vocab: usize,
    /// How each row is drawn, `[rows]`.
    sampling: CudaSlice<LaSampling>,
    sampling_ring: PinnedRing<LaSampling>,
    /// What was drawn for each row of the step, `[rows]`.
    tokens: CudaSlice<u32>,
    readers: Vec<Reader>,
    next: usize,
}

/// A step's rows on their way.
#[derive(Debug)]
struct Reader {
    tokens: PinnedReader<u32>,
    logits: PinnedReader<f32>,
    /// Logits that were waited for because pinned memory holds too few rows.
    read: Vec<f32>,
}

/// What [`Outputs::wait`] needs to know of a step.
#[derive(Debug)]
pub(super) struct Pending {
    reader: usize,
    /// For each row, whether its token is wanted; else its logits are.
    is_token: Vec<bool>,
}

impl Outputs {
    /// Room for steps of `rows` rows.
    pub(super) fn new(device: &Arc<CudaDevice>, rows: usize, vocab: usize) -> Result<Outputs, AttnError> {
        let reader = || -> Result<Reader, AttnError> {
            let logits = PinnedReader::new(device, vocab)?;
            Ok(Reader { tokens: PinnedReader::new(device, rows)?, logits, read: Vec::new() })
        };
        Ok(Outputs {
            device: Arc::clone(device),
            vocab,
            sampling: device.alloc(rows)?,
            sampling_ring: PinnedRing::new(device, STEPS_IN_FLIGHT, rows)?,
            tokens: device.alloc(rows)?,
            readers: (0..STEPS_IN_FLIGHT).map(|_| reader()).collect::<Result<_, _>>()?,
            next: 0,
        })
    }

    /// Sends how rows are drawn ahead of the step.
    pub(super) fn begin(&mut self, input: &StepInput) -> Result<Pending, AttnError> {
        let kinds: Vec<OutputKind> = input.output_kinds().collect();
        if Drawing::of(input) == Drawing::Sampled {
            let rows = kinds.iter().map(|kind| match kind {
                OutputKind::Token(sampling) => la_sampling(sampling),
                OutputKind::Logits => LaSampling { top_p: 1.0, ..LaSampling::default() },
            });
            self.sampling_ring.send(&self.device, kinds.len(), &mut self.sampling, |out| {
                out.iter_mut().zip(rows).for_each(|(out, row)| *out = row);
                Ok::<(), AttnError>(())
            })?;
        }
        let reader = self.next;
        self.next = (reader + 1) % self.readers.len();
        self.readers[reader].read.clear();
        let is_token = kinds.iter().map(|kind| matches!(kind, OutputKind::Token(_))).collect();
        Ok(Pending { reader, is_token })
    }

    /// Writes the tokens that the step before has drawn to the entries of `ids` that carry them. Neighbours are copied
    /// together: sequences that go on in their order take one copy.
    pub(super) fn carry(&self, carried: &[CarriedToken], ids: &mut CudaSlice<u32>) -> Result<(), AttnError> {
        let is_next = |a: &CarriedToken, b: &CarriedToken| a.token + 1 == b.token && a.row + 1 == b.row;
        for run in carried.chunk_by(is_next) {
            let (from, to) = (run[0].row as usize, run[0].token as usize);
            let source = self.tokens.slice(from..from + run.len());
            self.device.copy(&source, &mut ids.slice_mut(to..to + run.len()))?;
        }
        Ok(())
    }

    /// Draws the tokens of rows `first..first + count` of the step from the front of `logits`.
    pub(super) fn draw(
        &mut self,
        drawing: Drawing,
        logits: &CudaSlice<f32>,
        first: usize,
        count: usize,
    ) -> Result<(), AttnError> {
        let shape = LogitShape { num_rows: count as u32, vocab_size: self.vocab as u32 };
        let logits = logits.slice(..count * self.vocab);
        let mut tokens = self.tokens.slice_mut(first..first + count);
        match drawing {
            Drawing::None => Ok(()),
            Drawing::Greedy => self.device.argmax(shape, &logits, &mut tokens),
            Drawing::Sampled => {
                let sampling = self.sampling.slice(first..first + count);
                self.device.sample(shape, &sampling, &logits, &mut tokens)
            }
        }
    }

    /// Starts copying the wanted rows of logits among `first..first + count`, which lie at the front of `logits`. If more
    /// follow, waits for them.
    pub(super) fn read_logits(
        &mut self,
        pending: &Pending,
        logits: &CudaSlice<f32>,
        (first, count): (usize, usize),
        more_follow: bool,
    ) -> Result<(), AttnError> {
        let wanted = (0..count).filter(|row| !pending.is_token[first + row]);
        let rows: Vec<CudaView<'_, f32>> =
            wanted.map(|row| logits.slice(row * self.vocab..(row + 1) * self.vocab)).collect();
        let reader = &mut self.readers[pending.reader];
        if rows.len() * self.vocab > reader.logits.capacity() {
            let rows = rows.len().next_power_of_two();
            reader.logits = PinnedReader::new(&self.device, rows * self.vocab)?;
        }
        reader.logits.start(&self.device, &rows)?;
        if more_follow {
            reader.read.extend_from_slice(reader.logits.wait()?);
        }
        Ok(())
    }

    /// Starts copying the drawn tokens.
    pub(super) fn read_tokens(&mut self, pending: &Pending) -> Result<(), AttnError> {
        let tokens = self.tokens.slice(..pending.is_token.len());
        self.readers[pending.reader].tokens.start(&self.device, &[tokens])
    }

    /// Waits for the rows of a step.
    pub(super) fn wait(&mut self, pending: &Pending) -> Result<StepOutput, AttnError> {
        let reader = &mut self.readers[pending.reader];
        let mut logits = std::mem::take(&mut reader.read);
        logits.extend_from_slice(reader.logits.wait()?);
        let tokens = reader.tokens.wait()?.iter().zip(&pending.is_token);
        let tokens = tokens.filter(|(_, is_token)| **is_token).map(|(&token, _)| sampled(token)).collect();
        Ok(StepOutput { logits, tokens })
    }
}

fn la_sampling(sampling: &RowSampling) -> LaSampling {
    LaSampling {
        seed: sampling.seed,
        step: sampling.draw,
        temperature: sampling.temperature,
        top_p: sampling.top_p,
        min_p: sampling.min_p,
        top_k: sampling.top_k,
        repetition: 1.0,
        ..LaSampling::default()
    }
}

fn sampled(token: u32) -> SampledRow {
    match token {
        NOT_FINITE => SampledRow::NotFinite,
        NOTHING_ALLOWED => SampledRow::NothingAllowed,
        token => SampledRow::Token(TokenId(token)),
    }
}
