use proptest::prelude::*;

use super::*;

fn seed() -> SequenceSeed {
    SequenceSeed::new(42, 0)
}

fn sampler(params: &SamplingParams) -> Sampler {
    Sampler::new(params, OutputParams::default(), seed(), [])
}

fn chosen_with(params: &SamplingParams, logits: &[f32], output: &[u32]) -> u32 {
    let output: Vec<TokenId> = output.iter().copied().map(TokenId).collect();
    let mut scratch = SamplingScratch::default();
    sampler(params).sample(&mut scratch, logits, &output).unwrap().token.token.0
}

/// How often each token is drawn in `num_draws` steps.
fn counts(params: &SamplingParams, logits: &[f32], num_draws: usize) -> Vec<u32> {
    let mut counts = vec![0; logits.len()];
    let mut sampler = sampler(params);
    let mut scratch = SamplingScratch::default();
    let output = vec![TokenId(0); num_draws];
    for step in 0..num_draws {
        let chosen = sampler.sample(&mut scratch, logits, &output[..step]).unwrap();
        counts[chosen.token.token.0 as usize] += 1;
    }
    counts
}

fn assert_distribution(params: &SamplingParams, logits: &[f32], expected: &[f64], chi_square_max: f64) {
    const NUM_DRAWS: usize = 30_000;
    let total: f64 = expected.iter().sum();
    let chi_square: f64 = counts(params, logits, NUM_DRAWS)
        .into_iter()
        .zip(expected)
        .map(|(count, weight)| {
            let mean = weight / total * NUM_DRAWS as f64;
            assert!(mean > 0.0 || count == 0, "a dropped token was drawn");
            if mean > 0.0 { (f64::from(count) - mean).powi(2) / mean } else { 0.0 }
        })
        .sum();
    assert!(chi_square < chi_square_max, "{chi_square} for {params:?}");
}

fn warm() -> SamplingParams {
    SamplingParams { temperature: 1.0, ..SamplingParams::default() }
}

/// Logits whose softmax has the given shares.
fn logits_of(shares: &[f32]) -> Vec<f32> {
    shares.iter().map(|share| share.ln()).collect()
}

// Limits of the chi-square statistic that 1 in 10 000 fair samplers would exceed, by degrees of freedom.
const CHI_SQUARE_1: f64 = 15.1;
const CHI_SQUARE_2: f64 = 18.4;
const CHI_SQUARE_4: f64 = 23.5;

#[test]
fn draws_follow_the_softmax_at_the_temperature() {
    let logits = logits_of(&[0.4, 0.3, 0.15, 0.1, 0.05]);
    assert_distribution(&warm(), &logits, &[0.4, 0.3, 0.15, 0.1, 0.05], CHI_SQUARE_4);
    let cold = SamplingParams { temperature: 0.5, ..warm() };
    let squares = [0.4, 0.3, 0.15, 0.1, 0.05].map(|share: f64| share.powi(2));
    assert_distribution(&cold, &logits, &squares, CHI_SQUARE_4);
}

#[test]
fn filters_keep_their_tokens_in_proportion() {
    let logits = logits_of(&[0.1, 0.4, 0.3, 0.15, 0.05]);
    let top_k = SamplingParams { top_k: 2, ..warm() };
    assert_distribution(&top_k, &logits, &[0.0, 0.4, 0.3, 0.0, 0.0], CHI_SQUARE_1);
    let top_p = SamplingParams { top_p: 0.8, ..warm() };
    assert_distribution(&top_p, &logits, &[0.0, 0.4, 0.3, 0.15, 0.0], CHI_SQUARE_2);
    let min_p = SamplingParams { min_p: 0.3, ..warm() };
    assert_distribution(&min_p, &logits, &[0.0, 0.4, 0.3, 0.15, 0.0], CHI_SQUARE_2);
    // Of the two that top-k leaves, the first holds 4/7 > 0.5.
    let k_then_p = SamplingParams { top_k: 2, top_p: 0.5, ..warm() };
    assert_eq!(counts(&k_then_p, &logits, 500), [0, 500, 0, 0, 0]);
    let p_then_min = SamplingParams { top_p: 0.8, min_p: 0.5, ..warm() };
    assert_distribution(&p_then_min, &logits, &[0.0, 0.4, 0.3, 0.0, 0.0], CHI_SQUARE_1);
}

