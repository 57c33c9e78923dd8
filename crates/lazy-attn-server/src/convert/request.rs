//! Message to engine request.

use std::sync::Arc;
use std::time::Duration;

use lazy_attn_engine::{CacheUse, GenerateRequest, Part, PartContent};
use lazy_attn_proto::v1::{self, Role, inline_document, part};
use lazy_attn_types::sampling::EndTokens;
use lazy_attn_types::{OutputParams, SamplingParams, StopParams, TenantSalt, TokenId};

use crate::convert::exactness::{exactness, focus, placement};
use crate::convert::{
    ChatMessage, ChatPrompt, ChatRenderer, ChatRole, ConvertError, Defaults, DocumentSource, DocumentUse,
    Limits, Reply, TitledDocument, TokenIdsInReply,
};

/// Largest priority, and smallest with the other sign.
const MAX_PRIORITY: i32 = 1000;

/// Turns messages into engine requests for one model.
pub struct RequestConverter<'a> {
    /// Name of the loaded model.
    pub model: &'a str,
    /// Bounds of a request.
    pub limits: Limits,
    /// What absent fields mean.
    pub defaults: Defaults,
    /// The model's template.
    pub chat: &'a dyn ChatRenderer,
    /// Documents that requests may name.
    pub documents: &'a dyn DocumentSource,
}

/// A request that passed every check, and how its events become messages.
#[derive(Debug, Clone, PartialEq)]
pub struct Converted {
    /// For the engine.
    pub request: GenerateRequest,
    /// For the way back.
    pub reply: Reply,
    /// Where the document parts of the request come from, in their order.
    pub documents: Vec<DocumentUse>,
}

impl RequestConverter<'_> {
    /// Checks `request` and converts it for `tenant`.
    ///
    /// # Errors
    /// [`ConvertError`] for the first field that is missing, contradicts another or is outside its bound.
    pub fn convert(
        &self,
        request: v1::GenerateRequest,
        tenant: TenantSalt,
    ) -> Result<Converted, ConvertError> {
        self.check_names(&request)?;
        let exactness = exactness(request.attention, request.exactness, self.defaults.exactness)?;
        let placement = placement(request.placement)?;
        let focus = focus(request.focus)?;
        let sampling = self.sampling(request.sampling.unwrap_or_default())?;
        let stopping = self.stopping(request.stopping.unwrap_or_default())?;
        let response = request.response.unwrap_or_default();
        let output = OutputParams { top_logprobs: response.top_logprobs.unwrap_or(0) };
        output.validate()?;
        let cache = request.cache.unwrap_or_default();
        let (parts, mut documents) = self.prompt(request.parts, request.chat, tenant)?;
        store_documents(&cache, &mut documents)?;
        let priority = priority(request.priority)?;
        let reply = Reply {
            request_id: request.request_id,
            model: self.model.to_owned(),
            token_ids: if response.token_ids.unwrap_or(false) {
                TokenIdsInReply::Report
            } else {
                TokenIdsInReply::Omit
            },
            top_logprobs: output.top_logprobs,
            n: sampling.n,
        };
        let bypass = cache.bypass.unwrap_or(false);
        let cache = if bypass { CacheUse::Bypass } else { CacheUse::ReadWrite };
        let request = GenerateRequest {
            exactness,
            placement,
            focus,
            sampling,
            stopping,
            output,
            cache,
            tenant,
            priority,
            forced_output: request.forced_output.into_iter().map(TokenId).collect(),
            ..GenerateRequest::new(parts)
        };
        Ok(Converted { request, reply, documents })
    }

    fn check_names(&self, request: &v1::GenerateRequest) -> Result<(), ConvertError> {
        self.check_name("request_id", &request.request_id)?;
        self.check_name("model", &request.model)?;
        check_model(&request.model, self.model)
    }

    fn check_name(&self, field: &str, name: &str) -> Result<(), ConvertError> {
        check_at_most(field, name.len(), self.limits.max_name_bytes, "bytes; shorten it")
    }

    fn sampling(&self, options: v1::SamplingOptions) -> Result<SamplingParams, ConvertError> {
        let default = &self.defaults.sampling;
        let params = SamplingParams {
            temperature: options.temperature.unwrap_or(default.temperature),
            top_k: options.top_k.unwrap_or(default.top_k),
            top_p: options.top_p.unwrap_or(default.top_p),
            min_p: options.min_p.unwrap_or(default.min_p),
            repetition_penalty: options.repetition_penalty.unwrap_or(default.repetition_penalty),
            presence_penalty: options.presence_penalty.unwrap_or(default.presence_penalty),
            frequency_penalty: options.frequency_penalty.unwrap_or(default.frequency_penalty),
            logit_bias: options.logit_bias.into_iter().map(|(id, bias)| (TokenId(id), bias)).collect(),
            seed: options.seed.or(default.seed),
            n: options.n.unwrap_or(default.n),
        };
        params.validate()?;
        Ok(params)
    }

    fn stopping(&self, options: v1::StoppingOptions) -> Result<StopParams, ConvertError> {
        let end_tokens = match options.ignore_end_tokens {
            None => self.defaults.stopping.end_tokens,
            Some(true) => EndTokens::Ignore,
            Some(false) => EndTokens::Stop,
        };
        let params = StopParams {
            max_tokens: options.max_tokens.unwrap_or(self.defaults.stopping.max_tokens),
            stop_texts: options.stop_texts,
            stop_tokens: options.stop_token_ids.into_iter().map(TokenId).collect(),
            end_tokens,
        };
        params.validate()?;
        Ok(params)
    }

    fn prompt(
        &self,
        parts: Vec<v1::Part>,
        chat: Option<v1::Chat>,
        tenant: TenantSalt,
    ) -> Result<(Vec<Part>, Vec<DocumentUse>), ConvertError> {
        let (limits, source) = (self.limits, self.documents);
        let mut budget = Budget { limits, source, tenant, documents: Vec::new(), num_bytes: 0 };
        let parts = match (parts.is_empty(), chat) {
            (false, Some(_)) => {
                Err(ConvertError::field("parts", "and chat are both given; give one of them"))
            }
            (true, None) => {
                Err(ConvertError::field("parts", "is empty; give at least one text part, or chat"))
            }
            (false, None) => budget.parts(parts),
            (true, Some(chat)) => {
                let prompt = budget.chat(chat)?;
                self.chat.render(&prompt).map_err(|problem| ConvertError::field("chat", problem))
            }
        }?;
        Ok((parts, budget.documents))
    }
}

