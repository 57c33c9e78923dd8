//! What inputs are made from: small right ones of every kind.

pub(crate) mod request;
pub(crate) mod text;
pub(crate) mod weights;