#[test]
fn the_edges_of_the_filters_keep_one_token_or_all() {
    let logits = logits_of(&[0.2, 0.3, 0.1, 0.4]);
    for one in [
        SamplingParams { top_k: 1, ..warm() },
        SamplingParams { top_p: f32::MIN_POSITIVE, ..warm() },
        SamplingParams { min_p: 1.0, ..warm() },
        SamplingParams { temperature: f32::MIN_POSITIVE, ..warm() },
    ] {
        assert_eq!(counts(&one, &logits, 200), [0, 0, 0, 200], "{one:?}");
    }
    let all = counts(&warm(), &logits, 200);
    let off = [SamplingParams { top_k: 4, ..warm() }, SamplingParams { top_k: u32::MAX, ..warm() }];
    assert!(off.iter().all(|params| counts(params, &logits, 200) == all));
}

#[test]
fn equal_logits_go_to_the_lowest_id_when_greedy() {
    assert_eq!(chosen_with(&SamplingParams::default(), &[1.0, 2.0, 2.0], &[]), 1);
    assert_eq!(chosen_with(&SamplingParams { top_k: 1, ..warm() }, &[1.0, 2.0, 2.0], &[]), 1);
}

#[test]
fn penalties_move_the_choice_away_from_what_was_generated() {
    let frequency = SamplingParams { frequency_penalty: 1.0, ..SamplingParams::default() };
    assert_eq!(chosen_with(&frequency, &[3.0, 2.0], &[0]), 0);
    assert_eq!(chosen_with(&frequency, &[3.0, 2.0], &[0, 0]), 1);
    let bias = SamplingParams { logit_bias: vec![(TokenId(1), 5.0)], ..SamplingParams::default() };
    assert_eq!(chosen_with(&bias, &[3.0, 2.0], &[]), 1);
}

#[test]
fn broken_rows_are_refused_with_the_token() {
    let mut scratch = SamplingScratch::default();
    let mut refused = |logits: &[f32]| sampler(&warm()).sample(&mut scratch, logits, &[]).unwrap_err();
    assert!(matches!(refused(&[0.0, f32::NAN]), SampleError::NotFinite { token: 1, .. }));
    assert_eq!(refused(&[f32::INFINITY, 0.0]), SampleError::NotFinite { token: 0, value: f32::INFINITY });
    assert_eq!(refused(&[f32::NEG_INFINITY; 3]), SampleError::NothingAllowed { num_logits: 3 });
    assert_eq!(refused(&[]), SampleError::NothingAllowed { num_logits: 0 });
}

#[test]
fn log_probabilities_are_those_of_the_raw_logits() {
    let bias = vec![(TokenId(0), 100.0)];
    let params = SamplingParams { logit_bias: bias, temperature: 0.3, ..SamplingParams::default() };
    let mut sampler = Sampler::new(&params, OutputParams { top_logprobs: 3 }, seed(), []);
    let mut scratch = SamplingScratch::default();
    let logits = logits_of(&[0.1, 0.4, 0.4, 0.1]);
    let chosen = sampler.sample(&mut scratch, &logits, &[]).unwrap();
    assert_eq!(chosen.token.token, TokenId(0));
    let top: Vec<u32> = chosen.top.iter().map(|entry| entry.token.0).collect();
    assert_eq!(top, [1, 2, 0]);
    // Logits and results are f32 numbers below 4: half a unit in the last place each, and 2 ulp of the exponentials.
    let tolerance = 6.0 * f32::EPSILON;
    for (got, share) in chosen.top.iter().chain([&chosen.token]).zip([0.4f32, 0.4, 0.1, 0.1]) {
        assert!((got.logprob - share.ln()).abs() <= tolerance, "{got:?}");
    }
}

#[test]
fn nothing_is_reported_unless_asked_for() {
    let mut scratch = SamplingScratch::default();
    let chosen =
        sampler(&warm()).sample(&mut scratch, &[0.0; 4], &[]).map(|c| (c.token.logprob, c.top.len()));
    assert_eq!(chosen, Ok((0.0, 0)));
}

fn row() -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(-20.0f32..20.0, 1..200)
}

