//! Documents that are text of a context beside a copy of their own: once both are there, their keys are compared.

use lazy_attn_sched::{StepPlan, Work};
use lazy_attn_types::{BlockPairs, ExecError};

use super::{StepLoop, guarded};

impl StepLoop {
    /// Ranks the blocks of the documents that `plan`, whose step has ended, completed for a first token. The sequences of the
    /// plan still hold their blocks.
    pub(super) fn measure_documents(&mut self, plan: &StepPlan) {
        for run in plan.runs.iter().filter(|run| run.work == Work::FirstToken) {
            let owner = self.owners.get(&run.sequence).and_then(|owner| self.requests.get(owner));
            let Some(live) = owner else { continue };
            let context = live.context();
            for (text, copy) in context.measured() {
                let segment = &context.segments()[copy];
                let blocks = BlockPairs {
                    keys: &run.context[copy].blocks,
                    originals: &run.context[text].blocks,
                    num_tokens: segment.num_tokens(),
                };
                let measured = guarded(|| self.executor.key_deviation(blocks));
                match measured.unwrap_or_else(|message| Err(ExecError::Failed(message))) {
                    Ok(deviation) => self.shared.rankings.insert(segment.key(), &deviation),
                    Err(error) => {
                        tracing::warn!(%error, "keys were not compared");
                        self.shared.rankings.refuse(error.to_string());
                    }
                }
            }
        }
    }
}