/// Counts what a prompt uses of its limits.
struct Budget<'a> {
    limits: Limits,
    source: &'a dyn DocumentSource,
    tenant: TenantSalt,
    /// Where the documents so far come from.
    documents: Vec<DocumentUse>,
    num_bytes: usize,
}

impl Budget<'_> {
    fn parts(&mut self, parts: Vec<v1::Part>) -> Result<Vec<Part>, ConvertError> {
        check_at_most("parts", parts.len(), self.limits.max_parts, "parts; join texts or send less")?;
        let parts: Vec<Part> = parts
            .into_iter()
            .enumerate()
            .map(|(index, part)| self.part(&format!("parts[{index}]"), part))
            .collect::<Result<_, _>>()?;
        if let Some(Part::Document(_)) = parts.last() {
            let field = format!("parts[{}]", parts.len() - 1);
            let problem = "is the last part and a document; put text (the question) behind the documents";
            return Err(ConvertError::field(field, problem));
        }
        Ok(parts)
    }

    fn part(&mut self, field: &str, part: v1::Part) -> Result<Part, ConvertError> {
        match part.part {
            Some(part::Part::Text(text)) => Ok(Part::Text(self.text(&format!("{field}.text"), text)?)),
            Some(part::Part::TokenIds(tokens)) => {
                Ok(Part::Text(self.tokens(&format!("{field}.token_ids"), &tokens)?))
            }
            Some(part::Part::InlineDocument(document)) => {
                Ok(Part::Document(self.document(&format!("{field}.inline_document"), document)?.content))
            }
            Some(part::Part::Document(name)) => Ok(Part::Document(self.registered(field, name)?.content)),
            None => {
                let problem = "is empty; set text, token_ids, document or inline_document";
                Err(ConvertError::field(field, problem))
            }
        }
    }

    fn document(
        &mut self,
        field: &str,
        document: v1::InlineDocument,
    ) -> Result<TitledDocument, ConvertError> {
        self.use_document(field, document_use(field, &document)?)?;
        let title_field = format!("{field}.title");
        check_at_most(&title_field, document.title.len(), self.limits.max_name_bytes, "bytes; shorten it")?;
        let content = match document.source {
            Some(inline_document::Source::Text(text)) => self.text(&format!("{field}.text"), text)?,
            Some(inline_document::Source::TokenIds(tokens)) => {
                self.tokens(&format!("{field}.token_ids"), &tokens)?
            }
            None => return Err(ConvertError::field(field, "has no content; set text or token_ids")),
        };
        Ok(TitledDocument { title: document.title, content })
    }

    /// A document by its name. It is what was put: no template writes a title in front of it.
    fn registered(&mut self, field: &str, name: String) -> Result<TitledDocument, ConvertError> {
        let field = format!("{field}.document");
        check_at_most(&field, name.len(), self.limits.max_name_bytes, "bytes; shorten it")?;
        let tokens = self.source.tokens(self.tenant, &name);
        let tokens = tokens
            .ok_or_else(|| ConvertError::UnknownDocument { field: field.clone(), name: name.clone() })?;
        self.use_document(&field, DocumentUse::Registered(name))?;
        Ok(TitledDocument { title: String::new(), content: PartContent::Tokens(tokens) })
    }

    fn use_document(&mut self, field: &str, document: DocumentUse) -> Result<(), ConvertError> {
        self.documents.push(document);
        let remedy = "documents in one request; send fewer";
        check_at_most(field, self.documents.len(), self.limits.max_documents, remedy)
    }

    fn text(&mut self, field: &str, text: String) -> Result<PartContent, ConvertError> {
        if text.is_empty() {
            return Err(ConvertError::field(field, "is empty; give it text or leave the part out"));
        }
        self.count(field, text.len())?;
        Ok(PartContent::Text(text))
    }

    fn tokens(&mut self, field: &str, tokens: &v1::TokenIds) -> Result<PartContent, ConvertError> {
        if tokens.ids.is_empty() {
            return Err(ConvertError::field(field, "has no ids; give it at least one or leave the part out"));
        }
        self.count(field, tokens.ids.len().saturating_mul(4))?;
        let ids: Arc<[TokenId]> = tokens.ids.iter().copied().map(TokenId).collect();
        Ok(PartContent::Tokens(ids))
    }

    fn count(&mut self, field: &str, num_bytes: usize) -> Result<(), ConvertError> {
        check_at_most(field, num_bytes, self.limits.max_part_bytes, "bytes in one part; split it")?;
        self.num_bytes += num_bytes;
        check_at_most(field, self.num_bytes, self.limits.max_prompt_bytes, "bytes in one prompt; shorten it")
    }

    fn chat(&mut self, chat: v1::Chat) -> Result<ChatPrompt, ConvertError> {
        let limit = self.limits.max_parts;
        check_at_most("chat.messages", chat.messages.len(), limit, "messages; send fewer")?;
        let messages: Vec<ChatMessage> = chat
            .messages
            .into_iter()
            .enumerate()
            .map(|(index, message)| self.message(index, message))
            .collect::<Result<_, _>>()?;
        if messages.last().is_none_or(|message| message.role != ChatRole::User) {
            return Err(ConvertError::field("chat.messages", "must end with a message of role USER"));
        }
        let documents: Vec<TitledDocument> = chat
            .documents
            .into_iter()
            .enumerate()
            .map(|(index, part)| self.chat_document(&format!("chat.documents[{index}]"), part))
            .collect::<Result<_, _>>()?;
        Ok(ChatPrompt { messages, documents })
    }

    fn chat_document(&mut self, field: &str, part: v1::Part) -> Result<TitledDocument, ConvertError> {
        match part.part {
            Some(part::Part::InlineDocument(document)) => {
                self.document(&format!("{field}.inline_document"), document)
            }
            Some(part::Part::Document(name)) => self.registered(field, name),
            _ => Err(ConvertError::field(field, "is not a document; set document or inline_document")),
        }
    }

    fn message(&mut self, index: usize, message: v1::Message) -> Result<ChatMessage, ConvertError> {
        let field = format!("chat.messages[{index}]");
        let role = match Role::try_from(message.role) {
            Ok(Role::System) if index == 0 => ChatRole::System,
            Ok(Role::System) => {
                let problem = "is SYSTEM, which only the first message may be";
                return Err(ConvertError::field(format!("{field}.role"), problem));
            }
            Ok(Role::User) => ChatRole::User,
            Ok(Role::Assistant) => ChatRole::Assistant,
            Ok(Role::Unspecified) | Err(_) => {
                let problem = "must be SYSTEM, USER or ASSISTANT";
                return Err(ConvertError::field(format!("{field}.role"), problem));
            }
        };
        let content_field = format!("{field}.content");
        check_at_most(&content_field, message.content.len(), self.limits.max_parts, "parts; join them")?;
        let mut joined = String::new();
        for (index, part) in message.content.into_iter().enumerate() {
            let field = format!("{content_field}[{index}]");
            match self.part(&field, part)? {
                Part::Text(PartContent::Text(text)) => joined.push_str(&text),
                _ => return Err(ConvertError::field(field, "is not text; a message holds text parts only")),
            }
        }
        if joined.is_empty() {
            return Err(ConvertError::field(content_field, "is empty; give the message text"));
        }
        Ok(ChatMessage { role, text: joined })
    }
}

