//! Several devices as one executor: each has its heads, its feed-forward rows and its rows of the head, and runs every step in
//! a thread of its own, because a sum over devices waits for all of them.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use lazy_attn::DeviationSums;
use lazy_attn::cuda::{Collective, CudaDevice};
use lazy_attn_types::{BlockId, BlockPairs, ExecError, Executor, ExecutorInfo, StepInput, StepOutput};

use super::decoder::Part;
use super::prepare::Prepared;
use super::{CudaExecutor, CudaOptions};
use crate::weights::Shard;
use crate::{ModelError, ModelParts, Progress, Silent};

/// What a device is told.
enum Order {
    Submit(Arc<StepInput>),
    Wait,
    /// Answered to whom it names, and not as steps are: nothing waits for other devices, so that an error breaks nothing.
    Compare(Arc<OwnedPairs>, SyncSender<Result<DeviationSums, ExecError>>),
}

/// [`BlockPairs`] for other threads.
struct OwnedPairs {
    keys: Vec<BlockId>,
    originals: Vec<BlockId>,
    num_tokens: u32,
}

impl OwnedPairs {
    fn lend(&self) -> BlockPairs<'_> {
        BlockPairs { keys: &self.keys, originals: &self.originals, num_tokens: self.num_tokens }
    }
}

/// What it answers: nothing to a step that was submitted.
type Answer = Result<StepOutput, ExecError>;

/// A device and its thread.
#[derive(Debug)]
struct Worker {
    /// `None` once the thread is to end.
    orders: Option<SyncSender<Order>>,
    answers: Receiver<Answer>,
    thread: Option<JoinHandle<()>>,
}

/// A model shared by several devices.
#[derive(Debug)]
pub struct CudaGroup {
    info: ExecutorInfo,
    /// As of each device: they run one model.
    view_grain: Option<u32>,
    workers: Vec<Worker>,
    /// What went wrong on some device: the others may wait for it for ever.
    broken: Option<String>,
}

