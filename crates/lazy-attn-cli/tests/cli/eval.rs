//! `eval`: a few questions of each kind through the built binary.

use std::fs;

use serde_json::Value;

use super::{folder, lazyattn, write};

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn the_embedded_model_finds_what_documents_say_and_no_cache_changes_an_answer() {
    let out = folder("eval_procedural");
    let out = out.to_str().unwrap();
    let args = ["eval", "--dataset", "procedural:attributes", "--limit", "20", "--modes"];
    let modes = ["full,block,block-uncached,none", "--json", "--out", out];
    let report = lazyattn(&[&args[..], &modes[..]].concat()).json();
    let results = report["results"].as_array().unwrap();
    let of = |mode: &str| results.iter().find(|result| result["mode"] == mode).unwrap();
    for result in results {
        let (low, em, high) =
            (number(&result["ci"]["em"][0]), number(&result["em"]), number(&result["ci"]["em"][1]));
        assert!(low <= em && em <= high && (0.0..=100.0).contains(&em), "{result}");
        assert!(number(&result["f1"]) >= em && result["n"] == 20, "{result}");
    }
    // Six documents of which one answers: guessing among their names would be right once in six.
    assert!(number(&of("block")["em"]) >= 50.0 && number(&of("none")["em"]) <= 20.0, "{report}");
    let likelihood = |mode: &str| number(&of(mode)["logLikelihood"]["perToken"]);
    assert!(likelihood("block") > likelihood("none") + 1.0, "{report}");
    assert_eq!(of("block")["answersDigest"], of("block-uncached")["answersDigest"]);
    let markdown = fs::read_to_string(format!("{out}/report.md")).unwrap();
    assert!(markdown.contains("| block-uncached - block |"), "{markdown}");
    assert_eq!(fs::read_to_string(format!("{out}/answers.jsonl")).unwrap().lines().count(), 80);
}

#[test]
fn a_file_of_questions_is_asked_in_several_orders() {
    let row = r#"{"docs":[{"title":"Harbour","text":"The pilot boat leaves at six."},{"title":"Lamp","text":"The lamp burns whale oil."}],"question":"What does the lamp burn?","answers":["whale oil"]}"#;
    let path = write(&folder("eval_file"), "rows.jsonl", row);
    let report =
        lazyattn(&["eval", "--dataset", &path, "--modes", "block", "--orders", "3", "--json"]).json();
    let stability = &report["results"][0]["stability"];
    assert_eq!((&stability["orders"], &report["numQuestions"]), (&3.into(), &1.into()));
    assert_eq!((number(&stability["identical"]), number(&stability["em"])), (100.0, 100.0), "{report}");
}

#[test]
fn what_cannot_be_evaluated_is_refused_by_name() {
    let refused =
        |args: &[&str], words: &[&str]| lazyattn(&[&["eval"][..], args].concat()).assert_error(2, words);
    refused(&["--dataset", "no/such.jsonl"], &["cannot read no/such.jsonl"]);
    refused(&["--dataset", "procedural:poems"], &["poems", "attributes", "many-shot"]);
    let path = write(&folder("eval_refused"), "x.jsonl", r#"{"text":"a"}"#);
    refused(&["--dataset", &path], &["entry 1", "no known layout"]);
}
