//! All documents of all tenants.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use lazy_attn_engine::DocumentInfo;
use lazy_attn_types::{SegmentKey, TenantSalt, TokenId};
use tokio::sync::watch;

use crate::convert::DocumentSource;

use super::entry::name_of;
use super::page::{Page, PageQuery};
use super::{DocumentError, DocumentLimits, PinState, StoredDocument};

mod state;

use state::{State, key_of, not_found};

/// When a document is forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// Never.
    Never,
    /// At this time.
    At(SystemTime),
    /// This long after the call.
    After(Duration),
}

/// What comes with a document that is put.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewDocument {
    /// Empty keeps the name it has.
    pub display_name: String,
    /// Empty keeps the labels it has.
    pub labels: BTreeMap<String, String>,
    /// `None`: the server's default for a new document, and no change for one that is there.
    pub ttl: Option<Duration>,
}

/// A document that was put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    /// As it is now.
    pub document: StoredDocument,
    /// Whether it was not there before.
    pub created: bool,
}

/// New values; `None` keeps what is there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Change {
    /// A name for people.
    pub display_name: Option<String>,
    /// All labels.
    pub labels: Option<BTreeMap<String, String>>,
    /// When it is forgotten.
    pub expiry: Option<Expiry>,
}

/// What the engine has to do for a pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinStep {
    /// Nothing: it is pinned, or somebody else is about to.
    Nothing,
    /// Pin it once, then call [`Registry::end_pin`].
    Pin,
    /// Unpin it once.
    Unpin,
}

/// Documents by tenant and content. Every method takes the time, so that expiry can be tested.
#[derive(Debug)]
pub struct Registry {
    limits: DocumentLimits,
    state: Mutex<State>,
}

impl DocumentSource for Registry {
    fn tokens(&self, tenant: TenantSalt, name: &str) -> Option<Arc<[TokenId]>> {
        self.get(tenant, name, SystemTime::now()).ok().map(|document| document.tokens)
    }
}

impl Registry {
    /// An empty registry.
    #[must_use]
    pub fn new(limits: DocumentLimits) -> Registry {
        Registry { limits, state: Mutex::default() }
    }

    /// Registers a document, or changes what is attached to the one that is there.
    ///
    /// # Errors
    /// [`DocumentError::Field`] and [`DocumentError::Quota`].
    pub fn put(
        &self,
        tenant: TenantSalt,
        info: &DocumentInfo,
        new: NewDocument,
        now: SystemTime,
    ) -> Result<Put, DocumentError> {
        self.limits.check_name(&new.display_name)?;
        self.limits.check_labels(&new.labels)?;
        let mut state = self.state(now);
        if state.get(tenant, info.key).is_some() {
            let change = Change {
                display_name: Some(new.display_name).filter(|name| !name.is_empty()),
                labels: Some(new.labels).filter(|labels| !labels.is_empty()),
                expiry: new.ttl.map(Expiry::After),
            };
            let document = state.change(tenant, info.key, change, now, &self.limits)?;
            return Ok(Put { document, created: false });
        }
        let expires = new.ttl.or(self.limits.default_ttl).and_then(|ttl| now.checked_add(ttl));
        let document = StoredDocument {
            key: info.key,
            tokens: Arc::clone(&info.tokens),
            kv_bytes: info.kv_bytes,
            display_name: new.display_name,
            labels: new.labels,
            pin: PinState::Unpinned,
            expires: None,
            created: now,
            last_used: None,
            use_count: 0,
            revision: 0,
            serial: 0,
        };
        Ok(Put { document: state.insert(tenant, document, expires, &self.limits)?, created: true })
    }

    /// Checks what [`Registry::put`] would check and tells what it would return; changes nothing.
    ///
    /// # Errors
    /// [`DocumentError::Field`].
    pub fn preview(
        &self,
        tenant: TenantSalt,
        info: &DocumentInfo,
        new: NewDocument,
        now: SystemTime,
    ) -> Result<Put, DocumentError> {
        let scratch = Registry::new(self.limits);
        let known = self.state(now).get(tenant, info.key).cloned();
        let created = known.is_none();
        if let Some(known) = known {
            let expires = known.expires;
            scratch.state(now).insert(tenant, known, expires, &self.limits)?;
        }
        Ok(Put { created, ..scratch.put(tenant, info, new, now)? })
    }

    /// The document `name`.
    ///
    /// # Errors
    /// [`DocumentError::NotFound`]; [`DocumentError::Field`] for what is not a name.
    pub fn get(
        &self,
        tenant: TenantSalt,
        name: &str,
        now: SystemTime,
    ) -> Result<StoredDocument, DocumentError> {
        let key = key_of(name)?;
        self.state(now).get(tenant, key).cloned().ok_or_else(|| not_found(name))
    }

    /// The content of the document `name`, for a request that uses it now.
    ///
    /// # Errors
    /// [`DocumentError::NotFound`].
    pub fn use_document(
        &self,
        tenant: TenantSalt,
        name: &str,
        now: SystemTime,
    ) -> Result<Arc<[TokenId]>, DocumentError> {
        let key = key_of(name)?;
        let mut state = self.state(now);
        let document = state.get_mut(tenant, key).ok_or_else(|| not_found(name))?;
        document.use_count += 1;
        document.last_used = Some(now);
        Ok(Arc::clone(&document.tokens))
    }

    /// Which of `keys` are registered.
    #[must_use]
    pub fn known(&self, tenant: TenantSalt, keys: &[SegmentKey], now: SystemTime) -> Vec<SegmentKey> {
        let state = self.state(now);
        keys.iter().copied().filter(|&key| state.get(tenant, key).is_some()).collect()
    }

