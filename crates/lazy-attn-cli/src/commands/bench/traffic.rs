//! The trace that the options ask for.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};

use lazy_attn_workload::{KvBudget, Load, Trace, Workload, WorkloadError};

use crate::args::TrafficArgs;
use crate::exit::Failure;

/// A trace, and the KV budget that its workload has unless somebody says otherwise.
pub(super) struct Traffic {
    pub(super) trace: Trace,
    pub(super) kv_budget: KvBudget,
}

impl Traffic {
    /// Makes or reads the trace, and writes it where that was asked for.
    ///
    /// # Errors
    /// Usage, for a workload that does not exist, a number that cannot be, or a file that cannot be read or written.
    pub(super) fn of(args: &TrafficArgs) -> Result<Traffic, Failure> {
        let traffic = match &args.trace {
            Some(path) => {
                let file = File::open(path)
                    .map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?;
                Traffic {
                    trace: Trace::read(BufReader::new(file)).map_err(refused)?,
                    kv_budget: KvBudget::All,
                }
            }
            None => {
                let workload = workload(args)?;
                let trace = Trace::generate(&workload, args.seed).map_err(refused)?;
                Traffic { trace, kv_budget: workload.kv_budget }
            }
        };
        if let Some(path) = &args.trace_out {
            let written = File::create(path).map(BufWriter::new).map_err(WorkloadError::Io);
            let written = written.and_then(|mut to| Ok((traffic.trace.write(&mut to)?, to.flush()?)));
            written.map_err(|error| Failure::usage(format!("cannot write {}: {error}", path.display())))?;
        }
        Ok(traffic)
    }
}

fn refused(error: WorkloadError) -> Failure {
    Failure::usage(error)
}

fn workload(args: &TrafficArgs) -> Result<Workload, Failure> {
    let Some(mut workload) = Workload::named(&args.workload) else {
        let names: Vec<String> = Workload::names().collect();
        let problem = format!("--workload {:?} does not exist", args.workload);
        return Err(Failure::usage(format!("{problem}; it is one of {}", names.join(", "))));
    };
    workload.alpha = args.alpha.unwrap_or(workload.alpha);
    workload.num_requests = args.requests.unwrap_or(workload.num_requests);
    workload.shape.output_tokens = args.output_tokens.unwrap_or(workload.shape.output_tokens);
    match (args.clients, args.rate) {
        (Some(clients), _) => workload.load = Load::Closed { clients },
        (None, Some(rate_per_second)) => workload.load = Load::Open { rate_per_second },
        (None, None) => {}
    }
    Ok(workload)
}
