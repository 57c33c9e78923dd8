//! The services over the network.
//!
//! * `bind`: which addresses are listened on.
//! * `deadline`: when a request has to end.
//! * `gate`: what is in flight, and whether more may come.
//! * `slots`: how many requests are read at once.
//! * `intake`: from a message to the engine.
//! * `put`: registering a document; `pins`: keeping the engine's pins as the registry wants them.
//! * `tls`: certificates and keys.
//! * `watch`: which documents of a tenant are resident, as a stream.
//! * `generation`, `documents`, `engine`: the services.
//! * `server`: all of them on one listener, until it is told to drain.

mod bind;
mod deadline;
mod documents;
mod engine;
mod gate;
mod generation;
mod intake;
mod pins;
mod put;
mod server;
mod slots;
mod tls;
mod watch;

pub use bind::{Exposure, bind};
pub use engine::AdminAccess;
pub use server::{Reflection, Server, ServerOptions};
pub use tls::{Authorities, Identity, ServerTls};
