//! What a target is, and the list of them.

use std::time::Duration;

use crate::{seeds, targets};

/// What an input may cost.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Bytes held at once, whatever the input.
    pub bytes: usize,
    /// Further bytes per byte of the input.
    pub bytes_per_input_byte: usize,
    /// Time.
    pub time: Duration,
}

/// A function that reads foreign bytes.
#[derive(Debug)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Reads the bytes and says in words what came of it.
    pub run: fn(&[u8]) -> String,
    /// Inputs to start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Words that mean something to it.
    pub words: &'static [&'static [u8]],
    /// What an input may cost.
    pub bounds: Bounds,
    /// Inputs of a short run.
    pub num_short: u32,
}

/// A few hundred times what a reader of this size needs on a slow machine.
const TIME: Duration = Duration::from_secs(2);
const MIB: usize = 1 << 20;

const fn bounds(mebibytes: usize, bytes_per_input_byte: usize) -> Bounds {
    Bounds { bytes: mebibytes * MIB, bytes_per_input_byte, time: TIME }
}

/// Every target.
pub static TARGETS: [Target; 9] = [
    Target {
        name: "protobuf",
        run: targets::request::protobuf,
        seeds: seeds::request::protobuf,
        words: &[
            b"\x0a\x00",
            b"\x12\x02\x0a\x00",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x0a\xff\xff\xff\x7f",
        ],
        bounds: bounds(1, 256),
        num_short: 4000,
    },
    Target {
        name: "json",
        run: targets::request::json,
        seeds: seeds::request::json,
        words: &[
            b"[",
            b"{\"parts\":[",
            b"{\"text\":\"a\"}",
            b"-1",
            b"\"\\ud800\"",
            b"\"maxTokens\":-1,",
            b"{\"a\":",
        ],
        bounds: bounds(1, 256),
        num_short: 4000,
    },
    Target {
        name: "keys",
        run: targets::request::keys,
        seeds: seeds::request::keys,
        words: &[b":", b"\n", b"#", b"red:"],
        bounds: bounds(1, 64),
        num_short: 2000,
    },
    Target {
        name: "gguf",
        run: targets::weights::gguf,
        seeds: seeds::weights::gguf,
        words: &[
            b"general.alignment",
            b"llama.block_count",
            b"\x09\x00\x00\x00\x09\x00\x00\x00",
            b"blk.0.attn_q.weight",
        ],
        bounds: bounds(4, 512),
        num_short: 4000,
    },
    Target {
        name: "safetensors",
        run: targets::weights::safetensors,
        seeds: seeds::weights::safetensors,
        words: &[
            b"[",
            b"{\"a\":",
            b"\"data_offsets\":[0,18446744073709551615]",
            b"\"shape\":[4294967296,4294967296]",
            b"F32",
        ],
        bounds: bounds(1, 256),
        num_short: 4000,
    },
    Target {
        name: "safetensors_index",
        run: targets::weights::safetensors_index,
        seeds: seeds::weights::safetensors_index,
        words: &[b"[", b"{\"weight_map\":", b"../", b"a.safetensors", b"\\u0000"],
        bounds: bounds(1, 256),
        num_short: 1000,
    },
    Target {
        name: "config",
        run: targets::weights::config,
        seeds: seeds::weights::config,
        words: &[
            b"[",
            b"{\"a\":",
            b"\"num_hidden_layers\":1000000000,",
            b"-1",
            b"\"rope_scaling\":{",
            b"null",
        ],
        // A config inside its bounds may ask for a thousand layers of a dozen tensors.
        bounds: bounds(16, 256),
        num_short: 2000,
    },
    Target {
        name: "tokenizer",
        run: targets::text::tokenizer,
        seeds: seeds::text::tokenizer,
        words: &[
            b"[",
            b"{\"type\":",
            b"\"merges\":[",
            b"\"id\":4294967295",
            b"(a+)+$",
            b"\"Regex\":",
            b"{1000}{1000}",
        ],
        bounds: bounds(64, 1024),
        num_short: 300,
    },
    Target {
        name: "chat_template",
        run: targets::text::chat_template,
        seeds: seeds::text::chat_template,
        words: &[
            b"{%",
            b"%}",
            b"{{",
            b"}}",
            b"((",
            b"[[",
            b"{% for m in messages %}",
            b"{% endfor %}",
            b"range(99999)",
            b"messages * 99999",
            b"'x' * 999999999",
            b"|indent(999999999)",
            b"{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
        ],
        // The bound of a rendered prompt, twice while it grows, and one value as long.
        bounds: bounds(256, 1024),
        num_short: 2000,
    },
];
