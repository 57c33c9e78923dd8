//! What is in flight, and whether more may come.

use std::sync::Arc;

use lazy_attn_engine::EngineError;
use tokio::sync::watch;
use tonic::Status;

use crate::status;

/// Whether requests are let in.
#[derive(Debug, Clone, PartialEq)]
enum State {
    Open,
    Closed(Closing),
}

/// Why nobody is let in any more.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Closing {
    /// Somebody wants the server to end.
    Drain,
    /// The engine is gone.
    EngineLost(EngineError),
}

impl Closing {
    /// What those hear who come too late.
    pub(super) fn status(&self) -> Status {
        match self {
            Closing::Drain => status::draining(),
            Closing::EngineLost(error) => status::of_engine_error(error),
        }
    }
}

/// Lets requests in until it is closed, and knows when the last one has left.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    state: Arc<watch::Sender<State>>,
    /// Every request in flight is a receiver.
    in_flight: Arc<watch::Sender<()>>,
}

/// A request that was let in; it leaves when this is dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct InFlight {
    _receiver: watch::Receiver<()>,
}

impl Gate {
    pub(super) fn new() -> Gate {
        Gate { state: Arc::new(watch::Sender::new(State::Open)), in_flight: Arc::new(watch::Sender::new(())) }
    }

    /// A request that was let in.
    ///
    /// # Errors
    /// Why the gate is closed.
    pub(super) fn enter(&self) -> Result<InFlight, Closing> {
        // Counted before the state is read: whoever closes the gate and then waits sees either this request or none.
        let request = InFlight { _receiver: self.in_flight.subscribe() };
        match &*self.state.borrow() {
            State::Open => Ok(request),
            State::Closed(closing) => Err(closing.clone()),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        *self.state.borrow() == State::Open
    }

    /// Lets nobody in from now on, because the server is to end.
    pub(super) fn drain(&self) {
        self.close_for(Closing::Drain);
    }

    /// Lets nobody in from now on, because the engine is gone.
    pub(super) fn close(&self, error: EngineError) {
        self.close_for(Closing::EngineLost(error));
    }

    /// The first reason stays.
    fn close_for(&self, closing: Closing) {
        self.state.send_if_modified(|state| {
            let was_open = *state == State::Open;
            if was_open {
                *state = State::Closed(closing);
            }
            was_open
        });
    }

    /// Resolves once the gate is closed.
    pub(super) async fn closed(&self) -> Closing {
        let mut state = self.state.subscribe();
        // The sender lives in `self`, so the wait cannot fail.
        let closed = state.wait_for(|state| *state != State::Open).await;
        match closed.as_deref() {
            Ok(State::Closed(closing)) => closing.clone(),
            Ok(State::Open) | Err(_) => Closing::EngineLost(EngineError::ShutDown),
        }
    }

    /// Requests in flight.
    pub(super) fn num_in_flight(&self) -> usize {
        self.in_flight.receiver_count()
    }

    /// Resolves once nothing is in flight.
    pub(super) async fn empty(&self) {
        self.in_flight.closed().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_closed_gate_lets_nobody_in_and_is_empty_when_the_last_has_left() {
        let gate = Gate::new();
        let (first, second) = (gate.enter().unwrap(), gate.enter().unwrap());
        assert_eq!(gate.num_in_flight(), 2);
        gate.drain();
        gate.close(EngineError::ShutDown);
        assert_eq!(gate.enter().unwrap_err(), Closing::Drain);
        assert_eq!(gate.closed().await, Closing::Drain, "the first reason stays");
        drop(first);
        let empty = tokio::spawn({
            let gate = gate.clone();
            async move { gate.empty().await }
        });
        tokio::task::yield_now().await;
        assert!(!empty.is_finished());
        drop(second);
        empty.await.unwrap();
    }
}
