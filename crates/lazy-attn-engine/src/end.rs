//! How an engine ended, for everybody who holds a handle.

use std::sync::Arc;

use tokio::sync::watch;

use crate::EngineError;
use crate::handle::Shared;

/// Why the engine is gone; nothing while it runs.
#[derive(Debug)]
pub(crate) struct End(watch::Sender<Option<EngineError>>);

impl End {
    pub(crate) fn new() -> End {
        End(watch::Sender::new(None))
    }

    /// The first reason stays.
    pub(crate) fn set(&self, error: EngineError) {
        self.0.send_if_modified(|end| {
            let is_first = end.is_none();
            if is_first {
                *end = Some(error);
            }
            is_first
        });
    }

    /// Why whoever asks an engine that is gone gets no answer.
    pub(crate) fn reason(&self) -> EngineError {
        self.0.borrow().clone().unwrap_or(EngineError::ShutDown)
    }

    /// Resolves once there is a reason.
    pub(crate) async fn wait(&self) -> EngineError {
        let mut end = self.0.subscribe();
        // The sender lives in `self`, so the wait cannot fail.
        let _: Result<_, _> = end.wait_for(Option::is_some).await;
        self.reason()
    }
}

/// Marks the end of an engine when its loop is left, also by a panic.
pub(crate) struct EndMark(pub(crate) Arc<Shared>);

impl Drop for EndMark {
    fn drop(&mut self) {
        self.0.end.set(EngineError::ShutDown);
    }
}