/// Refuses any name but that of the loaded model, bare or as `models/{model}`.
pub(crate) fn check_model(given: &str, loaded: &str) -> Result<(), ConvertError> {
    if given.is_empty() || given.strip_prefix("models/").unwrap_or(given) == loaded {
        return Ok(());
    }
    Err(ConvertError::UnknownModel { given: given.to_owned(), loaded: loaded.to_owned() })
}

/// A length of time above 0.
pub(crate) fn duration(
    field: &str,
    given: Option<lazy_attn_proto::Duration>,
) -> Result<Option<Duration>, ConvertError> {
    let Some(given) = given else { return Ok(None) };
    let parts = u64::try_from(given.seconds).ok().zip(u32::try_from(given.nanos).ok());
    let duration = parts.and_then(|(seconds, nanos)| {
        Duration::from_secs(seconds).checked_add(Duration::from_nanos(u64::from(nanos)))
    });
    match duration.filter(|duration| !duration.is_zero()) {
        Some(duration) => Ok(Some(duration)),
        None => {
            let problem = format!("is {} s and {} ns, but must be above 0", given.seconds, given.nanos);
            Err(ConvertError::field(field, problem))
        }
    }
}

fn document_use(field: &str, document: &v1::InlineDocument) -> Result<DocumentUse, ConvertError> {
    let ttl = duration(&format!("{field}.ttl"), document.ttl)?;
    match (document.store, ttl) {
        (true, ttl) => Ok(DocumentUse::Store { title: document.title.clone(), ttl }),
        (false, None) => Ok(DocumentUse::Inline),
        (false, Some(_)) => Err(ConvertError::field(
            format!("{field}.ttl"),
            "is for documents that are stored; set store too",
        )),
    }
}

