//! The pre-tokenisers of the supported model families, by the names GGUF files give them.

use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior};

use crate::error::TextError;

/// How text is cut before merges apply, and whether a whole word that is a token skips them.
pub(crate) struct PreTokenisation {
    pub(crate) normalizer: Option<NormalizerWrapper>,
    pub(crate) pre_tokenizer: PreTokenizerWrapper,
    pub(crate) ignore_merges: bool,
}

const SUPPORTED: &str = "smollm, llama-bpe, llama3, qwen2, gpt-2, default";

/// Llama 3: contractions, words with one leading sign, up to three digits, signs, line breaks, spaces.
const LLAMA3_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2 and 3: as Llama 3, but every digit stands alone.
const QWEN2_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The pre-tokeniser called `name` in `tokenizer.ggml.pre`.
pub(crate) fn named(name: &str) -> Result<PreTokenisation, TextError> {
    let plain = |pre_tokenizer| PreTokenisation { normalizer: None, pre_tokenizer, ignore_merges: false };
    match name {
        "smollm" => Ok(plain(sequence([Digits::new(true).into(), byte_level(GptSplit::Yes)]))),
        "gpt-2" | "default" => Ok(plain(byte_level(GptSplit::Yes))),
        "llama-bpe" | "llama3" | "llama-v3" => {
            Ok(PreTokenisation { ignore_merges: true, ..plain(split_then_bytes(LLAMA3_SPLIT)?) })
        }
        "qwen2" => Ok(PreTokenisation {
            normalizer: Some(tokenizers::normalizers::NFC.into()),
            ..plain(split_then_bytes(QWEN2_SPLIT)?)
        }),
        _ => Err(TextError::Unsupported {
            key: "tokenizer.ggml.pre".into(),
            value: name.into(),
            supported: SUPPORTED,
        }),
    }
}

/// Whether the byte-level step also cuts words by GPT-2's pattern.
enum GptSplit {
    Yes,
    No,
}

fn byte_level(split: GptSplit) -> PreTokenizerWrapper {
    ByteLevel::new(false, true, matches!(split, GptSplit::Yes)).into()
}

fn sequence(steps: [PreTokenizerWrapper; 2]) -> PreTokenizerWrapper {
    Sequence::new(steps.into()).into()
}

fn split_then_bytes(pattern: &str) -> Result<PreTokenizerWrapper, TextError> {
    let split = Split::new(SplitPattern::Regex(pattern.into()), SplitDelimiterBehavior::Isolated, false)
        .map_err(|error| TextError::InvalidVocab(format!("the split pattern does not compile: {error}")))?;
    Ok(sequence([split.into(), byte_level(GptSplit::No)]))
}
