//! Every question in every mode through an engine, many requests at a time.
//!
//! Requests of one question follow each other, so that modes whose documents have the same KV find it resident. Which
//! requests run together does not change an answer (invariant 5 of ARCHITECTURE.md), so a run is also a test of that.

use std::collections::VecDeque;
use std::sync::Arc;

use lazy_attn_engine::{
    EngineError, EngineHandle, Event, GenerateRequest, GeneratedToken, Part, PartContent, RequestStream,
    Timing, Usage,
};
use lazy_attn_text::{BlockTemplate, Document};
use lazy_attn_types::{OutputParams, StopParams, TokenId};

use crate::random::Random;
use crate::{EvalError, Mode, Question};

/// How a question becomes a prompt, and who answers it.
#[derive(Debug, Clone)]
pub struct Asker<'a> {
    /// The engine.
    pub handle: EngineHandle,
    /// The template of its model.
    pub template: &'a BlockTemplate,
    /// What stands in front of the documents.
    pub system: &'a str,
    /// What the model ends an answer with; a given answer is scored with it.
    pub end_token: Option<TokenId>,
}

/// Whether the log-likelihood of the right answer is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scoring {
    /// It is: one more request per question and mode, which reuses what the first one computed.
    Likelihood,
    /// Only answers are generated.
    AnswersOnly,
}

/// Whether it is noted by how much each token of an answer was more likely than the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Margins {
    /// It is, so that answers that differ between two ways of computing can be told from close calls.
    Noted,
    /// It is not.
    Omitted,
}

/// What is run.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// The modes, in the order of the report.
    pub modes: Vec<Mode>,
    /// Orders of the documents in which each question is asked: as given, then shuffled; at least 1.
    pub num_orders: usize,
    /// Most tokens of an answer.
    pub max_tokens: u32,
    /// Most requests that the engine holds at once; at least 1 and below its own bound of waiting requests.
    pub max_in_flight: usize,
    /// Whether right answers are scored.
    pub scoring: Scoring,
    /// Whether close calls can be told.
    pub margins: Margins,
    /// Of the orders.
    pub seed: u64,
}

/// An answer and what it cost.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The text, trimmed.
    pub text: String,
    /// The tokens, the end token included.
    pub tokens: Vec<TokenId>,
    /// Tokens of the request.
    pub usage: Usage,
    /// Its time, waiting behind the other requests in flight included.
    pub timing: Timing,
    /// Of the first right answer, in the first order only.
    pub likelihood: Option<Likelihood>,
    /// Of each token, the logarithm of its probability less that of the next likely one; empty unless it was to be noted.
    pub margins: Vec<f32>,
}

/// How likely a given answer is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Likelihood {
    /// Natural logarithm of its probability, the end token included.
    pub log_probability: f64,
    /// Its tokens, the end token included.
    pub num_tokens: u32,
}

impl Likelihood {
    /// Per token.
    #[must_use]
    pub fn per_token(self) -> f64 {
        self.log_probability / f64::from(self.num_tokens.max(1))
    }
}

/// What came out of a run.
#[derive(Debug, Clone)]
pub struct Answers {
    /// The modes.
    pub modes: Vec<Mode>,
    /// Orders of each question.
    pub num_orders: usize,
    /// The questions that fit the model in every mode.
    pub questions: Vec<Question>,
    /// Questions that do not.
    pub num_left_out: usize,
    /// `[questions, orders, modes]`.
    answers: Vec<Answer>,
}

impl Answers {
    /// The answer to question `question` in order `order` and mode `mode`, all indices.
    #[must_use]
    pub fn get(&self, question: usize, order: usize, mode: usize) -> &Answer {
        &self.answers[(question * self.num_orders + order) * self.modes.len() + mode]
    }
}

/// Requests that [`run`] makes of `num_questions`.
#[must_use]
pub fn num_requests(options: &RunOptions, num_questions: usize) -> usize {
    let num_scored = if options.scoring == Scoring::Likelihood { 1 } else { 0 };
    num_questions * options.modes.len() * (options.num_orders + num_scored)
}

