//! Which documents of a tenant are resident, now and from now on.
//!
//! The engine knows what is resident, the registry whose it is and under which name. A watcher hears of both and tells its
//! reader of the documents that are registered *and* resident, so that what its reader knows is always that set.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::SystemTime;

use lazy_attn_engine::{EngineError, EngineHandle, KvEvent, KvWatch, NumberedKvEvent};
use lazy_attn_proto::v1::{self, watch_kv_events_response::Event};
use lazy_attn_types::{SegmentKey, TenantSalt};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::spawn_blocking;
use tokio_stream::Stream;
use tonic::Status;

use super::deadline::Deadline;
use super::gate::Gate;
use crate::documents::{Registry, name_of};
use crate::status;

/// Watchers of one tenant. Each holds a key of every resident document.
const MAX_WATCHERS: usize = 8;
/// Messages that wait for a slow reader; one who falls behind further gets a new snapshot.
const MAX_BUFFERED_MESSAGES: usize = 16;

type Message = Result<v1::WatchKvEventsResponse, Status>;

/// Who watches.
#[derive(Debug, Clone, Default)]
pub(super) struct Watchers(Arc<Mutex<HashMap<TenantSalt, usize>>>);

/// One of a tenant's places, free again when dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct WatchPlace {
    watchers: Watchers,
    tenant: TenantSalt,
}

impl Watchers {
    /// A place for one more.
    pub(super) fn enter(&self, tenant: TenantSalt) -> Result<WatchPlace, Status> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(tenant).or_default();
        if *count >= MAX_WATCHERS {
            return Err(status::too_many_watchers(MAX_WATCHERS));
        }
        *count += 1;
        Ok(WatchPlace { watchers: self.clone(), tenant })
    }
}

impl Drop for WatchPlace {
    fn drop(&mut self) {
        let mut counts = self.watchers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.tenant);
            }
        }
    }
}

/// Whether a resident document was told to the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Yes,
    No,
}

/// What one reader knows, and where news come from.
pub(super) struct Watcher {
    handle: EngineHandle,
    registry: Arc<Registry>,
    tenant: TenantSalt,
    /// Every resident document of all tenants: it may be registered later.
    resident: HashMap<SegmentKey, Told>,
    sequence: u64,
    changes: broadcast::Receiver<NumberedKvEvent>,
    registered: watch::Receiver<()>,
    _place: WatchPlace,
}

impl Watcher {
    pub(super) async fn start(
        handle: EngineHandle,
        registry: Arc<Registry>,
        tenant: TenantSalt,
        place: WatchPlace,
    ) -> Result<Watcher, Status> {
        // Subscribed before the snapshot: what is registered meanwhile is looked at twice rather than never.
        let registered = registry.membership();
        let KvWatch { sequence, resident, changes } = resident_now(&handle).await?;
        let resident = resident.into_iter().map(|(key, _)| (key, Told::No)).collect();
        Ok(Watcher { handle, registry, tenant, resident, sequence, changes, registered, _place: place })
    }

    /// A stream that starts with a snapshot. Dropping it ends the task that feeds it.
    pub(super) fn stream(self, deadline: Deadline, gate: Gate) -> WatchStream {
        let (sender, messages) = mpsc::channel(MAX_BUFFERED_MESSAGES);
        tokio::spawn(async move {
            let end = tokio::select! {
                biased;
                () = sender.closed() => return,
                closing = gate.closed() => closing.status(),
                end = deadline.passed() => end,
                end = self.tell(&sender) => end,
            };
            // A reader who takes nothing gets no status either: the stream ends when the connection does.
            let _ = sender.try_send(Err(end));
        });
        WatchStream(messages)
    }

    /// Tells everything to the reader until there is nothing more to hear.
    async fn tell(mut self, sender: &mpsc::Sender<Message>) -> Status {
        let mut news = vec![self.snapshot()];
        loop {
            for message in news.drain(..) {
                if sender.send(Ok(message)).await.is_err() {
                    return status::draining();
                }
            }
            tokio::select! {
                change = self.changes.recv() => match change {
                    Ok(change) => news.extend(self.changed(change)),
                    Err(RecvError::Lagged(_)) => match self.again().await {
                        Ok(snapshot) => news.push(snapshot),
                        Err(status) => return status,
                    },
                    Err(RecvError::Closed) => return status::of_engine_error(&EngineError::ShutDown),
                },
                // The sender lives in the registry.
                _ = self.registered.changed() => news.extend(self.reregistered()),
            }
        }
    }

