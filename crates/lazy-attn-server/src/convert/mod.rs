//! Between the API's messages and the engine's types; the only place that knows both.
//!
//! * `limits`: what a request may ask for at most.
//! * `error`: why a request was refused, with the path of the field.
//! * `request`: [`RequestConverter`], message to engine request.
//! * `documents`: documents that a request names.
//! * `chat`: conversations, rendered by the model's template.
//! * `exactness`: rungs and placements, both ways.
//! * `event`: [`Reply`], engine event to message.
//! * `collect`: [`Collector`], a stream to one message.

mod chat;
mod collect;
mod documents;
mod error;
mod event;
mod exactness;
mod limits;
mod request;

pub use chat::{ChatMessage, ChatPrompt, ChatRenderer, ChatRole, TitledDocument};
pub use collect::{CollectError, Collector};
pub use documents::{DocumentSource, DocumentUse, NoDocuments};
pub use error::ConvertError;
pub(crate) use event::resolved;
pub use event::{Reply, TokenIdsInReply};
pub use exactness::{api_exactness, document_attention};
pub use limits::{Defaults, Limits};
pub use request::{Converted, RequestConverter};
pub(crate) use request::{check_model, duration};
