//! Names of things that do not exist, and the words around them.

use crate::random::Random;

const FIRST_NAMES: [&str; 24] = [
    "Anna", "Peter", "Maria", "Daniel", "Sarah", "Thomas", "Laura", "Martin", "Helen", "Robert", "Emma",
    "Victor", "Clara", "Simon", "Julia", "Oscar", "Alice", "Frank", "Rosa", "Walter", "Nina", "George",
    "Ida", "Louis",
];

const LAST_NAMES: [&str; 24] = [
    "Carter", "Wilson", "Turner", "Parker", "Cooper", "Morgan", "Bennett", "Fisher", "Marshall", "Palmer",
    "Stone", "Hunter", "Porter", "Mason", "Barker", "Foster", "Gardner", "Miller", "Shepherd", "Webster",
    "Baker", "Weaver", "Fletcher", "Cook",
];

const PLACE_STARTS: [&str; 20] = [
    "North", "West", "Green", "Stone", "River", "Lake", "Hill", "Oak", "Silver", "White", "Red", "Mill",
    "King", "Ash", "Black", "Wood", "Bridge", "Clear", "Spring", "Winter",
];

const PLACE_ENDS: [&str; 16] = [
    "field", "ford", "ton", "burg", "port", "dale", "wood", "bridge", "ham", "mouth", "haven", "stead",
    "worth", "gate", "cliff", "brook",
];

pub(super) const COLOURS: [&str; 10] =
    ["red", "blue", "green", "yellow", "white", "black", "orange", "purple", "grey", "brown"];

pub(super) const BUILDINGS: [&str; 12] = [
    "Museum", "Library", "Theatre", "Hospital", "School", "Hotel", "Station", "Factory", "Market", "Bank",
    "Castle", "Garden",
];

/// `count` different names of people.
pub(super) fn people(random: &mut Random, count: usize) -> Vec<String> {
    // Every first and every last name once, so that no name is part of another's answer.
    let (firsts, lasts) = (some(random, &FIRST_NAMES, count), some(random, &LAST_NAMES, count));
    firsts.iter().zip(lasts).map(|(first, last)| format!("{first} {last}")).collect()
}

/// `count` different names of towns.
pub(super) fn towns(random: &mut Random, count: usize) -> Vec<String> {
    let starts = some(random, &PLACE_STARTS, count);
    starts.iter().map(|start| format!("{start}{}", random.pick(&PLACE_ENDS))).collect()
}

/// `count` different years.
pub(super) fn years(random: &mut Random, count: usize) -> Vec<String> {
    let mut years: Vec<usize> = (1801..2000).collect();
    random.shuffle(&mut years);
    years.iter().take(count).map(ToString::to_string).collect()
}

/// `count` different codes of four digits.
pub(super) fn codes(random: &mut Random, count: usize) -> Vec<String> {
    let mut codes: Vec<String> = Vec::with_capacity(count);
    while codes.len() < count {
        let code = (1000 + random.below(9000)).to_string();
        if !codes.contains(&code) {
            codes.push(code);
        }
    }
    codes
}

/// `count` of `words`, all different, in random order.
pub(super) fn some<'a>(random: &mut Random, words: &[&'a str], count: usize) -> Vec<&'a str> {
    assert!(count <= words.len(), "there are {} words, not {count}", words.len());
    let mut words = words.to_vec();
    random.shuffle(&mut words);
    words.truncate(count);
    words
}
