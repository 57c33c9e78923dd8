//! Standard output, whose reader may go away at any time.

use std::io::{self, Write};

use lazy_attn_proto::to_json;
use serde::Serialize;

use crate::exit::Failure;

/// Writes to stdout; a broken pipe ends the program quietly.
#[derive(Debug)]
pub(crate) struct Out(io::Stdout);

impl Out {
    pub(crate) fn new() -> Out {
        Out(io::stdout())
    }

    /// Writes `text` now, without a line break.
    pub(crate) fn text(&mut self, text: &str) -> Result<(), Failure> {
        self.0.write_all(text.as_bytes())?;
        Ok(self.0.flush()?)
    }

    pub(crate) fn line(&mut self, line: &str) -> Result<(), Failure> {
        self.text(line)?;
        self.text("\n")
    }
}

/// Prints `value` as one JSON object on one line.
pub(crate) fn print_json<T: Serialize>(value: &T) -> Result<(), Failure> {
    Out::new().line(&to_json(value)?)
}
