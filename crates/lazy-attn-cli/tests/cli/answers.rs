//! What works: answers over documents, reused at any place.

use std::io::Read;

use serde_json::{Value, json};

use crate::{command, demo_documents, folder, generate, lazyattn, write};

/// The bundled template of a question, with documents in this order.
fn request(documents: &[&str], attention: &str) -> Value {
    let mut parts = vec![
        json!({"text": "<|im_start|>system\nAnswer the question with a short phrase from the documents.<|im_end|>\n<|im_start|>user\n"}),
    ];
    parts.extend(documents.iter().map(|text| json!({"inlineDocument": {"text": text}})));
    parts.push(
        json!({"text": "Question: Who is the captain of the MV Swallow?<|im_end|>\n<|im_start|>assistant\n"}),
    );
    json!({"parts": parts, "attention": attention, "sampling": {"temperature": 0}, "stopping": {"maxTokens": 16},
           "response": {"topLogprobs": 3, "tokenIds": true}})
}

const FERRY: &str =
    "Title: MV Swallow\nThe MV Swallow is a ferry. Her captain is Maria Stone. She is 42 metres long.\n\n";
const YARD: &str =
    "Title: Hill Boats\nHill Boats is a small company. It was founded in 1921 by David Hill.\n\n";

#[test]
fn the_demo_answers_every_question_in_every_order_and_computes_no_document_twice() {
    let report = lazyattn(&["demo", "--json"]).json();
    let questions = report["questions"].as_array().unwrap();
    assert!(questions.len() >= 8);
    for (index, question) in questions.iter().enumerate() {
        let answers = question["answers"].as_array().unwrap();
        assert_eq!(answers.len(), 5);
        assert!(answers.iter().all(|answer| answer["isRight"] == true), "{question}");
        for answer in &answers[if index == 0 { 2 } else { 1 }..] {
            assert_eq!((&answer["cache"], &answer["numReusedDocuments"]), (&json!("inUse"), &json!(10)));
        }
    }
}

#[test]
fn run_streams_the_answer_and_closes_with_one_line_on_stderr() {
    let ran = lazyattn(&["run", "--docs", demo_documents(), "Who is the captain of the MV Swallow?"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "Maria Stone\n"), "{}", ran.stderr);
    let last = ran.stderr.lines().last().unwrap();
    assert!(last.starts_with("first token after ") && last.contains("0 of 10 documents reused"), "{last}");
}

#[test]
fn run_prints_one_json_object_and_nothing_else_when_asked() {
    let folder = folder("run_json");
    let ferry = write(&folder, "MV-Swallow.txt", "The MV Swallow is a ferry. Her captain is Maria Stone.");
    let args =
        ["run", "--json", "--doc", &ferry, "--max-tokens", "8", "Who is the captain of the MV Swallow?"];
    let ran = lazyattn(&args);
    assert_eq!(ran.stderr, "");
    let response = ran.json();
    assert_eq!(response["text"], "Maria Stone");
    assert_eq!(response["usage"]["documentsTotal"], 1);
    assert_eq!(response["attention"], "BLOCK");
}

#[test]
fn sampling_is_repeatable_by_its_seed() {
    let with_seed = |seed: &str| {
        let args =
            ["run", "--json", "--temperature", "1.5", "--top-k", "50", "--top-p", "0.95", "--min-p", "0.01"];
        lazyattn(
            &[&args[..], &["--seed", seed, "--docs", demo_documents(), "Tell me about the town."]].concat(),
        )
        .json()
    };
    let (first, again) = (with_seed("7"), with_seed("7"));
    assert_eq!((&first["text"], &first["seed"]), (&again["text"], &json!("7")));
    let others: Vec<Value> =
        ["1", "2", "3"].into_iter().map(|seed| with_seed(seed)["text"].clone()).collect();
    assert!(others.iter().any(|text| *text != first["text"]), "{others:?}");
}

/// The request at a rung of the ladder.
fn at_rung(documents: &[&str], rung: Value) -> Value {
    let mut request = request(documents, "BLOCK");
    request.as_object_mut().unwrap().remove("attention");
    request["exactness"] = rung;
    generate(&[], &request).json()
}

