//! A vocabulary without a model: token `b` is byte `b`.

use lazy_attn_types::BpeVocab;

/// Every byte, then the control tokens `special`.
#[must_use]
pub fn byte_vocab(special: &[&str]) -> BpeVocab {
    // The byte-level alphabet of GPT-2: printable bytes stand for themselves, the others for characters from U+0100.
    let mut next_other = 0x100..;
    let byte_text = |byte: u8| match byte {
        b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte).to_string(),
        _ => next_other.next().and_then(char::from_u32).into_iter().collect(),
    };
    let bytes = (0..=u8::MAX).map(byte_text);
    BpeVocab {
        model: "gpt2".into(),
        pre: "smollm".into(),
        tokens: bytes.chain(special.iter().map(|text| (*text).to_owned())).collect(),
        token_types: [vec![1; 256], vec![3; special.len()]].concat(),
        ..BpeVocab::default()
    }
}
