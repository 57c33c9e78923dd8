//! New inputs from old ones.

use lazy_attn_testkit::SplitMix64;

/// Longest input.
pub const MAX_INPUT_BYTES: usize = 64 << 10;
/// Most changes from one input to the next.
const MAX_CHANGES: u64 = 6;

/// Numbers at which counts, sizes and their products wrap.
const NUMBERS: [u64; 20] = [
    0,
    1,
    4,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x4000_0001,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    1 << 40,
    1 << 59,
    1 << 61,
    1 << 62,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];
/// The same for texts.
const TEXT_NUMBERS: [&[u8]; 12] = [
    b"-1",
    b"0",
    b"1e999",
    b"-0.0",
    b"2147483648",
    b"-2147483649",
    b"4294967296",
    b"9223372036854775808",
    b"18446744073709551616",
    b"1e-400",
    b"null",
    b"\"\"",
];

/// What inputs are made of.
#[derive(Debug, Clone, Copy)]
pub struct Material<'a> {
    /// Inputs so far.
    pub pool: &'a [Vec<u8>],
    /// Words that mean something to the target.
    pub words: &'a [&'a [u8]],
}

/// An input made from one of the pool by a few changes.
///
/// # Panics
/// If the pool is empty.
pub fn mutated(material: Material<'_>, rng: &mut SplitMix64) -> Vec<u8> {
    let mut input = pick(material.pool, rng).clone();
    for _ in 0..1 + rng.below(MAX_CHANGES) {
        change(&mut input, material, rng);
        input.truncate(MAX_INPUT_BYTES);
    }
    input
}

fn pick<'a, T>(items: &'a [T], rng: &mut SplitMix64) -> &'a T {
    &items[rng.below(items.len() as u64) as usize]
}

/// A place in `input`, its end included.
fn place(input: &[u8], rng: &mut SplitMix64) -> usize {
    rng.below(input.len() as u64 + 1) as usize
}

/// A short range of `input`.
fn range(input: &[u8], rng: &mut SplitMix64) -> std::ops::Range<usize> {
    let start = place(input, rng);
    let len = (rng.below(64) as usize).min(input.len() - start);
    start..start + len
}

fn change(input: &mut Vec<u8>, material: Material<'_>, rng: &mut SplitMix64) {
    match rng.below(12) {
        0 => flip(input, rng),
        1 | 2 => write_number(input, rng),
        3 | 4 => replace_text_number(input, rng),
        5 => drop(input.drain(range(input, rng))),
        6 => {
            let copied = input[range(input, rng)].to_vec();
            insert(input, &copied, rng);
        }
        7 => input.truncate(place(input, rng)),
        8 => {
            let other = pick(material.pool, rng);
            let taken = other[range(other, rng)].to_vec();
            insert(input, &taken, rng);
        }
        9 if !material.words.is_empty() => insert(input, pick::<&[u8]>(material.words, rng), rng),
        10 => {
            // Depth and length: one piece, many times.
            let piece = if material.words.is_empty() { &b"["[..] } else { *pick(material.words, rng) };
            let times = 1 << rng.below(14);
            insert(input, &piece.repeat(times.min(MAX_INPUT_BYTES / piece.len().max(1))), rng);
        }
        _ => {
            let noise: Vec<u8> = (0..1 + rng.below(8)).map(|_| rng.below(256) as u8).collect();
            insert(input, &noise, rng);
        }
    }
}

fn insert(input: &mut Vec<u8>, bytes: &[u8], rng: &mut SplitMix64) {
    let at = place(input, rng);
    input.splice(at..at, bytes.iter().copied());
}

fn flip(input: &mut [u8], rng: &mut SplitMix64) {
    if !input.is_empty() {
        let at = rng.below(input.len() as u64) as usize;
        input[at] ^= 1 << rng.below(8);
    }
}

/// Overwrites 1 to 8 bytes with a number near one that wraps.
fn write_number(input: &mut [u8], rng: &mut SplitMix64) {
    let number = pick(&NUMBERS, rng).wrapping_add(rng.below(3)).wrapping_sub(1).to_le_bytes();
    let size = 1 << rng.below(4);
    if input.len() >= size {
        let at = rng.below((input.len() - size) as u64 + 1) as usize;
        input[at..at + size].copy_from_slice(&number[..size]);
    }
}

/// Replaces a run of digits.
fn replace_text_number(input: &mut Vec<u8>, rng: &mut SplitMix64) {
    let from = place(input, rng);
    let Some(start) = input[from..].iter().position(u8::is_ascii_digit).map(|at| from + at) else { return };
    let len = input[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    input.splice(start..start + len, pick(&TEXT_NUMBERS, rng).iter().copied());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_inputs_within_the_bound() {
        let pool = [b"{\"count\": 12}".to_vec(), Vec::new()];
        let inputs = |seed| {
            let mut rng = SplitMix64::new(seed);
            let material = Material { pool: &pool, words: &[b"[", b"{\"a\":"] };
            (0..2000).map(|_| mutated(material, &mut rng)).collect::<Vec<_>>()
        };
        assert_eq!(inputs(1), inputs(1));
        assert_ne!(inputs(1), inputs(2));
        assert!(inputs(3).iter().all(|input| input.len() <= MAX_INPUT_BYTES));
        assert!(inputs(3).iter().any(|input| input.len() > 10_000), "nothing is deep");
    }
}