#[test]
fn the_ladder_ends_in_the_two_modes_bit_by_bit_and_says_which_rung_ran() {
    let documents = [FERRY, YARD];
    let tokens = |response: &Value| (response["tokenIds"].clone(), response["topLogprobs"].clone());
    let [block, full] = ["BLOCK", "FULL"].map(|mode| generate(&[], &request(&documents, mode)).json());
    assert_ne!(tokens(&block).1, tokens(&full).1, "the two modes differ");
    let head = |num_tokens: u32| at_rung(&documents, json!({"rung": "HEAD", "headTokens": num_tokens}));
    assert_eq!(tokens(&head(0)), tokens(&block));
    assert_eq!(tokens(&head(1000)), tokens(&full));
    // A document right behind its preamble is what it is in one context.
    let alone = at_rung(&documents[..1], json!({"rung": "PREAMBLE"}));
    assert_eq!(tokens(&alone), tokens(&generate(&[], &request(&documents[..1], "FULL")).json()));

    // A document that was not measured yet is computed whole, beside its copy.
    let measured = at_rung(&documents, json!({"rung": "SELECTIVE", "selectivePercent": 10}));
    assert_eq!(tokens(&measured), tokens(&full));
    assert_eq!(measured["usage"]["recomputedTokens"], full["usage"]["recomputedTokens"]);

    let middle = head(16);
    assert_eq!(
        (&middle["exactness"]["rung"], &middle["exactness"]["headTokens"]),
        (&json!("HEAD"), &json!(16))
    );
    assert_eq!((&middle["attention"], &middle["usage"]["recomputedTokens"]), (&json!("BLOCK"), &json!(32)));
    assert_ne!(tokens(&middle).1, tokens(&block).1);
    assert_ne!(tokens(&middle).1, tokens(&full).1);
}

#[test]
fn a_focus_changes_likelihoods_and_the_usual_one_no_bit() {
    let focused = |focus: Value| {
        let mut request = request(&[FERRY, YARD], "BLOCK");
        request["focus"] = focus;
        let response = generate(&[], &request).json();
        (response["tokenIds"].clone(), response["topLogprobs"].clone())
    };
    let block = generate(&[], &request(&[FERRY, YARD], "BLOCK")).json();
    let block = (block["tokenIds"].clone(), block["topLogprobs"].clone());
    assert_eq!(focused(json!({"temperature": 1, "scale": 1})), block);
    for focus in [json!({"temperature": 0.9}), json!({"scale": 0.9})] {
        let (tokens, logprobs) = focused(focus);
        assert_eq!(tokens, block.0, "this little changes no answer");
        assert_ne!(logprobs, block.1);
    }
    let mut full = request(&[FERRY], "FULL");
    full["focus"] = json!({"scale": 0.9});
    let refused = generate(&[], &full);
    assert!(refused.code != 0 && refused.stderr.contains("focus"), "{}", refused.stderr);
}

#[test]
fn run_takes_a_rung_and_a_placement() {
    let folder = folder("run_rung");
    let ferry = write(&folder, "MV-Swallow.txt", "The MV Swallow is a ferry. Her captain is Maria Stone.");
    let question = "Who is the captain of the MV Swallow?";
    for (options, closing) in [
        (&["--exactness", "head:16"][..], "head:16 (16 tokens recomputed) attention"),
        (&["--exactness", "preamble"], "preamble attention"),
        (&["--attention", "full"], "full attention"),
        (&["--placement", "parallel"], "block attention"),
    ] {
        let ran = lazyattn(&[&["run", "--doc", &ferry][..], options, &[question]].concat());
        assert_eq!((ran.code, ran.stdout.as_str()), (0, "Maria Stone\n"), "{}", ran.stderr);
        assert!(ran.stderr.trim_end().ends_with(closing), "{}", ran.stderr);
    }
    let refused = lazyattn(&["run", "--doc", &ferry, "--exactness", "head", question]);
    assert!(refused.code == 2 && refused.stderr.contains("head:TOKENS"), "{}", refused.stderr);
    let both = ["run", "--doc", &ferry, "--exactness", "head:16", "--placement", "local", question];
    let refused = lazyattn(&both);
    assert!(refused.code == 2 && refused.stderr.contains("placement"), "{}", refused.stderr);
}