    /// Hears whenever a document of any tenant comes or goes.
    #[must_use]
    pub fn membership(&self) -> watch::Receiver<()> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).membership.subscribe()
    }

    /// A page of the tenant's documents.
    ///
    /// # Errors
    /// [`DocumentError::Field`] for a query that cannot be read.
    pub fn list(
        &self,
        tenant: TenantSalt,
        query: &PageQuery<'_>,
        now: SystemTime,
    ) -> Result<Page, DocumentError> {
        let state = self.state(now);
        let documents = state.tenants.get(&tenant).map(|tenant| tenant.documents.values());
        query.page(documents.into_iter().flatten())
    }

    /// Changes what is attached to a document.
    ///
    /// # Errors
    /// [`DocumentError::NotFound`], [`DocumentError::EtagMismatch`] unless `etag` is empty or current,
    /// [`DocumentError::Field`], [`DocumentError::Quota`].
    pub fn update(
        &self,
        tenant: TenantSalt,
        name: &str,
        etag: &str,
        change: Change,
        now: SystemTime,
    ) -> Result<StoredDocument, DocumentError> {
        self.check(&change)?;
        let mut state = self.state(now);
        let key = state.checked(tenant, name, etag)?;
        state.change(tenant, key, change, now, &self.limits)
    }

    /// Checks the values of a change.
    ///
    /// # Errors
    /// [`DocumentError::Field`].
    pub fn check(&self, change: &Change) -> Result<(), DocumentError> {
        change.display_name.iter().try_for_each(|name| self.limits.check_name(name))?;
        change.labels.iter().try_for_each(|labels| self.limits.check_labels(labels))
    }

    /// Forgets a document.
    ///
    /// # Errors
    /// [`DocumentError::NotFound`], [`DocumentError::EtagMismatch`] unless `etag` is empty or current.
    pub fn delete(
        &self,
        tenant: TenantSalt,
        name: &str,
        etag: &str,
        now: SystemTime,
    ) -> Result<(), DocumentError> {
        let mut state = self.state(now);
        let key = state.checked(tenant, name, etag)?;
        state.remove(tenant, key);
        Ok(())
    }

    /// Wants the document pinned; it counts against the quota from now on.
    ///
    /// # Errors
    /// [`DocumentError::NotFound`], [`DocumentError::Quota`].
    pub fn begin_pin(
        &self,
        tenant: TenantSalt,
        key: SegmentKey,
        now: SystemTime,
    ) -> Result<PinStep, DocumentError> {
        let max = self.limits.max_pinned_tokens;
        let mut state = self.state(now);
        state.last_revision += 1;
        let revision = state.last_revision;
        let of_tenant = state.tenants.get_mut(&tenant).ok_or_else(|| not_found(&name_of(&key)))?;
        let document = of_tenant.documents.get_mut(&key).ok_or_else(|| not_found(&name_of(&key)))?;
        if document.pin != PinState::Unpinned {
            return Ok(PinStep::Nothing);
        }
        let needed = of_tenant.pinned_tokens + document.num_tokens();
        if needed > max {
            return Err(DocumentError::Quota { what: "pinned tokens of the tenant", needed, max });
        }
        of_tenant.pinned_tokens = needed;
        document.pin = PinState::Pinning;
        document.revision = revision;
        Ok(PinStep::Pin)
    }

    /// Ends a pin that began: the engine pinned the document once, or did not. Tells whether that pin has lost its
    /// document or was withdrawn meanwhile, and has to be given back.
    pub fn end_pin(&self, tenant: TenantSalt, key: SegmentKey, is_pinned: bool, now: SystemTime) -> PinStep {
        let mut state = self.state(now);
        let wanted = state.get_mut(tenant, key).filter(|document| document.pin == PinState::Pinning);
        match (wanted, is_pinned) {
            (Some(document), true) => {
                document.pin = PinState::Pinned;
                PinStep::Nothing
            }
            (Some(document), false) => {
                document.pin = PinState::Unpinned;
                let num_tokens = document.num_tokens();
                if let Some(tenant) = state.tenants.get_mut(&tenant) {
                    tenant.pinned_tokens -= num_tokens;
                }
                PinStep::Nothing
            }
            (None, true) => PinStep::Unpin,
            (None, false) => PinStep::Nothing,
        }
    }

    /// Wants the document unpinned.
    ///
    /// # Errors
    /// [`DocumentError::NotFound`].
    pub fn unpin(
        &self,
        tenant: TenantSalt,
        key: SegmentKey,
        now: SystemTime,
    ) -> Result<PinStep, DocumentError> {
        let mut state = self.state(now);
        state.last_revision += 1;
        let revision = state.last_revision;
        let of_tenant = state.tenants.get_mut(&tenant).ok_or_else(|| not_found(&name_of(&key)))?;
        let document = of_tenant.documents.get_mut(&key).ok_or_else(|| not_found(&name_of(&key)))?;
        let before = std::mem::replace(&mut document.pin, PinState::Unpinned);
        if before != PinState::Unpinned {
            of_tenant.pinned_tokens -= document.num_tokens();
            document.revision = revision;
        }
        // A pin on its way finds that it is not wanted any more when it arrives.
        Ok(if before == PinState::Pinned { PinStep::Unpin } else { PinStep::Nothing })
    }

    /// Forgets what has expired. Returns the pins that the engine holds for documents that are gone; each is returned
    /// once.
    #[must_use]
    pub fn sweep(&self, now: SystemTime) -> Vec<SegmentKey> {
        std::mem::take(&mut self.state(now).orphaned_pins)
    }

    /// The state, without what has expired.
    fn state(&self, now: SystemTime) -> MutexGuard<'_, State> {
        // Every change is made after its checks, so a panic elsewhere leaves a whole state behind.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.expire(now);
        state
    }
}

#[cfg(test)]
mod tests;
