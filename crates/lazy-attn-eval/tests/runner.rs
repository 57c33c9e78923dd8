//! Questions through an engine without a model: its answers are hashes of what it saw, so a wrong prompt, order or mode
//! shows.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, not only the tests themselves

#[allow(dead_code, reason = "the engine's tests use the rest of it")]
#[path = "../../lazy-attn-engine/tests/common/vocab.rs"]
mod vocab;

use lazy_attn_engine::{Engine, EngineConfig, EngineParts, Event, GenerateRequest, Part, PartContent};
use lazy_attn_eval::procedural::{Family, questions};
use lazy_attn_eval::report::{Report, Setting, answer_lines, to_markdown};
use lazy_attn_eval::runner::{self, Margins, Scoring, num_requests};
use lazy_attn_eval::{Answers, Asker, EvalError, Mode, Question, RunOptions};
use lazy_attn_testkit::{FakeConfig, FakeExecutor};
use lazy_attn_text::BlockTemplate;
use lazy_attn_types::{OutputParams, StopParams, TokenId};

fn engine(num_blocks: u32) -> Engine {
    let config = FakeConfig {
        vocab_size: vocab::VOCAB_SIZE,
        num_blocks,
        max_context_tokens: 4096,
        ..FakeConfig::default()
    };
    let tokenizer = vocab::byte_tokenizer(vocab::Bos::Omit).unwrap();
    let parts = EngineParts::new(Box::new(FakeExecutor::new(config)), tokenizer, vec![vocab::END]);
    Engine::start(parts, EngineConfig::default()).unwrap()
}

fn options(modes: &[Mode]) -> RunOptions {
    RunOptions {
        modes: modes.to_vec(),
        num_orders: 1,
        max_tokens: 6,
        max_in_flight: 9,
        scoring: Scoring::Likelihood,
        margins: Margins::Omitted,
        seed: 4,
    }
}

fn run(engine: &Engine, questions: Vec<Question>, options: &RunOptions) -> Result<Answers, EvalError> {
    let template = BlockTemplate::chatml();
    let asker = Asker {
        handle: engine.handle(),
        template: &template,
        system: "Answer.",
        end_token: Some(vocab::END),
    };
    let mut heard = Vec::new();
    let num_questions = questions.len();
    let answers = runner::run(&asker, questions, options, &mut |done| heard.push(done))?;
    if answers.num_left_out == 0 {
        assert_eq!(heard, (1..=num_requests(options, num_questions)).collect::<Vec<_>>());
    }
    Ok(answers)
}

fn tokens(answers: &Answers, mode: usize) -> Vec<Vec<TokenId>> {
    (0..answers.questions.len()).map(|question| answers.get(question, 0, mode).tokens.clone()).collect()
}

/// The parts that a question must become.
fn parts(question: &Question) -> Vec<Part> {
    let text = |text: String| Part::Text(PartContent::Text(text));
    let system = "<|im_start|>system\nAnswer.<|im_end|>\n<|im_start|>user\n".to_owned();
    let documents = question.documents.iter().map(|document| match document.title.as_str() {
        "" => format!("{}\n\n", document.text),
        title => format!("Title: {title}\n{}\n\n", document.text),
    });
    let asked = format!("Question: {}<|im_end|>\n<|im_start|>assistant\n", question.text);
    let documents = documents.map(|text| Part::Document(PartContent::Text(text)));
    [text(system)].into_iter().chain(documents).chain([text(asked)]).collect()
}