/// Applies what the request says of all its inline documents.
fn store_documents(cache: &v1::CacheOptions, documents: &mut [DocumentUse]) -> Result<(), ConvertError> {
    let for_all = duration("cache.ttl", cache.ttl)?;
    let stores_all = cache.store_inline_documents.unwrap_or(false);
    let stores_any =
        stores_all || documents.iter().any(|document| matches!(document, DocumentUse::Store { .. }));
    if stores_any && cache.bypass.unwrap_or(false) {
        let problem = "keeps nothing, but documents of the request are to be stored; choose one of the two";
        return Err(ConvertError::field("cache.bypass", problem));
    }
    if for_all.is_some() && !stores_any {
        let problem =
            "is for documents that are stored; set cache.store_inline_documents or a document's store";
        return Err(ConvertError::field("cache.ttl", problem));
    }
    for document in documents {
        match document {
            DocumentUse::Store { ttl, .. } => *ttl = ttl.or(for_all),
            DocumentUse::Inline if stores_all => {
                *document = DocumentUse::Store { title: String::new(), ttl: for_all };
            }
            DocumentUse::Inline | DocumentUse::Registered(_) => {}
        }
    }
    Ok(())
}

fn priority(given: i32) -> Result<i32, ConvertError> {
    if (-MAX_PRIORITY..=MAX_PRIORITY).contains(&given) {
        return Ok(given);
    }
    let problem = format!("is {given}, but must be from -{MAX_PRIORITY} to {MAX_PRIORITY}");
    Err(ConvertError::field("priority", problem))
}

fn check_at_most(field: &str, given: usize, max: usize, what: &str) -> Result<(), ConvertError> {
    if given <= max {
        return Ok(());
    }
    let (unit, remedy) = what.split_once("; ").unwrap_or((what, "send less"));
    Err(ConvertError::field(field, format!("has {given} {unit}, but at most {max} are allowed; {remedy}")))
}
