//! Writes GGUF files, right and wrong ones.

/// A metadata value.
#[derive(Clone)]
pub(crate) enum Meta {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(&'static str),
    Texts(Vec<&'static str>),
    I32s(Vec<i32>),
    /// Type number and raw bytes.
    Raw(u32, Vec<u8>),
}

/// A tensor: name, sizes innermost first, type number, bytes.
pub(crate) type Tensor = (String, Vec<u64>, u32, Vec<u8>);

/// The parts of a file, each of which a test may change.
#[derive(Clone)]
pub(crate) struct Gguf {
    pub(crate) version: u32,
    pub(crate) meta: Vec<(String, Meta)>,
    pub(crate) tensors: Vec<Tensor>,
    /// Replaces the counts of tensors and of metadata entries.
    pub(crate) counts: Option<[u64; 2]>,
    /// Added to the offset of the last tensor.
    pub(crate) last_offset: u64,
}

pub(crate) const F32: u32 = 0;
pub(crate) const Q4_0: u32 = 2;

impl Gguf {
    /// A model of one layer and eight tokens of the given architecture.
    pub(crate) fn tiny(architecture: &str) -> Gguf {
        let own = |key: &str| format!("{architecture}.{key}");
        let architecture_text: &'static str = architecture.to_owned().leak();
        let meta = vec![
            ("general.architecture".into(), Meta::Text(architecture_text)),
            ("general.name".into(), Meta::Text("Tiny")),
            (own("block_count"), Meta::U32(1)),
            (own("context_length"), Meta::U32(128)),
            (own("embedding_length"), Meta::U32(32)),
            (own("feed_forward_length"), Meta::U32(32)),
            (own("attention.head_count"), Meta::U32(2)),
            (own("attention.head_count_kv"), Meta::U32(1)),
            (own("attention.layer_norm_rms_epsilon"), Meta::F32(1e-5)),
            ("tokenizer.ggml.model".into(), Meta::Text("gpt2")),
            ("tokenizer.ggml.pre".into(), Meta::Text("llama-bpe")),
            (
                "tokenizer.ggml.tokens".into(),
                Meta::Texts(vec!["<s>", "<|eot_id|>", "</s>", "a", "b", "c", "d", "e"]),
            ),
            ("tokenizer.ggml.token_type".into(), Meta::I32s(vec![3, 3, 3, 1, 1, 1, 1, 1])),
            ("tokenizer.ggml.merges".into(), Meta::Texts(vec!["a b"])),
            ("tokenizer.ggml.bos_token_id".into(), Meta::U32(0)),
            ("tokenizer.ggml.eos_token_id".into(), Meta::U32(2)),
        ];
        let norms = ["output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"];
        let matrices = [
            ("token_embd", 8),
            ("blk.0.attn_q", 32),
            ("blk.0.attn_k", 16),
            ("blk.0.attn_v", 16),
            ("blk.0.attn_output", 32),
            ("blk.0.ffn_gate", 32),
            ("blk.0.ffn_up", 32),
            ("blk.0.ffn_down", 32),
        ];
        let norms = norms.iter().map(|name| (format!("{name}.weight"), vec![32], F32, vec![0; 128]));
        let matrices = matrices.iter().map(|(name, rows)| {
            (format!("{name}.weight"), vec![32, *rows], Q4_0, vec![7; 18 * *rows as usize])
        });
        Gguf { version: 3, meta, tensors: norms.chain(matrices).collect(), counts: None, last_offset: 0 }
    }

    pub(crate) fn set(&mut self, key: &str, value: Meta) {
        self.meta.retain(|(known, _)| known != key);
        self.meta.push((key.to_owned(), value));
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        let counts = self.counts.unwrap_or([self.tensors.len() as u64, self.meta.len() as u64]);
        counts.iter().for_each(|count| out.extend(count.to_le_bytes()));
        for (key, value) in &self.meta {
            text(&mut out, key);
            value.write(&mut out);
        }
        let mut offset = 0u64;
        for (index, (name, sizes, kind, bytes)) in self.tensors.iter().enumerate() {
            let is_last = index + 1 == self.tensors.len();
            text(&mut out, name);
            out.extend(u32::try_from(sizes.len()).unwrap().to_le_bytes());
            sizes.iter().for_each(|size| out.extend(size.to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend((offset + if is_last { self.last_offset } else { 0 }).to_le_bytes());
            offset = (offset + bytes.len() as u64).next_multiple_of(32);
        }
        for (_, _, _, bytes) in &self.tensors {
            out.resize(out.len().next_multiple_of(32), 0);
            out.extend(bytes);
        }
        out
    }
}

impl Meta {
    fn write(&self, out: &mut Vec<u8>) {
        let mut tagged = |kind: u32, bytes: &[u8]| {
            out.extend(kind.to_le_bytes());
            out.extend(bytes);
        };
        match self {
            Meta::U32(number) => tagged(4, &number.to_le_bytes()),
            Meta::F32(number) => tagged(6, &number.to_le_bytes()),
            Meta::Bool(flag) => tagged(7, &[u8::from(*flag)]),
            Meta::Raw(kind, bytes) => tagged(*kind, bytes),
            Meta::Text(value) => {
                tagged(8, &[]);
                text(out, value);
            }
            Meta::Texts(list) => {
                list_head(out, 8, list.len());
                list.iter().for_each(|value| text(out, value));
            }
            Meta::I32s(list) => {
                list_head(out, 5, list.len());
                list.iter().for_each(|number| out.extend(number.to_le_bytes()));
            }
        }
    }
}

fn list_head(out: &mut Vec<u8>, kind: u32, len: usize) {
    out.extend(9u32.to_le_bytes());
    out.extend(kind.to_le_bytes());
    out.extend((len as u64).to_le_bytes());
}

fn text(out: &mut Vec<u8>, value: &str) {
    out.extend((value.len() as u64).to_le_bytes());
    out.extend(value.as_bytes());
}
