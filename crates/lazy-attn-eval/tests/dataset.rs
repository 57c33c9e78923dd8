//! One small file of each layout, and files that are none.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, not only the tests themselves

use std::path::{Path, PathBuf};

use lazy_attn_eval::dataset::{parse, read};
use lazy_attn_eval::{Question, SourceDocument};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn all(name: &str) -> Vec<Question> {
    read(&path(name), 100).unwrap()
}

fn document(title: &str, text: &str) -> SourceDocument {
    SourceDocument { title: title.into(), text: text.into() }
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

fn lamp() -> Question {
    Question {
        documents: vec![document("", "The lamp burns whale oil.")],
        text: "What does the lamp burn?".into(),
        answers: strings(&["whale oil"]),
        ..Question::default()
    }
}

#[test]
fn rows_of_this_project_are_read_plain_and_gzipped() {
    let expected = [
        Question {
            documents: vec![
                document("Harbour", "The pilot boat leaves at six."),
                document("", "The lamp burns whale oil."),
            ],
            text: "When does the pilot boat leave?".into(),
            answers: strings(&["at six", "six"]),
            gold: vec![0],
            group: "made".into(),
            ..Question::default()
        },
        lamp(),
    ];
    assert_eq!(all("rows.jsonl"), expected);
    assert_eq!(all("rows.jsonl.gz"), expected);
    assert_eq!(read(&path("rows.jsonl"), 1).unwrap(), expected[..1]);
}

#[test]
fn squad_gives_one_question_per_answerable_one_over_its_paragraph() {
    let [first, second]: [Question; 2] = all("squad.json").try_into().unwrap();
    assert_eq!(first.documents, [document("Red Turbans", "Zhu Yuanzhang joined the Red Turbans in 1352.")]);
    assert_eq!((first.answers, first.gold), (strings(&["Zhu Yuanzhang", "Zhu"]), vec![0]));
    assert_eq!(second.documents[0].text, lamp().documents[0].text);
}

#[test]
fn hotpot_and_two_wiki_give_their_documents_and_which_of_them_support_the_answer() {
    let hotpot = &all("hotpot.json")[0];
    assert_eq!(hotpot.documents[0], document("The lamp", "The lamp burns oil. Its keeper is Anna Baker."));
    assert_eq!((hotpot.documents.len(), &hotpot.gold[..]), (3, &[0, 2][..]));
    assert_eq!((&hotpot.answers[0][..], &hotpot.group[..]), ("Saltwick", "bridge"));
    let [published, columns]: [Question; 2] = all("two_wiki.jsonl").try_into().unwrap();
    assert_eq!(
        published.documents[1],
        document("Oscar Stone", "Oscar Stone is a director. His mother is Ida Stone.")
    );
    assert_eq!((published.gold, published.answers), (vec![0, 1], strings(&["Ida Stone"])));
    assert_eq!(columns.documents[1], document("B", "B is from 1800. It is blue."));
    assert_eq!((columns.gold, columns.group), (vec![0, 1], "comparison".to_owned()));
}

#[test]
fn natural_questions_tell_where_the_answering_document_stands() {
    let question = &all("nq.jsonl")[0];
    assert_eq!(question.documents[0], document("Nobel Prize", "It is given each year."));
    assert_eq!((&question.gold[..], &question.group[..]), (&[1][..], "gold at 1"));
    assert_eq!(question.answers, strings(&["Wilhelm Conrad Röntgen"]));
}

#[test]
fn longbench_gives_joined_documents_apart_and_the_classes_of_a_classification() {
    let [joined, classes]: [Question; 2] = all("longbench.jsonl").try_into().unwrap();
    let expected =
        [document("Harbour", "The pilot boat leaves at six."), document("Lamp", "The lamp burns whale oil.")];
    assert_eq!((joined.documents, joined.group), (expected.to_vec(), "hotpotqa".to_owned()));
    assert_eq!(classes.classes, strings(&["Location", "Person"]));
    assert_eq!(classes.documents, [document("", "Question: Where is it ?\nType: Location")]);
}

#[test]
fn a_file_that_is_no_question_set_is_refused_with_the_entry_and_what_is_wrong() {
    let refused = |text: &str| parse(text.as_bytes(), "q.jsonl", 100).unwrap_err().to_string();
    let good = r#"{"docs":[{"text":"a"}],"question":"q","answers":["a"]}"#;
    assert_eq!(refused(""), "q.jsonl holds no question");
    assert_eq!(
        refused(r#"{"text":"a","label":1}"#),
        "q.jsonl, entry 1: its keys (text, label) are of no known layout; give rows with `docs`"
    );
    assert!(refused(&format!("{good}\n7")).starts_with("q.jsonl, entry 2: its keys (none: it is no object)"));
    assert!(refused(&format!("{good}\n{{\"docs\"")).starts_with("q.jsonl, entry 2: it is not JSON"));
    let no_answers = refused(r#"{"docs":[{"text":"a"}],"question":"q"}"#);
    assert!(no_answers.contains("missing field `answers`"), "{no_answers}");
    assert_eq!(refused(r#"{"docs":[],"question":"q","answers":[" "]}"#), "q.jsonl holds no question");
    let missing = read(Path::new("no/such.jsonl"), 1).unwrap_err().to_string();
    assert!(missing.starts_with("cannot read no/such.jsonl"), "{missing}");
}
