//! `docs` against a server process.

use std::fs;

use serde_json::{Value, json};

use crate::served::Served;
use crate::{Ran, command, demo_documents, folder, generate, lazyattn, write};

fn serve() -> Served {
    Served::start(&mut command(&["serve", "--grpc-port", "0", "--kv-blocks", "512"]))
}

fn docs(served: &Served, args: &[&str]) -> Ran {
    lazyattn(&[&["docs"], args, &["--server", &served.url]].concat())
}

/// The lines of a table, without its heading, as cells.
fn rows(ran: &Ran) -> Vec<Vec<&str>> {
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    ran.stdout.lines().skip(1).map(|line| line.split_whitespace().collect()).collect()
}

#[test]
fn files_are_put_listed_pinned_and_forgotten() {
    let served = serve();
    let first = docs(&served, &["put", demo_documents(), "--label", "set=demo"]);
    let first = rows(&first);
    assert_eq!(first.len(), 10);
    assert!(first.iter().all(|row| row[1] == row[2] && row[3..5] == ["resident", "new"]), "{first:?}");
    let again = docs(&served, &["put", demo_documents()]);
    let again = rows(&again);
    assert!(again.iter().zip(&first).all(|(again, first)| again[0] == first[0]), "{again:?}");
    assert!(again.iter().all(|row| row[2] == "0" && row[4] == "known"), "{again:?}");

    let ferry = first.iter().find(|row| row[5..] == ["MV", "Swallow"]).unwrap()[0];
    let digits = &ferry["documents/".len()..][..12];
    let pinned = docs(&served, &["pin", digits]);
    assert_eq!(rows(&pinned)[0][4..6], ["resident", "yes"], "{}", pinned.stdout);
    let listed =
        docs(&served, &["ls", "--filter", "pinned = true AND labels.set = \"demo\"", "--json"]).json();
    assert_eq!(listed["documents"].as_array().unwrap().len(), 1);
    assert_eq!(listed["documents"][0]["name"], ferry);
    let shown = docs(&served, &["get", ferry]);
    assert!(shown.stdout.contains("pinned    yes") && shown.stdout.contains("set=demo"), "{}", shown.stdout);
    assert_eq!(docs(&served, &["unpin", ferry, "--json"]).json()["documents"][0]["pinned"], json!(false));

    assert_eq!(docs(&served, &["rm", digits]).stdout, format!("forgot {ferry}\n"));
    docs(&served, &["get", ferry]).assert_error(2, &["document"]);
    assert_eq!(rows(&docs(&served, &["ls"])).len(), 9);
}

#[test]
fn a_request_names_documents_in_any_order_and_computes_none_of_them() {
    let served = serve();
    let put = docs(&served, &["put", demo_documents(), "--json"]).json();
    let names: Vec<&str> = put["puts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|put| put["response"]["document"]["name"].as_str().unwrap())
        .collect();
    let request = |names: &[&str]| {
        let mut parts = vec![
            json!({"text": "<|im_start|>system\nAnswer the question with a short phrase from the documents.<|im_end|>\n<|im_start|>user\n"}),
        ];
        parts.extend(names.iter().map(|name| json!({"document": name})));
        parts.push(
            json!({"text": "Question: Who is the captain of the MV Swallow?<|im_end|>\n<|im_start|>assistant\n"}),
        );
        json!({"parts": parts, "stopping": {"maxTokens": 16}})
    };
    let mut reversed = names.clone();
    reversed.reverse();
    for names in [&names, &reversed] {
        let file = write(&folder("docs_request"), "request.json", request(names).to_string());
        let response = lazyattn(&["generate", "--request", &file, "--server", &served.url]).json();
        assert_eq!(response["text"], "Maria Stone", "{response}");
        assert_eq!(response["usage"]["documentsReused"], 10, "{response}");
    }
    // The files given in place are the same documents.
    let args = ["chat", "--docs", demo_documents(), "--server", &served.url];
    let ran = crate::lazyattn_reading(&args, b"Who founded Hill Boats?\n");
    assert_eq!(ran.stdout, "David Hill\n", "{}", ran.stderr);
    assert!(ran.stderr.contains("10 of 10 documents reused"), "{}", ran.stderr);
    // Without a server there is nobody who knows a name.
    generate(&[], &request(&names)).assert_error(2, &["parts[1].document"]);
}

#[test]
fn mistakes_are_told_with_their_file_or_name() {
    let served = serve();
    let folder = folder("docs_mistakes");
    let good = write(&folder, "good.txt", "The boat leaves at six.");
    let empty = write(&folder, "empty.txt", " ");
    docs(&served, &["put", "no-such-file.txt"]).assert_error(2, &["no-such-file.txt"]);
    let ran = docs(&served, &["put", &good, &empty, &good]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stdout.contains(" new ") && ran.stderr.contains("empty.txt is empty"), "{}", ran.stderr);
    assert_eq!(rows(&docs(&served, &["ls"])).len(), 1);
    let long = write(&folder, "long.txt", "boat ".repeat(20_000));
    let ran = docs(&served, &["put", &long, &good]);
    assert!(ran.code != 0 && ran.stderr.contains("long.txt: "), "{}", ran.stderr);
    assert!(ran.stdout.contains(" known "), "one that failed does not stop the others: {}", ran.stdout);
    docs(&served, &["get", "harbour"]).assert_error(2, &["documents/KEY"]);
    docs(&served, &["rm", "00"]).assert_error(2, &["no document starts with"]);
    docs(&served, &["get", &format!("documents/{}", "0".repeat(64))]).assert_error(2, &["document"]);
    docs(&served, &["ls", "--filter", "colour = red"]).assert_error(2, &["filter"]);
    lazyattn(&["docs", "ls", "--server", "http://127.0.0.1:1"]).assert_error(6, &["no server answers"]);
}

#[test]
fn lazy_documents_are_computed_by_their_first_use() {
    let served = serve();
    let folder = folder("docs_lazy");
    let file = write(&folder, "pilot-boat.txt", "The pilot boat leaves at six.");
    let put = docs(&served, &["put", &file, "--lazy", "--ttl", "1h", "--raw", "--json"]).json();
    let response = &put["puts"][0]["response"];
    assert_eq!(put["puts"][0]["file"], file);
    assert_eq!((&response["created"], &response["document"]["residency"]), (&json!(true), &json!("EVICTED")));
    assert!(response["document"]["expireTime"].is_string(), "{response}");
    assert_eq!(response["document"]["displayName"], "Pilot boat");
    let name = response["document"]["name"].as_str().unwrap();
    let request = json!({"parts": [{"document": name}, {"text": "When?"}], "stopping": {"maxTokens": 1}});
    let path = folder.join("request.json");
    fs::write(&path, request.to_string()).unwrap();
    let args = ["generate", "--request", path.to_str().unwrap(), "--server", &served.url];
    let reused: Vec<Value> =
        (0..2).map(|_| lazyattn(&args).json()["usage"]["documentsReused"].clone()).collect();
    assert_eq!(reused, [json!(0), json!(1)]);
    assert_eq!(docs(&served, &["get", name, "--json"]).json()["residency"], "DEVICE");
}
