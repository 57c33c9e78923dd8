//! Keeps the engine's pins as the registry wants them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lazy_attn_engine::EngineHandle;
use lazy_attn_types::{SegmentKey, TenantSalt};
use tokio::time::{MissedTickBehavior, interval};

use crate::documents::{DocumentError, PinStep, Registry};

/// How late a document that expired may be forgotten while nobody asks for it.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The registry and the engine that holds its pins.
#[derive(Clone)]
pub(super) struct Pins {
    handle: EngineHandle,
    registry: Arc<Registry>,
}

impl Pins {
    pub(super) fn new(handle: EngineHandle, registry: Arc<Registry>) -> Pins {
        Pins { handle, registry }
    }

    /// Forgets what expires and gives its pins back, for ever.
    pub(super) async fn keep(&self) {
        let mut ticks = interval(SWEEP_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.sweep();
        }
    }

    /// Gives back the pins of documents that are gone.
    pub(super) fn sweep(&self) {
        for key in self.registry.sweep(SystemTime::now()) {
            self.handle.unpin_later(key);
        }
    }

    /// The engine pinned the document once, or could not.
    pub(super) fn end(&self, tenant: TenantSalt, key: SegmentKey, is_pinned: bool) {
        let step = self.registry.end_pin(tenant, key, is_pinned, SystemTime::now());
        if step == PinStep::Unpin {
            self.handle.unpin_later(key);
        }
    }

    /// Whoever waited for the pin went away, having cancelled it. The engine may have pinned the document before it heard
    /// of that; it hears of this afterwards.
    pub(super) fn abandon(&self, tenant: TenantSalt, key: SegmentKey) {
        self.end(tenant, key, false);
        self.handle.unpin_later(key);
    }

    /// Takes the document's pin away.
    pub(super) fn unpin(&self, tenant: TenantSalt, key: SegmentKey) -> Result<(), DocumentError> {
        if self.registry.unpin(tenant, key, SystemTime::now())? == PinStep::Unpin {
            self.handle.unpin_later(key);
        }
        Ok(())
    }
}