#[test]
fn generate_reports_what_was_asked_for_in_both_modes() {
    for attention in ["BLOCK", "FULL"] {
        let response = generate(&[], &request(&[FERRY, YARD], attention)).json();
        assert_eq!((&response["text"], &response["finishReason"]), (&json!("Maria Stone"), &json!("STOP")));
        assert_eq!(response["attention"], attention);
        let (ids, logprobs) =
            (response["tokenIds"].as_array().unwrap(), response["topLogprobs"].as_array().unwrap());
        assert_eq!(ids.len(), logprobs.len());
        for (id, entry) in ids.iter().zip(logprobs) {
            // Greedy: the chosen token is the most likely one.
            assert_eq!((id, id), (&entry["id"], &entry["top"][0]["id"]));
            assert_eq!(entry["top"].as_array().unwrap().len(), 3);
            assert!(entry["logprob"].as_f64().unwrap() <= 0.0);
        }
        let usage = &response["usage"];
        assert_eq!((&usage["documentsTotal"], &usage["cachedPromptTokens"]), (&json!(2), &json!(0)));
        assert_eq!(usage["promptTokens"], usage["computedPromptTokens"]);
        assert_eq!(response["parts"].as_array().unwrap().len(), 4);
    }
}

#[test]
fn a_document_given_twice_is_computed_once() {
    let response = generate(&[], &request(&[FERRY, YARD, FERRY], "BLOCK")).json();
    let usage = &response["usage"];
    assert_eq!((&usage["documentsTotal"], &usage["documentsReused"]), (&json!(3), &json!(1)));
    assert_eq!(response["parts"][1]["documentKey"], response["parts"][3]["documentKey"]);
    assert_eq!(response["text"], "Maria Stone");
}

#[test]
fn several_sequences_of_one_request_are_reported_apart() {
    let mut request = request(&[FERRY], "BLOCK");
    request["sampling"] = json!({"temperature": 1.0, "seed": 3, "n": 3});
    let response = generate(&[], &request).json();
    let choices = response["choices"].as_array().unwrap();
    assert_eq!(choices.iter().map(|choice| choice["index"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(choices[0]["text"], response["text"]);
}

#[test]
fn a_chat_is_rendered_with_the_models_template() {
    let chat = json!({"chat": {
        "messages": [{"role": "SYSTEM", "content": [{"text": "Answer the question with a short phrase from the documents."}]},
                     {"role": "USER", "content": [{"text": "Question: Who is the captain of the MV Swallow?"}]}],
        "documents": [{"inlineDocument": {"title": "MV Swallow", "text": "The MV Swallow is a ferry. Her captain is Maria Stone. She is 42 metres long."}},
                      {"inlineDocument": {"title": "Hill Boats", "text": "Hill Boats is a small company. It was founded in 1921 by David Hill."}}]},
        "stopping": {"maxTokens": 16}, "response": {"tokenIds": true}});
    let (rendered, written) =
        (generate(&[], &chat).json(), generate(&[], &request(&[FERRY, YARD], "BLOCK")).json());
    assert_eq!(rendered["tokenIds"], written["tokenIds"]);
    assert_eq!(rendered["parts"], written["parts"]);
}

#[test]
fn doctor_and_models_speak_json() {
    let report = lazyattn(&["doctor", "--json"]).json();
    assert!(report["checks"].as_array().unwrap().iter().all(|check| check["status"] == "ok"), "{report}");
    assert!(report["figures"]["memoryBandwidthBytesPerSecond"].as_f64().unwrap() > 1e8);
    // 2 x 12 layers x 3 heads x 64 elements x 2 bytes.
    assert_eq!(report["figures"]["kvBytesPerToken"], 9216);

    let folder = folder("models_listing");
    write(&folder, "broken.gguf", b"GGUF");
    let models = lazyattn(&["models", "--json", folder.to_str().unwrap()]).json();
    let models = models["models"].as_array().unwrap();
    assert_eq!((&models[0]["model"], &models[0]["maxContextTokens"]), (&json!("embedded"), &json!(8192)));
    let broken = models.iter().find(|row| row["model"].as_str().unwrap().ends_with("broken.gguf")).unwrap();
    assert!(broken["error"].as_str().unwrap().contains("broken.gguf"), "{broken}");
}

#[test]
fn a_reader_that_goes_away_ends_the_program_quietly() {
    let mut child =
        command(&["run", "--docs", demo_documents(), "Who wrote The Winter Lamp?"]).spawn().unwrap();
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{stderr}");
    assert!(!stderr.contains("panicked") && !stderr.contains("error"), "{stderr}");
}
