//! Keys that are stored raw, and documents whose keys are rotated from position to position: the logits are those of the CPU.

use std::collections::HashMap;

use lazy_attn_models::cuda::CudaExecutor;
use lazy_attn_models::weights::HalfDtype;
use lazy_attn_testkit::{Part, Player};
use lazy_attn_types::{
    AttentionMode, ExecError, Executor, ExecutorInfo, Position, Reencoding, SegmentHandle, SegmentView,
    StepInput, StepOutput, StoredKeys,
};

use crate::golden::{Case, cases};
use crate::{embedded, max_difference, on_cpu, on_device, tolerance, with_dtype};

/// What a step is made into.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Keys are stored raw.
    Raw,
    /// A segment that is read elsewhere than last time comes there in place.
    Moved,
}

/// Where a segment was run first, where it stands, and how often it moved.
#[derive(Clone, Copy)]
struct Stand {
    origin: Position,
    place: Position,
    num_moves: u32,
}

/// An executor whose steps are made into others.
struct Changed {
    inner: CudaExecutor,
    way: Way,
    stands: HashMap<SegmentHandle, Stand>,
}

impl Changed {
    /// How often the segment moved that did so most often.
    fn most_moves(&self) -> u32 {
        self.stands.values().map(|stand| stand.num_moves).max().unwrap_or(0)
    }

    fn moved(&mut self, input: &StepInput) -> StepInput {
        let mut input = input.clone();
        for run in input.runs.clone() {
            let (first, last) =
                (run.first_segment as usize, run.first_segment as usize + run.num_segments as usize - 1);
            for index in first..=last {
                let SegmentView { handle, start, num_tokens, first_block, .. } = input.segments[index];
                let stand =
                    self.stands.entry(handle).or_insert(Stand { origin: start, place: start, num_moves: 0 });
                if stand.place != start && index < last {
                    let distance = start.0 as i32 - stand.place.0 as i32;
                    let (from, to, from_block, to_block) = (handle, handle, first_block, first_block);
                    input.reencodings.push(Reencoding {
                        from,
                        from_block,
                        to,
                        to_block,
                        num_tokens,
                        distance,
                    });
                    stand.place = start;
                    stand.num_moves += 1;
                }
                input.segments[index].origin = stand.origin;
            }
        }
        input
    }
}

impl Executor for Changed {
    fn info(&self) -> &ExecutorInfo {
        self.inner.info()
    }

    fn execute(&mut self, input: &StepInput) -> Result<StepOutput, ExecError> {
        let input = match self.way {
            Way::Raw => StepInput { stored_keys: StoredKeys::Raw, ..input.clone() },
            Way::Moved => self.moved(input),
        };
        self.inner.execute(&input)
    }
}

/// Whether a part occurs again.
fn has_twice(prompt: &[Part]) -> bool {
    (1..prompt.len()).any(|index| prompt[..index].iter().any(|part| part.tokens == prompt[index].tokens))
}

#[test]
fn raw_and_moved_keys_give_the_logits_of_the_cpu_in_every_order() {
    let model = embedded();
    for way in [Way::Raw, Way::Moved] {
        let inner = on_device(&model, with_dtype(HalfDtype::F16));
        let changed = Changed { inner, way, stands: HashMap::new() };
        let mut device = Player::new(changed, 1);
        let mut cpu = Player::new(on_cpu(&model), 2);
        let block =
            cases().into_iter().filter(|case| case.mode == AttentionMode::Block && case.prompt.len() > 3);
        // One copy cannot stand at two places of a context.
        let can_run = |case: &Case| way == Way::Raw || !has_twice(&case.prompt);
        for case in block.filter(can_run) {
            let mut prompt = case.prompt;
            for _ in 0..3 {
                let last = prompt.len() - 1;
                prompt[1..last].rotate_left(1);
                let got = device.play(&prompt, case.mode).unwrap();
                let want = cpu.play(&prompt, case.mode).unwrap();
                // A key that moved is rounded once more each time, beside twenty vectors of a layer.
                let roundings = 20.0 + f64::from(device.executor.most_moves());
                let allowed = (roundings / 20.0).sqrt()
                    * tolerance(&want.logits, HalfDtype::F16, model.config.num_layers);
                let difference = max_difference(&got.logits, &want.logits);
                assert!(difference <= allowed, "{}: {difference} > {allowed}", case.name);
                device.release(got);
                cpu.release(want);
            }
        }
        assert_eq!(device.executor.most_moves() >= 3, way == Way::Moved, "documents move, and then again");
    }
}
