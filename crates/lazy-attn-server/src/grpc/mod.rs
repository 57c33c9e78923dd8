//! The services over the network.
//!
//! * `bind`: which addresses are listened on.
//! * `deadline`: when a request has to end.
//! * `gate`: what is in flight, and whether more may come.
//! * `slots`: how many requests are read at once.
//! * `tls`: certificates and keys.
//! * `generation`, `engine`: the services.
//! * `server`: all of them on one listener, until it is told to drain.

mod bind;
mod deadline;
mod engine;
mod gate;
mod generation;
mod server;
mod slots;
mod tls;

pub use bind::{Exposure, bind};
pub use server::{Reflection, Server, ServerOptions};
pub use tls::{Authorities, Identity, ServerTls};