/// Asks `questions` in every mode and order; `on_progress` hears how many requests have ended.
///
/// # Errors
/// [`EvalError::Engine`] for the first request that failed for another reason than its length, [`EvalError::NoneFits`] if no
/// question is left.
pub fn run(
    asker: &Asker<'_>,
    questions: Vec<Question>,
    options: &RunOptions,
    on_progress: &mut dyn FnMut(usize),
) -> Result<Answers, EvalError> {
    let num_cells = questions.len() * options.num_orders * options.modes.len();
    let mut run = Run {
        asker,
        options,
        on_progress,
        pending: VecDeque::new(),
        cells: vec![None; num_cells],
        refusals: vec![None; questions.len()],
        num_ended: 0,
    };
    for (index, question) in questions.iter().enumerate() {
        run.ask(index, question)?;
    }
    while !run.pending.is_empty() {
        run.end_oldest()?;
    }
    let Run { cells, refusals, .. } = run;
    collect(questions, options, cells, refusals)
}

/// One request in flight.
struct Pending {
    question: usize,
    mode: usize,
    /// Of `cells`.
    cell: usize,
    purpose: Purpose,
    stream: RequestStream,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Generate,
    Score,
}

struct Run<'a> {
    asker: &'a Asker<'a>,
    options: &'a RunOptions,
    on_progress: &'a mut dyn FnMut(usize),
    /// Oldest first.
    pending: VecDeque<Pending>,
    cells: Vec<Option<Answer>>,
    /// Of each question, why it does not fit.
    refusals: Vec<Option<EngineError>>,
    num_ended: usize,
}

impl Run<'_> {
    fn ask(&mut self, index: usize, question: &Question) -> Result<(), EvalError> {
        for order in 0..self.options.num_orders {
            let question = in_order(question, order, self.options.seed ^ index as u64);
            for mode in 0..self.options.modes.len() {
                let cell = (index * self.options.num_orders + order) * self.options.modes.len() + mode;
                let is_scored = order == 0 && self.options.scoring == Scoring::Likelihood;
                let purposes = [Some(Purpose::Generate), is_scored.then_some(Purpose::Score)];
                for purpose in purposes.into_iter().flatten() {
                    if self.refusals[index].is_some() {
                        return Ok(());
                    }
                    while self.pending.len() >= self.options.max_in_flight {
                        self.end_oldest()?;
                    }
                    let request = self.request(&question, self.options.modes[mode], purpose);
                    let request = request.map_err(|source| self.failed(index, mode, source))?;
                    match self.asker.handle.submit(request) {
                        Ok(stream) => {
                            self.pending.push_back(Pending { question: index, mode, cell, purpose, stream });
                        }
                        Err(error) => self.refused(index, mode, error)?,
                    }
                }
            }
        }
        Ok(())
    }

    fn request(
        &self,
        question: &Question,
        mode: Mode,
        purpose: Purpose,
    ) -> Result<GenerateRequest, EngineError> {
        let base = mode.applied_to(GenerateRequest::new(self.parts(question, mode)));
        let mut stopping = StopParams { max_tokens: self.options.max_tokens, ..StopParams::default() };
        if purpose == Purpose::Generate {
            let top_logprobs = if self.options.margins == Margins::Noted { 2 } else { 0 };
            return Ok(GenerateRequest { stopping, output: OutputParams { top_logprobs }, ..base });
        }
        let invalid = |problem: String| EngineError::Invalid { field: "answer".into(), problem };
        let answer = question.answers.first().map_or("", String::as_str);
        let encoded = self.asker.handle.tokenizer().encode(answer);
        let mut forced = encoded.map_err(|error| invalid(error.to_string()))?;
        forced.extend(self.asker.end_token);
        stopping.max_tokens = u32::try_from(forced.len()).map_err(|error| invalid(error.to_string()))?;
        Ok(GenerateRequest { stopping, forced_output: Arc::from(forced), ..base })
    }

    fn parts(&self, question: &Question, mode: Mode) -> Vec<Part> {
        let documents = if mode.has_documents() { question.documents.as_slice() } else { &[] };
        let documents: Vec<Document<'_>> = documents
            .iter()
            .map(|document| Document { title: Some(&document.title), text: &document.text })
            .collect();
        let prompt = self.asker.template.prompt(self.asker.system, &documents, &question.text);
        let text = |text: String| Part::Text(PartContent::Text(text));
        let document = |text: String| Part::Document(PartContent::Text(text));
        let documents = prompt.documents.into_iter().map(document);
        [text(prompt.system)].into_iter().chain(documents).chain([text(prompt.question)]).collect()
    }

    fn end_oldest(&mut self) -> Result<(), EvalError> {
        let Some(Pending { question, mode, cell, purpose, stream }) = self.pending.pop_front() else {
            return Ok(());
        };
        match read(stream) {
            Ok((answer, tokens)) => match (purpose, &mut self.cells[cell]) {
                (Purpose::Score, Some(generated)) => generated.likelihood = Some(likelihood(&tokens)),
                // A score follows the answer it belongs to.
                (Purpose::Score, None) => {}
                (Purpose::Generate, cell) => *cell = Some(answer),
            },
            Err(error) => self.refused(question, mode, error)?,
        }
        self.num_ended += 1;
        (self.on_progress)(self.num_ended);
        Ok(())
    }

    /// A question that does not fit is left out, in all modes; anything else ends the run.
    fn refused(&mut self, question: usize, mode: usize, error: EngineError) -> Result<(), EvalError> {
        match error {
            EngineError::ContextTooLong { .. } | EngineError::NeverFits { .. } => {
                self.refusals[question] = Some(error);
                Ok(())
            }
            // Too many documents for one request.
            EngineError::Invalid { ref field, .. } if field == "parts" => {
                self.refusals[question] = Some(error);
                Ok(())
            }
            error => Err(self.failed(question, mode, error)),
        }
    }

    fn failed(&self, question: usize, mode: usize, source: EngineError) -> EvalError {
        EvalError::Engine { question: question + 1, mode: self.options.modes[mode].to_string(), source }
    }
}

