//! Several devices as one executor: each has its heads, its feed-forward rows and its rows of the head, and runs every step in
//! a thread of its own, because a sum over devices waits for all of them.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use lazy_attn::cuda::{Collective, CudaDevice};
use lazy_attn_types::{ExecError, Executor, ExecutorInfo, StepInput, StepOutput};

use super::decoder::Part;
use super::prepare::Prepared;
use super::{CudaExecutor, CudaOptions};
use crate::weights::Shard;
use crate::{ModelError, ModelParts, Progress, Silent};

/// What a device is told.
enum Order {
    Submit(Arc<StepInput>),
    Wait,
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
    shows_parts: bool,
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
        let shows_parts = executors.iter().all(Executor::shows_parts);
        let workers = executors.into_iter().enumerate().map(|(rank, executor)| Worker::start(rank, executor));
        let failed = |error: std::io::Error| ModelError::Threads { num_threads, problem: error.to_string() };
        let workers = workers.collect::<Result<_, _>>().map_err(failed)?;
        Ok(CudaGroup { info, shows_parts, workers, broken: None })
    }

    /// Devices.
    #[must_use]
    pub fn world(&self) -> usize {
        self.workers.len()
    }

    /// Gives every device an order; the answer of the first.
    fn all(&mut self, order: impl Fn() -> Order) -> Answer {
        if let Some(broken) = &self.broken {
            return Err(ExecError::DeviceLost(broken.clone()));
        }
        let gone = || Err(ExecError::DeviceLost("the thread of a device ended".into()));
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
}

impl Executor for CudaGroup {
    fn shows_parts(&self) -> bool {
        self.shows_parts
    }

    fn info(&self) -> &ExecutorInfo {
        &self.info
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
