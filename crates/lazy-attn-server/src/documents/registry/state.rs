//! What the registry holds. Every change is made after its checks: it happens as a whole or not at all.

use std::collections::{BTreeSet, HashMap};
use std::time::SystemTime;

use lazy_attn_types::{SegmentKey, TenantSalt};
use tokio::sync::watch;

use super::{Change, Expiry};
use crate::documents::entry::{name_of, parse_name};
use crate::documents::{DocumentError, DocumentLimits, PinState, StoredDocument};

/// All documents, and sums over them.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) tenants: HashMap<TenantSalt, Tenant>,
    pub(super) expiries: BTreeSet<(SystemTime, u64)>,
    /// Documents with an expiry, by serial.
    pub(super) expiring: HashMap<u64, (TenantSalt, SegmentKey)>,
    /// Documents that are gone and whose pins the engine still holds.
    pub(super) orphaned_pins: Vec<SegmentKey>,
    /// Told whenever a document comes or goes.
    pub(super) membership: watch::Sender<()>,
    pub(super) total_bytes: u64,
    pub(super) last_revision: u64,
    pub(super) last_serial: u64,
}

/// The documents of one tenant.
#[derive(Debug, Default)]
pub(super) struct Tenant {
    pub(super) documents: HashMap<SegmentKey, StoredDocument>,
    pub(super) num_bytes: u64,
    pub(super) pinned_tokens: u64,
}

impl State {
    pub(super) fn get(&self, tenant: TenantSalt, key: SegmentKey) -> Option<&StoredDocument> {
        self.tenants.get(&tenant)?.documents.get(&key)
    }

    pub(super) fn get_mut(&mut self, tenant: TenantSalt, key: SegmentKey) -> Option<&mut StoredDocument> {
        self.tenants.get_mut(&tenant)?.documents.get_mut(&key)
    }

    pub(super) fn checked(
        &self,
        tenant: TenantSalt,
        name: &str,
        etag: &str,
    ) -> Result<SegmentKey, DocumentError> {
        let document = self.get(tenant, key_of(name)?).ok_or_else(|| not_found(name))?;
        let current = document.etag();
        if etag.is_empty() || etag == current {
            return Ok(document.key);
        }
        Err(DocumentError::EtagMismatch { name: name.to_owned(), given: etag.to_owned(), current })
    }

    pub(super) fn insert(
        &mut self,
        tenant: TenantSalt,
        mut document: StoredDocument,
        expires: Option<SystemTime>,
        limits: &DocumentLimits,
    ) -> Result<StoredDocument, DocumentError> {
        let num_documents = self.tenants.get(&tenant).map_or(0, |tenant| tenant.documents.len());
        check("documents of the tenant", num_documents as u64 + 1, limits.max_documents as u64)?;
        self.check_bytes(tenant, 0, document.num_bytes(), limits)?;
        (self.last_serial, self.last_revision) = (self.last_serial + 1, self.last_revision + 1);
        (document.serial, document.revision) = (self.last_serial, self.last_revision);
        let num_bytes = document.num_bytes();
        self.total_bytes += num_bytes;
        let of_tenant = self.tenants.entry(tenant).or_default();
        of_tenant.num_bytes += num_bytes;
        of_tenant.documents.insert(document.key, document.clone());
        self.membership.send_replace(());
        self.set_expiry(tenant, document.key, expires);
        document.expires = expires;
        Ok(document)
    }

    pub(super) fn change(
        &mut self,
        tenant: TenantSalt,
        key: SegmentKey,
        change: Change,
        now: SystemTime,
        limits: &DocumentLimits,
    ) -> Result<StoredDocument, DocumentError> {
        let known = self.get(tenant, key).ok_or_else(|| not_found(&name_of(&key)))?;
        let mut changed = known.clone();
        changed.display_name = change.display_name.unwrap_or(changed.display_name);
        changed.labels = change.labels.unwrap_or(changed.labels);
        let expires = match change.expiry {
            None => changed.expires,
            Some(Expiry::Never) => None,
            Some(Expiry::At(time)) => Some(time),
            Some(Expiry::After(ttl)) => now.checked_add(ttl),
        };
        if changed == *known && expires == known.expires {
            return Ok(changed);
        }
        let (before, after) = (known.num_bytes(), changed.num_bytes());
        self.check_bytes(tenant, before, after, limits)?;
        self.last_revision += 1;
        changed.revision = self.last_revision;
        self.total_bytes = self.total_bytes - before + after;
        if let Some(tenant) = self.tenants.get_mut(&tenant) {
            tenant.num_bytes = tenant.num_bytes - before + after;
            tenant.documents.insert(key, changed.clone());
        }
        self.set_expiry(tenant, key, expires);
        changed.expires = expires;
        Ok(changed)
    }

    pub(super) fn check_bytes(
        &self,
        tenant: TenantSalt,
        before: u64,
        after: u64,
        limits: &DocumentLimits,
    ) -> Result<(), DocumentError> {
        let of_tenant = self.tenants.get(&tenant).map_or(0, |tenant| tenant.num_bytes);
        check("retained bytes of the tenant", of_tenant - before + after, limits.max_tenant_bytes)?;
        check("retained bytes of all tenants", self.total_bytes - before + after, limits.max_total_bytes)
    }

    pub(super) fn set_expiry(&mut self, tenant: TenantSalt, key: SegmentKey, expires: Option<SystemTime>) {
        let Some(document) = self.get_mut(tenant, key) else { return };
        let (serial, before) = (document.serial, std::mem::replace(&mut document.expires, expires));
        if let Some(before) = before {
            self.expiries.remove(&(before, serial));
            self.expiring.remove(&serial);
        }
        if let Some(expires) = expires {
            self.expiries.insert((expires, serial));
            self.expiring.insert(serial, (tenant, key));
        }
    }

    pub(super) fn expire(&mut self, now: SystemTime) {
        while let Some(&(expires, serial)) = self.expiries.first() {
            if expires > now {
                return;
            }
            match self.expiring.get(&serial) {
                Some(&(tenant, key)) => self.remove(tenant, key),
                None => unreachable!("whatever expires is known by its serial"),
            }
        }
    }

    pub(super) fn remove(&mut self, tenant: TenantSalt, key: SegmentKey) {
        self.set_expiry(tenant, key, None);
        let Some(of_tenant) = self.tenants.get_mut(&tenant) else { return };
        let Some(document) = of_tenant.documents.remove(&key) else { return };
        self.membership.send_replace(());
        let num_bytes = document.num_bytes();
        of_tenant.num_bytes -= num_bytes;
        self.total_bytes -= num_bytes;
        if document.pin != PinState::Unpinned {
            of_tenant.pinned_tokens -= document.num_tokens();
        }
        if document.pin == PinState::Pinned {
            self.orphaned_pins.push(key);
        }
        if of_tenant.documents.is_empty() {
            self.tenants.remove(&tenant);
        }
    }
}

fn check(what: &'static str, needed: u64, max: u64) -> Result<(), DocumentError> {
    if needed <= max { Ok(()) } else { Err(DocumentError::Quota { what, needed, max }) }
}

pub(super) fn key_of(name: &str) -> Result<SegmentKey, DocumentError> {
    parse_name(name).ok_or_else(|| {
        let problem = "is not `documents/` and 64 hexadecimal digits; take it as PutDocument returned it";
        DocumentError::field("name", problem)
    })
}

pub(super) fn not_found(name: &str) -> DocumentError {
    DocumentError::NotFound { name: name.to_owned() }
}
