//! How long work tells how far it is.

/// Receives the progress of loading and downloading. Every method may be called from any thread.
pub trait Progress: Send + Sync {
    /// A task of `total_bytes` begins; tasks follow one another.
    fn begin(&self, task: &str, total_bytes: u64);
    /// `bytes` more are done.
    fn advance(&self, bytes: u64);
    /// The task is over.
    fn finish(&self);
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _task: &str, _total_bytes: u64) {}
    fn advance(&self, _bytes: u64) {}
    fn finish(&self) {}
}
