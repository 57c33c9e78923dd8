//! What is in flight, and whether more may come.

use std::sync::Arc;

use tokio::sync::watch;

/// Whether requests are let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Closed,
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

    /// A request that was let in; `None` once the gate is closed.
    pub(super) fn enter(&self) -> Option<InFlight> {
        // Counted before the state is read: whoever closes the gate and then waits sees either this request or none.
        let request = InFlight { _receiver: self.in_flight.subscribe() };
        self.is_open().then_some(request)
    }

    pub(super) fn is_open(&self) -> bool {
        *self.state.borrow() == State::Open
    }

    /// Lets nobody in from now on.
    pub(super) fn close(&self) {
        self.state.send_replace(State::Closed);
    }

    /// Resolves once the gate is closed.
    pub(super) async fn closed(&self) {
        // The sender lives in `self`, so the wait cannot fail.
        let _ = self.state.subscribe().wait_for(|state| *state == State::Closed).await;
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
        gate.close();
        assert!(gate.enter().is_none());
        gate.closed().await;
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
