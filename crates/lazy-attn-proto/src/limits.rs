//! Bounds that servers and clients share.

/// Largest message that servers and clients take and send, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;
