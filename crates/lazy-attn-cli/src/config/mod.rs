//! Where settings come from: the command line, over the environment, over a file, over defaults.
//!
//! Reading order: `settings` what there is, `table` what is known of each, `given` values of environment and file,
//! `layers` which of them hold, `suggest` the name that was meant. No setting is a secret: keys stay in files, and
//! settings name them.

mod given;
mod layers;
mod settings;
mod suggest;
mod table;

pub(crate) use layers::{Resolved, Value, check_file, resolve};
pub(crate) use settings::{BoundArgs, DocumentArgs, ServeArgs};
#[cfg(test)]
pub(crate) use table::Settings;