fn any_params() -> impl Strategy<Value = SamplingParams> {
    (0.05f32..3.0, 0u32..50, 0.05f32..=1.0, 0.0f32..0.5, 0.5f32..2.0, -1.0f32..1.0).prop_map(
        |(temperature, top_k, top_p, min_p, repetition_penalty, presence_penalty)| SamplingParams {
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            presence_penalty,
            ..SamplingParams::default()
        },
    )
}

proptest! {
    #[test]
    fn keeping_one_token_equals_greedy(logits in row(), temperature in 0.01f32..50.0) {
        let greedy = chosen_with(&SamplingParams::default(), &logits, &[]);
        let one = SamplingParams { temperature, top_k: 1, ..SamplingParams::default() };
        prop_assert_eq!(chosen_with(&one, &logits, &[]), greedy);
    }

    #[test]
    fn renaming_tokens_renames_the_report(logits in row(), turn in 0usize..200) {
        let turn = turn % logits.len();
        let mut turned = logits.clone();
        turned.rotate_right(turn);
        let num_tokens = logits.len() as u32;
        let report = |logits: &[f32]| {
            let output = OutputParams { top_logprobs: 20 };
            let mut sampler = Sampler::new(&SamplingParams::default(), output, seed(), []);
            let mut scratch = SamplingScratch::default();
            sampler.sample(&mut scratch, logits, &[]).unwrap().top.to_vec()
        };
        for (a, b) in report(&logits).iter().zip(report(&turned)) {
            // Equal logits may swap places; their ids then differ but their log-probabilities do not.
            let renamed = (a.token.0 + turn as u32) % num_tokens;
            prop_assert!(renamed == b.token.0 || logits[a.token.0 as usize] == turned[b.token.0 as usize]);
            // The sums run in another order: 200 f64 additions, far below one f32 unit in the last place.
            prop_assert!((a.logprob - b.logprob).abs() <= a.logprob.abs().max(1.0) * f32::EPSILON);
        }
    }

    #[test]
    fn a_choice_does_not_depend_on_earlier_calls(
        params in any_params(), rows in prop::collection::vec(row(), 1..8), prompt in prop::collection::vec(0u32..200, 0..9),
    ) {
        let prompt: Vec<TokenId> = prompt.into_iter().map(TokenId).collect();
        let new = || Sampler::new(&params, OutputParams { top_logprobs: 2 }, seed(), prompt.iter().copied());
        let (mut running, mut shared, mut output) = (new(), SamplingScratch::default(), Vec::new());
        for logits in &rows {
            let mut scratch = SamplingScratch::default();
            let mut fresh = new();
            let alone = fresh.sample(&mut scratch, logits, &output).unwrap();
            let among_others = running.sample(&mut shared, logits, &output).unwrap();
            prop_assert_eq!(alone, among_others);
            prop_assert!((among_others.token.token.0 as usize) < logits.len());
            output.push(among_others.token.token);
        }
    }

    #[test]
    fn a_forbidden_token_is_never_chosen(mut logits in row(), params in any_params(), at in any::<prop::sample::Index>()) {
        let forbidden = at.index(logits.len());
        logits[forbidden] = f32::NEG_INFINITY;
        logits.push(-30.0);
        for step in 0..20 {
            let output = vec![0; step];
            prop_assert_ne!(chosen_with(&params, &logits, &output), forbidden as u32);
        }
    }
}

#[test]
fn the_workspace_stops_growing_after_the_first_row() {
    let logits: Vec<f32> = (0..5000).map(|token| (token % 97) as f32 / 50.0).collect();
    let params = SamplingParams { top_p: 0.9, repetition_penalty: 1.1, ..warm() };
    let mut sampler = Sampler::new(&params, OutputParams { top_logprobs: 20 }, seed(), [TokenId(3)]);
    let mut scratch = SamplingScratch::default();
    let mut capacities = Vec::new();
    for _ in 0..10 {
        sampler.sample(&mut scratch, &logits, &[]).unwrap();
        let SamplingScratch { logits, weights, candidates, top } = &scratch;
        capacities.push([logits.capacity(), weights.capacity(), candidates.capacity(), top.capacity()]);
    }
    assert!(capacities.windows(2).all(|pair| pair[0] == pair[1]), "{capacities:?}");
}
