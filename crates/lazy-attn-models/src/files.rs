//! The small files beside Hugging Face weights: config, tokenizer, generation settings, chat template.

use std::path::Path;

use lazy_attn_types::{SpecialTokens, TokenId, TokenizerSource};
use serde::Deserialize;
use serde_json::Value;

use crate::ModelError;
use crate::config::Fields;
use crate::model::distinct;

/// Largest of these files; tokenizers of large vocabularies have some 20 MB.
const MAX_FILE_SIZE: u64 = 256 << 20;

pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, ModelError> {
    let io = |source| ModelError::Io { path: path.into(), source };
    let size = std::fs::metadata(path).map_err(io)?.len();
    if size > MAX_FILE_SIZE {
        return Err(ModelError::format(
            path,
            format!("has {size} bytes, but at most {MAX_FILE_SIZE} are read"),
        ));
    }
    std::fs::read(path).map_err(io)
}

pub(crate) fn read_json(path: &Path) -> Result<Value, ModelError> {
    let bytes = read_file(path)?;
    serde_json::from_slice(&bytes).map_err(|error| ModelError::format(path, format!("is not JSON: {error}")))
}

/// The content of a file that need not be there: an empty object if it is not.
fn read_optional_json(path: &Path) -> Result<Value, ModelError> {
    if path.exists() { read_json(path) } else { Ok(Value::Object(serde_json::Map::new())) }
}

/// What the files of a directory say of its tokenizer.
pub(crate) struct TokenizerFiles {
    pub(crate) source: TokenizerSource,
    pub(crate) special: SpecialTokens,
}

impl TokenizerFiles {
    /// Reads the files in `directory`, whose `config.json` is `config`, for a model of `vocab_size` tokens.
    pub(crate) fn read(
        directory: &Path,
        config: &Value,
        vocab_size: usize,
    ) -> Result<TokenizerFiles, ModelError> {
        let path = directory.join("tokenizer.json");
        if !path.exists() {
            let problem = if directory.join("tokenizer.model").exists() {
                "is missing: the tokenizer is there only as tokenizer.model; save it with `AutoTokenizer` of \
                 transformers, which writes tokenizer.json, or use a GGUF file"
            } else {
                "is missing: a model needs its tokenizer beside its weights"
            };
            return Err(ModelError::format(&path, problem));
        }
        let bytes = read_file(&path)?;
        let tokenizer: TokenizerJson = serde_json::from_slice(&bytes)
            .map_err(|error| ModelError::format(&path, format!("is not a tokenizer: {error}")))?;
        let special = special_tokens(directory, config, &tokenizer)?;
        let out_of_range = special.end.iter().chain(&special.bos).find(|id| id.0 as usize >= vocab_size);
        match out_of_range {
            Some(id) => {
                let problem =
                    format!("gives the special token {}, but the model has {vocab_size} tokens", id.0);
                Err(ModelError::format(&path, problem))
            }
            None => Ok(TokenizerFiles { source: TokenizerSource::Json(bytes.into()), special }),
        }
    }
}

/// The parts of a `tokenizer.json` that name special tokens.
#[derive(Deserialize)]
struct TokenizerJson {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default)]
    post_processor: Value,
    /// Only there to tell a tokenizer from another JSON file.
    #[serde(rename = "model")]
    _model: serde::de::IgnoredAny,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
}

impl TokenizerJson {
    fn id_of(&self, text: &str) -> Option<TokenId> {
        self.added_tokens.iter().find(|token| token.content == text).map(|token| TokenId(token.id))
    }
}

fn special_tokens(
    directory: &Path,
    config: &Value,
    tokenizer: &TokenizerJson,
) -> Result<SpecialTokens, ModelError> {
    let generation = read_optional_json(&directory.join("generation_config.json"))?;
    let settings = read_optional_json(&directory.join("tokenizer_config.json"))?;
    let settings = Fields::new("tokenizer_config.json", &settings)?;
    let named = |key: &str| settings.get(key).and_then(token_text).and_then(|text| tokenizer.id_of(text));
    let bos = match named("bos_token") {
        Some(bos) => Some(bos),
        // A tokenizer config that says `null` has no such token, whatever the model's config says.
        None if settings.mentions("bos_token") => None,
        None => ids(config, "bos_token_id")?.first().copied(),
    };
    let mut end = ids(&generation, "eos_token_id")?;
    end.extend(ids(config, "eos_token_id")?);
    end.extend(named("eos_token"));
    Ok(SpecialTokens {
        bos,
        end: distinct(end),
        add_bos: bos.is_some() && adds_bos(&settings, tokenizer)?,
        chat_template: chat_template(directory, &settings)?,
    })
}

/// A token's text, which is written plain or as an object.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// Ids under `key`: one number or a list of them.
fn ids(object: &Value, key: &str) -> Result<Vec<TokenId>, ModelError> {
    let id = |value: &Value| {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok()).map(TokenId);
        id.ok_or_else(|| ModelError::config(key, format!("holds {value}, which is not a token id")))
    };
    match object.get(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(list)) => list.iter().map(id).collect(),
        Some(other) => Ok(vec![id(other)?]),
    }
}

/// Whether text begins with `bos`: as the settings say, else as the post-processor does, else as the class would.
fn adds_bos(settings: &Fields<'_>, tokenizer: &TokenizerJson) -> Result<bool, ModelError> {
    if let Some(adds) = settings.flag("add_bos_token")? {
        return Ok(adds);
    }
    if !tokenizer.post_processor.is_null() {
        return Ok(begins_with_special(&tokenizer.post_processor));
    }
    Ok(matches!(settings.text("tokenizer_class")?, Some("LlamaTokenizer" | "LlamaTokenizerFast")))
}

/// Whether a post-processor, or one of a sequence of them, puts a special token before a single text.
fn begins_with_special(processor: &Value) -> bool {
    let first = processor.get("single").and_then(|parts| parts.get(0));
    let nested = processor.get("processors").and_then(Value::as_array);
    first.is_some_and(|part| part.get("SpecialToken").is_some())
        || nested.is_some_and(|all| all.iter().any(begins_with_special))
}

/// `chat_template.jinja`, else the one template of the settings, else the one named `default`.
fn chat_template(directory: &Path, settings: &Fields<'_>) -> Result<Option<String>, ModelError> {
    let path = directory.join("chat_template.jinja");
    if path.exists() {
        let bytes = read_file(&path)?;
        let text = String::from_utf8(bytes).map_err(|_| ModelError::format(&path, "is not UTF-8 text"))?;
        return Ok(Some(text));
    }
    let default = |list: &Value| {
        let list = list.as_array()?;
        let entry = list.iter().find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"))?;
        entry.get("template")?.as_str().map(str::to_owned)
    };
    match settings.get("chat_template") {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(list) => match default(list) {
            Some(text) => Ok(Some(text)),
            None => Err(ModelError::config(
                "chat_template",
                "is neither a text nor a list with one named `default`",
            )),
        },
    }
}
