//! Documents as resources: what a tenant has put, named by content, with what people attach to it.
//!
//! The registry retains the tokens of each document. Where its KV is, is the engine's business: KV that was evicted is
//! computed again by the next use, and nothing here changes.
//!
//! * [`limits`]: bounds of the registry.
//! * `entry`: a document and its pin.
//! * [`registry`]: all documents of all tenants.
//! * [`page`]: filters, orders and pages.
//! * [`error`]: why something was refused.

mod entry;
pub mod error;
pub mod limits;
pub mod page;
pub mod registry;

pub(crate) use entry::name_of;
pub use entry::{PinState, StoredDocument};
pub use error::DocumentError;
pub use limits::DocumentLimits;
pub use page::{Page, PageQuery};
pub use registry::{Change, Expiry, NewDocument, PinStep, Put, Registry};
