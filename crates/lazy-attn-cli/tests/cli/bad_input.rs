//! Mistakes of the caller: each has an exit code and one line that says what to do.

use serde_json::{Value, json};

use crate::{folder, generate, lazyattn, lazyattn_reading, write};

#[test]
fn questions_and_documents_are_checked_before_the_model_is_loaded() {
    let folder = folder("bad_documents");
    let empty = write(&folder, "empty.txt", "");
    let blank = write(&folder, "blank.txt", " \n\t\n");
    let latin1 = write(&folder, "latin1.txt", b"caf\xe9");
    let good = write(&folder, "good.txt", "The boat leaves at six.");
    let nothing_here = folder.join("nothing");
    std::fs::create_dir(&nothing_here).unwrap();
    let nothing = nothing_here.to_str().unwrap();
    let cases: [(&[&str], &[&str]); 8] = [
        (&["run", ""], &["question is empty"]),
        (&["run", "--doc", &good, " "], &["question is empty"]),
        (&["run", "--doc", "no-such-file.txt", "Q?"], &["no-such-file.txt", "No such file"]),
        (&["run", "--docs", "no-such-folder", "Q?"], &["no-such-folder"]),
        (&["run", "--docs", nothing, "Q?"], &["no .txt or .md file"]),
        (&["run", "--doc", &empty, "Q?"], &["empty.txt is empty"]),
        (&["run", "--doc", &blank, "Q?"], &["blank.txt is empty"]),
        (&["run", "--doc", &good, "--doc", &latin1, "Q?"], &["latin1.txt is not UTF-8", "byte 3"]),
    ];
    for (args, words) in cases {
        // A model that does not exist: it must not even be looked for.
        lazyattn(&[&["--model", "absent.gguf"], args].concat()).assert_error(2, words);
    }
}

#[cfg(unix)]
#[test]
fn a_question_that_is_not_utf8_is_refused() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    lazyattn(&[OsStr::new("run"), OsStr::from_bytes(b"caf\xe9?")]).assert_error(2, &["UTF-8"]);
}

#[test]
fn documents_are_bounded_at_the_bound_and_one_past_it() {
    let folder = folder("many_documents");
    let file = write(&folder, "a.txt", "A.");
    let with = |num_documents: usize| {
        let documents = ["--doc", file.as_str()];
        let args =
            [&["run", "--model", "absent.gguf"], &documents.repeat(num_documents)[..], &["Q?"]].concat();
        lazyattn(&args)
    };
    with(128).assert_error(3, &["absent.gguf"]);
    with(129).assert_error(2, &["129 documents", "at most 128"]);
}

#[test]
fn options_that_cannot_work_are_refused_by_name() {
    let cases: [(&[&str], &[&str]); 8] = [
        (&["--block-size", "3", "run", "Q?"], &["--block-size is 3", "power of two"]),
        (&["--log-level", "loud=very", "run", "Q?"], &["--log-level"]),
        (&["run", "--temperature", "-1", "Q?"], &["sampling.temperature is -1"]),
        (&["run", "--top-p", "0", "Q?"], &["sampling.top_p is 0"]),
        (&["run", "--max-tokens", "0", "Q?"], &["stopping.max_tokens is 0"]),
        (&["--threads", "0", "run", "Q?"], &["--threads"]),
        (&["--kv-memory", "much", "run", "Q?"], &["--kv-cache-memory"]),
        (&["--weight-dtype", "f8", "run", "Q?"], &["--weight-dtype"]),
    ];
    for (args, words) in cases {
        lazyattn(args).assert_error(2, words);
    }
    assert_eq!(lazyattn(&["frobnicate"]).code, 2);
    assert_eq!(lazyattn::<&str>(&[]).code, 2);
    assert_eq!(lazyattn(&["--help"]).code, 0);
}

#[test]
fn requests_are_refused_with_the_path_of_the_field() {
    let one = json!([{"text": "a"}]);
    let cases: [(Value, &[&str]); 8] = [
        (json!({}), &["parts is empty"]),
        (json!({"parts": [{"text": ""}]}), &["parts[0].text is empty"]),
        (
            json!({"parts": [{"inlineDocument": {"tokenIds": {"ids": []}}}, {"text": "a"}]}),
            &["parts[0].inline_document.token_ids"],
        ),
        (json!({"parts": [{"text": "a"}, {"inlineDocument": {"text": "d"}}]}), &["parts[1]", "last part"]),
        (json!({"parts": [{"text": "a", "colour": 1}]}), &["parts[0].colour", "unknown field"]),
        (json!({"parts": one, "attention": "SIDEWAYS"}), &["attention", "SIDEWAYS", "BLOCK, FULL"]),
        (json!({"parts": one, "model": "gpt-9"}), &["gpt-9", "SmolLM2"]),
        (json!({"parts": [{"tokenIds": {"ids": [8192]}}]}), &["parts[0]", "8192"]),
    ];
    for (request, words) in cases {
        generate(&[], &request).assert_error(2, words);
    }
    let stdin: [(&[u8], &str); 3] = [
        (b"{\"parts\": [", "not valid JSON"),
        (b"", "not valid JSON"),
        (b"{\"model\": \"\xff\"}", "not UTF-8"),
    ];
    for (bytes, words) in stdin {
        lazyattn_reading(&["generate", "--request", "-"], bytes).assert_error(2, &[words]);
    }
    lazyattn(&["generate", "--request", "no-such.json"]).assert_error(2, &["no-such.json"]);
}

#[test]
fn a_request_that_does_not_fit_says_by_how_much() {
    let tokens = |num_tokens: usize| json!({"parts": [{"tokenIds": {"ids": vec![300; num_tokens]}}], "stopping": {"maxTokens": 2}});
    generate(&[], &tokens(8191)).assert_error(4, &["8191 tokens", "2 more", "8192"]);
    // 100 + 2 tokens in blocks of 16 need at least 7 blocks.
    let ran = generate(&["--kv-blocks", "4"], &tokens(100));
    ran.assert_error(4, &["KV blocks but the pool has 4", "missing"]);
    generate(&["--kv-cache-memory", "1KiB"], &tokens(1))
        .assert_error(4, &["--kv-cache-memory of 1024 bytes holds no block"]);
}
