//! A vocabulary for models that have none: a token per byte.

use lazy_attn_types::BpeVocab;

/// Texts that templates write, as tokens of their own.
const TEMPLATE_TOKENS: [&str; 2] = ["<|im_start|>", "<|im_end|>"];
/// `tokenizer.ggml.token_type` of ordinary and of control tokens.
const NORMAL: u32 = 1;
const CONTROL: u32 = 3;

/// The vocabulary of a model with `vocab_size` logits: bytes, then the tokens of ChatML, then numbered texts that no prompt
/// becomes. `None` if there are fewer logits than bytes and template tokens.
pub(crate) fn byte_vocab(vocab_size: usize) -> Option<BpeVocab> {
    let mut tokens: Vec<String> = byte_level_alphabet().map(String::from).collect();
    tokens.extend(TEMPLATE_TOKENS.map(str::to_owned));
    let mut token_types = vec![NORMAL; tokens.len()];
    token_types[256..].fill(CONTROL);
    let num_used = tokens.len();
    tokens.extend((num_used..vocab_size).map(|id| format!("<{id}>")));
    token_types.resize(tokens.len(), NORMAL);
    (num_used <= vocab_size).then(|| BpeVocab {
        model: "gpt2".to_owned(),
        pre: "gpt-2".to_owned(),
        tokens,
        token_types,
        ..BpeVocab::default()
    })
}

/// GPT-2's alphabet in the order of the bytes: printable Latin-1 stands for itself, the others follow from U+0100 on.
fn byte_level_alphabet() -> impl Iterator<Item = char> {
    let is_printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut others = '\u{100}'..;
    (0..=u8::MAX).filter_map(
        move |byte| {
            if is_printable(byte) { Some(char::from(byte)) } else { others.next() }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_a_token_and_every_logit_a_text_of_its_own() {
        let vocab = byte_vocab(300).unwrap();
        assert_eq!((vocab.tokens.len(), vocab.token_types.len()), (300, 300));
        assert_eq!((vocab.tokens[usize::from(b'a')].as_str(), vocab.tokens[32].as_str()), ("a", "Ġ"));
        let mut distinct = vocab.tokens.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), 300);
        assert_eq!((vocab.token_types[255], vocab.token_types[256], vocab.token_types[258]), (1, 3, 1));
    }

    #[test]
    fn fewer_logits_than_bytes_have_no_vocabulary() {
        assert_eq!(byte_vocab(257), None);
        assert_eq!(byte_vocab(258).unwrap().tokens.len(), 258);
    }
}