    /// What is resident and registered, all of it.
    fn snapshot(&mut self) -> v1::WatchKvEventsResponse {
        let keys: Vec<SegmentKey> = self.resident.keys().copied().collect();
        let known = self.registry.known(self.tenant, &keys, SystemTime::now());
        for told in self.resident.values_mut() {
            *told = Told::No;
        }
        for key in &known {
            self.resident.insert(*key, Told::Yes);
        }
        let mut documents: Vec<String> = known.iter().map(name_of).collect();
        documents.sort_unstable();
        self.message(Event::Snapshot(v1::KvSnapshot { documents }))
    }

    /// A change of what is resident.
    fn changed(&mut self, change: NumberedKvEvent) -> Option<v1::WatchKvEventsResponse> {
        self.sequence = change.sequence;
        match change.event {
            KvEvent::Stored { key, .. } => {
                let is_known = !self.registry.known(self.tenant, &[key], SystemTime::now()).is_empty();
                let told = if is_known { Told::Yes } else { Told::No };
                self.resident.insert(key, told);
                is_known.then(|| self.message(Event::Stored(name_of(&key))))
            }
            KvEvent::Evicted { key, .. } => {
                let told = self.resident.remove(&key);
                (told == Some(Told::Yes)).then(|| self.message(Event::Evicted(name_of(&key))))
            }
        }
    }

    /// A change of what is registered.
    fn reregistered(&mut self) -> Vec<v1::WatchKvEventsResponse> {
        let mut keys: Vec<SegmentKey> = self.resident.keys().copied().collect();
        keys.sort_unstable();
        let known = self.registry.known(self.tenant, &keys, SystemTime::now());
        let mut news = Vec::new();
        for key in keys {
            // Both are in the same order.
            let told = if known.binary_search(&key).is_ok() { Told::Yes } else { Told::No };
            if self.resident.insert(key, told) != Some(told) {
                let name = name_of(&key);
                let event = if told == Told::Yes { Event::Stored(name) } else { Event::Evicted(name) };
                news.push(self.message(event));
            }
        }
        news
    }

    /// Starts over after having missed changes.
    async fn again(&mut self) -> Result<v1::WatchKvEventsResponse, Status> {
        let KvWatch { sequence, resident, changes } = resident_now(&self.handle).await?;
        self.resident = resident.into_iter().map(|(key, _)| (key, Told::No)).collect();
        (self.sequence, self.changes) = (sequence, changes);
        Ok(self.snapshot())
    }

    fn message(&self, event: Event) -> v1::WatchKvEventsResponse {
        v1::WatchKvEventsResponse { sequence: self.sequence, event: Some(event) }
    }
}

/// The engine answers between two steps: nothing to wait for on this thread.
async fn resident_now(handle: &EngineHandle) -> Result<KvWatch, Status> {
    let handle = handle.clone();
    let watch = spawn_blocking(move || handle.watch_kv()).await;
    let watch = watch.map_err(|_| status::internal("WATCH_FAILED", "the engine was not asked".into()))?;
    watch.map_err(|error| status::of_engine_error(&error))
}

/// What a reader is told.
pub(super) struct WatchStream(mpsc::Receiver<Message>);

impl Stream for WatchStream {
    type Item = Message;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Message>> {
        self.0.poll_recv(context)
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn a_tenant_has_so_many_watchers_and_no_tenant_takes_those_of_another() {
        let (watchers, other) = (Watchers::default(), TenantSalt([7; 32]));
        let mut places: Vec<WatchPlace> =
            (0..MAX_WATCHERS).map(|_| watchers.enter(TenantSalt::SINGLE_USER).unwrap()).collect();
        let refused = watchers.enter(TenantSalt::SINGLE_USER).unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        let _others = watchers.enter(other).unwrap();
        places.pop();
        places.push(watchers.enter(TenantSalt::SINGLE_USER).unwrap());
        drop(places);
        assert_eq!(watchers.0.lock().unwrap().len(), 1);
    }
}
