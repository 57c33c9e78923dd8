//! Scores two made-up ways of answering a procedural question set and compares them, question by question.
//!
//! `cargo run -p lazy-attn-eval --example score_answers`

use lazy_attn_eval::Question;
use lazy_attn_eval::metrics::Score;
use lazy_attn_eval::procedural::{Family, questions};
use lazy_attn_eval::random::Random;
use lazy_attn_eval::statistics::{Difference, Estimate};

fn main() {
    let asked = questions(&Family::ALL, 200, 1);
    println!("{}\n  {}\n", asked[0].documents[0].text, asked[0].text);
    let mut random = Random::new(2);
    // One knows the answer nine times of ten, the other eight times, and they fail at the same questions.
    let luck: Vec<usize> = asked.iter().map(|_| random.below(10)).collect();
    let answer = |question: &Question, knows: bool| {
        let text = if knows { format!("the {}.", question.answers[0]) } else { "nobody knows".to_owned() };
        Score::of(question, &text).exact_match
    };
    let scores = |limit: usize| -> Vec<f64> {
        asked.iter().zip(&luck).map(|(question, &luck)| answer(question, luck < limit)).collect()
    };
    let (first, second) = (scores(9), scores(8));
    println!("first  {:?}", Estimate::of(&first, 1));
    println!("second {:?}", Estimate::of(&second, 1));
    println!("first - second {:?}", Difference::of(&first, &second, 1));
}