#[test]
fn an_answer_is_that_of_the_same_request_alone() {
    let asked = questions(&Family::ALL, 10, 1);
    let answers = run(&engine(2048), asked.clone(), &options(&[Mode::NO_DOCUMENTS, Mode::BLOCK])).unwrap();
    let alone = engine(2048);
    for (index, question) in asked.iter().enumerate() {
        let stopping = StopParams { max_tokens: 6, ..StopParams::default() };
        let request = GenerateRequest { stopping, ..GenerateRequest::new(parts(question)) };
        let mut stream = alone.handle().submit(request).unwrap();
        let mut expected = Vec::new();
        while let Some(event) = stream.blocking_next() {
            if let Event::Delta { tokens, .. } = event {
                expected.extend(tokens.iter().map(|token| token.chosen.token));
            }
        }
        assert_eq!(answers.get(index, 0, 1).tokens, expected, "question {index}");
        assert_ne!(answers.get(index, 0, 0).tokens, expected, "question {index}");
    }
}

#[test]
fn margins_are_noted_on_demand_and_change_no_answer() {
    let asked = questions(&Family::ALL, 3, 1);
    let plain = run(&engine(2048), asked.clone(), &options(&[Mode::BLOCK])).unwrap();
    let noted = RunOptions { margins: Margins::Noted, ..options(&[Mode::BLOCK]) };
    let noted = run(&engine(2048), asked, &noted).unwrap();
    for question in 0..3 {
        let (plain, noted) = (plain.get(question, 0, 0), noted.get(question, 0, 0));
        assert_eq!((&plain.tokens, plain.margins.len()), (&noted.tokens, 0));
        assert_eq!(noted.margins.len(), noted.tokens.len());
        assert!(noted.margins.iter().all(|&margin| margin >= 0.0), "{:?}", noted.margins);
    }
}

#[test]
fn the_log_likelihood_is_the_sum_over_the_answer_and_its_end() {
    let question = Family::Codes.question(1, 0);
    let answers = run(&engine(2048), vec![question.clone()], &options(&[Mode::BLOCK])).unwrap();
    let found = answers.get(0, 0, 0).likelihood.unwrap();
    assert_eq!(found.num_tokens as usize, question.answers[0].len() + 1);
    // The same one token at a time: each behind a question that ends with the tokens before it.
    let engine = engine(2048);
    let mut expected = 0.0;
    let answer: Vec<TokenId> = question.answers[0].bytes().map(|byte| TokenId(byte.into())).collect();
    for (index, &token) in answer.iter().chain([&vocab::END]).enumerate() {
        let before = &answer[..index];
        let request = GenerateRequest {
            stopping: StopParams { max_tokens: before.len() as u32 + 1, ..StopParams::default() },
            output: OutputParams { top_logprobs: 1 },
            forced_output: before.iter().copied().chain([token]).collect(),
            ..GenerateRequest::new(parts(&question))
        };
        let mut stream = engine.handle().submit(request).unwrap();
        let mut last = None;
        while let Some(event) = stream.blocking_next() {
            if let Event::Delta { tokens, .. } = event {
                last = tokens.last().map(|token| token.chosen.logprob).or(last);
            }
        }
        expected += f64::from(last.unwrap());
    }
    assert!((found.log_probability - expected).abs() < 1e-9, "{found:?} is not {expected}");
}

#[test]
fn a_cache_changes_no_answer_also_when_it_is_too_small() {
    let asked = || questions(&Family::ALL, 15, 2);
    let modes = [Mode::FULL, Mode::FULL.uncached(), Mode::BLOCK, Mode::BLOCK.uncached()];
    let answers = run(&engine(2048), asked(), &options(&modes)).unwrap();
    assert_eq!(tokens(&answers, 0), tokens(&answers, 1));
    assert_eq!(tokens(&answers, 2), tokens(&answers, 3));
    assert_ne!(
        tokens(&answers, 0),
        tokens(&answers, 2),
        "the fake model sees whether documents see each other"
    );
    let reused = answers.get(0, 0, 3).usage;
    assert_eq!(reused.cached_prompt_tokens, 0);
    // The longest question needs about 190 blocks of 16 bytes.
    let small = engine(220);
    let pressed = run(&small, asked(), &options(&modes)).unwrap();
    assert!(small.handle().stats().sched.kv.evictions > 0);
    for (index, mode) in modes.iter().enumerate() {
        assert_eq!(tokens(&pressed, index), tokens(&answers, index), "{mode}");
    }
}