impl CudaGroup {
    /// Shares `model` between `devices`, each of another ordinal.
    ///
    /// # Errors
    /// As for [`CudaExecutor::new`]; [`ModelError::Shard`] if so many devices cannot share the model.
    pub fn new(
        devices: &[Arc<CudaDevice>],
        model: ModelParts<'_>,
        options: &CudaOptions,
        progress: &dyn Progress,
    ) -> Result<CudaGroup, ModelError> {
        let world = devices.len();
        let mut parts = Vec::with_capacity(world);
        for (rank, collective) in Collective::connect(devices)?.into_iter().enumerate() {
            let shard = Shard::new(rank, world)?;
            shard.sizes(model.config)?;
            parts.push(Part { shard, collective: Some(collective) });
        }
        // Each device reads the whole of the source; one of them tells how far it is.
        let prepared: Vec<Result<Prepared, ModelError>> = thread::scope(|scope| {
            let load = |(part, device): (Part, &Arc<CudaDevice>)| {
                let device = Arc::clone(device);
                scope.spawn(move || {
                    let progress: &dyn Progress = if part.shard.rank() == 0 { progress } else { &Silent };
                    Prepared::new(&device, model, options, progress, part)
                })
            };
            let threads: Vec<_> = parts.into_iter().zip(devices).map(load).collect();
            let panicked =
                |_| Err(ModelError::Threads { num_threads: world, problem: "one of them panicked".into() });
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).collect()
        });
        let prepared = prepared.into_iter().collect::<Result<Vec<_>, _>>()?;
        let num_blocks = prepared.iter().map(Prepared::num_blocks).min().unwrap_or(0);
        let executors = prepared.into_iter().map(|prepared| prepared.finish(num_blocks));
        CudaGroup::of(executors.collect::<Result<_, _>>()?)
    }

    fn of(executors: Vec<CudaExecutor>) -> Result<CudaGroup, ModelError> {
        let num_threads = executors.len();
        let info = executors.first().map(|executor| executor.info().clone());
        let problem = "there is no device".to_owned();
        let info = info.ok_or(ModelError::Threads { num_threads, problem })?;
        let view_grain = executors.iter().map(Executor::view_grain).min().flatten(); // all the same: one model

        let workers = executors.into_iter().enumerate().map(|(rank, executor)| Worker::start(rank, executor));
        let failed = |error: std::io::Error| ModelError::Threads { num_threads, problem: error.to_string() };
        let workers = workers.collect::<Result<_, _>>().map_err(failed)?;
        Ok(CudaGroup { info, view_grain, workers, broken: None })
    }

    /// Devices.
    #[must_use]
    pub fn world(&self) -> usize {
        self.workers.len()
    }

    fn check_unbroken(&self) -> Result<(), ExecError> {
        self.broken.as_ref().map_or(Ok(()), |broken| Err(ExecError::DeviceLost(broken.clone())))
    }

    /// Gives every device an order; the answer of the first.
    fn all(&mut self, order: impl Fn() -> Order) -> Answer {
        self.check_unbroken()?;
        let gone = || Err(thread_ended());
        let sent: Vec<bool> = self
            .workers
            .iter()
            .map(|worker| worker.orders.as_ref().is_some_and(|orders| orders.send(order()).is_ok()))
            .collect();
        let answers = self.workers.iter().zip(sent).map(|(worker, sent)| {
            if sent { worker.answers.recv().unwrap_or_else(|_| gone()) } else { gone() }
        });
        let answers: Vec<Answer> = answers.collect();
        let mut first = None;
        for answer in answers {
            match answer {
                // Every device refuses the same steps before it begins them.
                Err(ExecError::InvalidStep(problem)) => return Err(ExecError::InvalidStep(problem)),
                Err(error) => {
                    self.broken = Some(error.to_string());
                    return Err(ExecError::DeviceLost(error.to_string()));
                }
                Ok(output) => first = first.or(Some(output)),
            }
        }
        first.map_or_else(gone, Ok)
    }

    /// What every device sums over its KV heads, one behind the other.
    fn deviation_sums(&self, blocks: BlockPairs<'_>) -> Result<DeviationSums, ExecError> {
        let (keys, originals) = (blocks.keys.to_vec(), blocks.originals.to_vec());
        let pairs = Arc::new(OwnedPairs { keys, originals, num_tokens: blocks.num_tokens });
        let ask = |worker: &Worker| {
            let (reply, replies) = sync_channel(1);
            let orders = worker.orders.as_ref().ok_or_else(thread_ended)?;
            orders.send(Order::Compare(Arc::clone(&pairs), reply)).map_err(|_| thread_ended())?;
            Ok(replies)
        };
        let replies: Vec<_> = self.workers.iter().map(ask).collect::<Result<_, _>>()?;
        let mut sums = replies.iter().map(|replies| replies.recv().unwrap_or_else(|_| Err(thread_ended())));
        let mut all = sums.next().unwrap_or_else(|| Err(thread_ended()))?;
        for sums in sums {
            all.add(&sums?).map_err(|error| ExecError::Failed(error.to_string()))?;
        }
        Ok(all)
    }
}

fn thread_ended() -> ExecError {
    ExecError::DeviceLost("the thread of a device ended".into())
}

impl Executor for CudaGroup {
    fn view_grain(&self) -> Option<u32> {
        self.view_grain
    }

    fn info(&self) -> &ExecutorInfo {
        &self.info
    }

    fn key_deviation(&mut self, blocks: BlockPairs<'_>) -> Result<Vec<f32>, ExecError> {
        self.check_unbroken()?;
        self.deviation_sums(blocks).map(|sums| sums.means())
    }

    fn execute(&mut self, input: &StepInput) -> Answer {
        self.submit(input)?;
        self.wait()
    }

    fn submit(&mut self, input: &StepInput) -> Result<(), ExecError> {
        let input = Arc::new(input.clone());
        self.all(|| Order::Submit(Arc::clone(&input))).map(|_| ())
    }

    fn wait(&mut self) -> Answer {
        self.all(|| Order::Wait)
    }
}

impl Worker {
    fn start(rank: usize, mut executor: CudaExecutor) -> std::io::Result<Worker> {
        let (orders, received) = sync_channel::<Order>(1);
        let (answer, answers) = sync_channel(1);
        let thread = thread::Builder::new().name(format!("lazy-attn-cuda-{rank}")).spawn(move || {
            for order in received {
                let result = match order {
                    Order::Submit(input) => executor.submit(&input).map(|()| StepOutput::default()),
                    Order::Wait => executor.wait(),
                    Order::Compare(pairs, reply) => {
                        // Nobody listens any more if another device is gone.
                        let _ = reply.send(executor.deviation_sums(pairs.lend()));
                        continue;
                    }
                };
                if answer.send(result).is_err() {
                    return;
                }
            }
        })?;
        Ok(Worker { orders: Some(orders), answers, thread: Some(thread) })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // A panic was told when it happened.
            let _ = thread.join();
        }
    }
}
