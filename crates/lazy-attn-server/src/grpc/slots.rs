//! How many requests are read (rendered, tokenised) at once, and how many wait for it.

use std::num::NonZero;
use std::sync::Arc;
use std::thread::available_parallelism;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use crate::status;

/// Requests that wait to be read. Each holds its message, so the bound is one on memory too.
const MAX_WAITING: usize = 256;

/// Reading is work for a core, so there are as many slots as cores; behind them is a bounded queue.
#[derive(Debug, Clone)]
pub(super) struct IntakeSlots {
    places: Arc<Semaphore>,
    cores: Arc<Semaphore>,
}

/// A slot, free again when dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct IntakeSlot {
    _core: OwnedSemaphorePermit,
    _place: OwnedSemaphorePermit,
}

impl IntakeSlots {
    pub(super) fn new() -> IntakeSlots {
        let num_cores = available_parallelism().map_or(1, NonZero::get);
        IntakeSlots::of(num_cores, MAX_WAITING)
    }

    fn of(num_cores: usize, max_waiting: usize) -> IntakeSlots {
        IntakeSlots {
            places: Arc::new(Semaphore::new(num_cores + max_waiting)),
            cores: Arc::new(Semaphore::new(num_cores)),
        }
    }

    /// Waits for a slot, unless too many wait already.
    pub(super) async fn enter(&self) -> Result<IntakeSlot, Status> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| status::intake_full())?;
        // Nobody closes the semaphore.
        let core = Arc::clone(&self.cores).acquire_owned().await.map_err(|_| status::intake_full())?;
        Ok(IntakeSlot { _core: core, _place: place })
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;
    use tonic_types::StatusExt;

    use super::*;

    #[tokio::test]
    async fn one_more_than_the_queue_holds_is_refused_and_a_freed_slot_goes_to_the_next() {
        let slots = IntakeSlots::of(1, 1);
        let first = slots.enter().await.unwrap();
        let second = tokio::spawn({
            let slots = slots.clone();
            async move { slots.enter().await }
        });
        while slots.places.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let refusal = slots.enter().await.unwrap_err();
        assert_eq!(refusal.code(), Code::ResourceExhausted);
        assert!(refusal.get_error_details().retry_info().unwrap().retry_delay.is_some());
        drop(first);
        assert!(second.await.unwrap().is_ok());
        assert!(slots.enter().await.is_ok());
    }
}