#[test]
fn every_order_is_asked_and_the_first_is_that_of_the_set() {
    let asked = questions(&[Family::Attributes], 4, 3);
    let options = RunOptions { num_orders: 3, ..options(&[Mode::BLOCK]) };
    let answers = run(&engine(2048), asked.clone(), &options).unwrap();
    let given = run(&engine(2048), asked, &RunOptions { num_orders: 1, ..options }).unwrap();
    for question in 0..4 {
        assert_eq!(answers.get(question, 0, 0).tokens, given.get(question, 0, 0).tokens);
        assert_ne!(answers.get(question, 1, 0).tokens, answers.get(question, 0, 0).tokens);
        assert_ne!(answers.get(question, 2, 0).tokens, answers.get(question, 1, 0).tokens);
        // The documents are the same, so their KV is.
        let usage = answers.get(question, 2, 0).usage;
        assert_eq!(usage.documents_reused, usage.documents_total);
    }
}

#[test]
fn a_question_that_does_not_fit_is_left_out_of_all_modes() {
    let mut asked = questions(&[Family::Codes], 3, 1);
    asked[1].documents[0].text = "long ".repeat(1000);
    let answers = run(&engine(2048), asked.clone(), &options(&[Mode::NO_DOCUMENTS, Mode::BLOCK])).unwrap();
    assert_eq!((answers.questions.len(), answers.num_left_out), (2, 1));
    assert_eq!(answers.questions[1], asked[2]);
    let without =
        run(&engine(2048), vec![asked[0].clone(), asked[2].clone()], &options(&[Mode::BLOCK])).unwrap();
    assert_eq!(tokens(&answers, 1), tokens(&without, 0));
    let none = run(&engine(2048), asked[1..2].to_vec(), &options(&[Mode::BLOCK])).unwrap_err().to_string();
    assert!(none.contains("none of the 1 questions") && none.contains("4096"), "{none}");
}

#[test]
fn a_report_tells_every_mode_and_pair() {
    let options = RunOptions { num_orders: 2, ..options(&[Mode::FULL, Mode::BLOCK, Mode::BLOCK.uncached()]) };
    let answers = run(&engine(2048), questions(&Family::ALL, 10, 1), &options).unwrap();
    let setting = Setting { dataset: "procedural".into(), model: "fake".into(), max_tokens: 6, seed: 4 };
    let report = Report::new(setting, &answers);
    let json = serde_json::to_value(&report).unwrap();
    let modes: Vec<_> = json["results"].as_array().unwrap().iter().map(|result| &result["mode"]).collect();
    assert_eq!(modes, ["full", "block", "block-uncached"]);
    for result in json["results"].as_array().unwrap() {
        assert!(result["em"].is_number() && result["f1"].is_number() && result["ci"]["em"][1].is_number());
        assert!(result["logLikelihood"]["perToken"].as_f64().unwrap() < 0.0);
        assert_eq!((&result["n"], &result["stability"]["orders"]), (&10.into(), &2.into()));
    }
    assert_eq!(json["results"][1]["answersDigest"], json["results"][2]["answersDigest"]);
    assert_ne!(json["results"][0]["answersDigest"], json["results"][1]["answersDigest"]);
    let pairs: Vec<_> =
        report.comparisons.iter().map(|found| (&found.mode[..], &found.baseline[..])).collect();
    assert_eq!(pairs, [("block", "full"), ("block-uncached", "full"), ("block-uncached", "block")]);
    assert_eq!((report.comparisons[2].identical, report.comparisons[2].first_mismatch), (100.0, None));
    assert!(report.comparisons[0].identical < 50.0 && report.comparisons[0].first_mismatch.is_some());
    let markdown = to_markdown(&report);
    assert!(markdown.contains("| block - full |") && markdown.contains("| many-shot | 2 |"), "{markdown}");
    assert_eq!(answer_lines(&answers).lines().count(), 10 * 2 * 3);
}
