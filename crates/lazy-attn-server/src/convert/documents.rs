//! Documents that a request names instead of giving them.

use std::sync::Arc;
use std::time::Duration;

use lazy_attn_types::{TenantSalt, TokenId};

/// Where registered documents are looked up.
pub trait DocumentSource {
    /// The tokens of the document `documents/{key}`, unless `tenant` has none of this name.
    fn tokens(&self, tenant: TenantSalt, name: &str) -> Option<Arc<[TokenId]>>;
}

/// For those who have no registry: every name is unknown.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoDocuments;

impl DocumentSource for NoDocuments {
    fn tokens(&self, _tenant: TenantSalt, _name: &str) -> Option<Arc<[TokenId]>> {
        None
    }
}

/// Where a document of a prompt comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DocumentUse {
    /// It is registered under this name.
    Registered(String),
    /// It came with the request and goes with it.
    Inline,
    /// It came with the request and is to be registered.
    Store {
        /// Its name for people.
        title: String,
        /// Time after which it is forgotten; `None`: the server's default.
        ttl: Option<Duration>,
    },
}