/// The question in order number `order` of its documents.
fn in_order(question: &Question, order: usize, seed: u64) -> Question {
    let mut indices: Vec<usize> = (0..question.documents.len()).collect();
    if order > 0 {
        let mut random = Random::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ order as u64);
        random.shuffle(&mut indices);
    }
    question.reordered(&indices)
}

fn likelihood(tokens: &[GeneratedToken]) -> Likelihood {
    let log_probability = tokens.iter().map(|token| f64::from(token.chosen.logprob)).sum();
    // Bounded by `max_tokens`.
    Likelihood { log_probability, num_tokens: tokens.len() as u32 }
}

fn read(mut stream: RequestStream) -> Result<(Answer, Vec<GeneratedToken>), EngineError> {
    let (mut text, mut tokens) = (String::new(), Vec::new());
    while let Some(event) = stream.blocking_next() {
        match event {
            Event::Delta { text: more, tokens: new, .. } => {
                text.push_str(&more);
                tokens.extend(new);
            }
            Event::Done { usage, timing } => {
                let ids = tokens.iter().map(|token: &GeneratedToken| token.chosen.token).collect();
                let margin =
                    |token: &GeneratedToken| Some(token.top.first()?.logprob - token.top.get(1)?.logprob);
                let margins = tokens.iter().filter_map(margin).collect();
                let text = text.trim().to_owned();
                let answer = Answer { text, tokens: ids, usage, timing, likelihood: None, margins };
                return Ok((answer, tokens));
            }
            Event::Failed(error) => return Err(error),
            Event::Started { .. } | Event::Finished { .. } => {}
        }
    }
    Err(EngineError::ShutDown)
}

fn collect(
    questions: Vec<Question>,
    options: &RunOptions,
    cells: Vec<Option<Answer>>,
    refusals: Vec<Option<EngineError>>,
) -> Result<Answers, EvalError> {
    let num_questions = questions.len();
    let per_question = options.num_orders * options.modes.len();
    let mut kept = Vec::new();
    let mut answers = Vec::new();
    let mut last_refusal = None;
    for ((question, refusal), cells) in
        questions.into_iter().zip(refusals).zip(cells.chunks(per_question.max(1)))
    {
        match refusal {
            Some(refusal) => last_refusal = Some(refusal),
            None => {
                kept.push(question);
                answers.extend(cells.iter().flatten().cloned());
            }
        }
    }
    match last_refusal {
        Some(last) if kept.is_empty() => Err(EvalError::NoneFits { questions: num_questions, last }),
        _ => Ok(Answers {
            modes: options.modes.clone(),
            num_orders: options.num_orders,
            num_left_out: num_questions - kept.len(),
            questions: kept,
            answers,
        }),
    }
}
