//! Questions over several short documents about things of one kind.

use super::words;
use crate::random::Random;
use crate::{Question, SourceDocument};

/// Documents of one question.
const NUM_DOCUMENTS: usize = 6;

/// Buildings with a director, a town, a year and a colour; one of the four is asked for.
pub(super) fn attribute(random: &mut Random) -> Question {
    let things = Things::new(random);
    let gold = random.below(NUM_DOCUMENTS);
    let name = &things.names[gold];
    let (question, answer) = match random.below(4) {
        0 => (format!("Who is the director of the {name}?"), &things.directors[gold]),
        1 => (format!("In which town is the {name}?"), &things.towns[gold]),
        2 => (format!("In what year was the {name} opened?"), &things.years[gold]),
        _ => (format!("What color is the door of the {name}?"), &things.colours[gold]),
    };
    let documents = (0..NUM_DOCUMENTS).map(|index| things.document(index)).collect();
    asked(documents, question, answer, vec![gold])
}

/// Places with a code each.
pub(super) fn code(random: &mut Random) -> Question {
    let things = Things::new(random);
    let codes = words::codes(random, NUM_DOCUMENTS);
    let gold = random.below(NUM_DOCUMENTS);
    let document = |index: usize| {
        let (name, code, director) = (&things.names[index], &codes[index], &things.directors[index]);
        let text = format!(
            "The {name} has a door with a lock. The access code of the {name} is {code}. The code was chosen by {director}."
        );
        SourceDocument { title: name.clone(), text }
    };
    let question = format!("What is the access code of the {}?", things.names[gold]);
    asked((0..NUM_DOCUMENTS).map(document).collect(), question, &codes[gold], vec![gold])
}

/// People who work in buildings, and buildings that stand in towns: the town of a person is asked for.
pub(super) fn multi_hop(random: &mut Random) -> Question {
    let things = Things::new(random);
    let workers = words::some(random, &["teacher", "painter", "engineer"], 3);
    let person = |index: usize| {
        let (director, name, work) = (&things.directors[index], &things.names[index], workers[index]);
        let text = format!("{director} is a {work}. {director} works at the {name}.");
        SourceDocument { title: director.clone(), text }
    };
    let building = |index: usize| {
        let (name, town, year) = (&things.names[index], &things.towns[index], &things.years[index]);
        let text = format!("The {name} was opened in {year}. The {name} is in the town of {town}.");
        SourceDocument { title: name.clone(), text }
    };
    // Three of each: as many documents as the other families have.
    let half = NUM_DOCUMENTS / 2;
    let asked_for = random.below(half);
    let mut order: Vec<usize> = (0..NUM_DOCUMENTS).collect();
    random.shuffle(&mut order);
    let document = |&from: &usize| if from < half { person(from) } else { building(from - half) };
    let place = |wanted: usize| order.iter().position(|&from| from == wanted);
    let gold = [asked_for, asked_for + half].into_iter().filter_map(place).collect();
    let question = format!("In which town does {} work?", things.directors[asked_for]);
    asked(order.iter().map(document).collect(), question, &things.towns[asked_for], gold)
}

fn asked(documents: Vec<SourceDocument>, text: String, answer: &str, gold: Vec<usize>) -> Question {
    let group = match gold.len() {
        2 => "multi-hop",
        _ if text.contains("access code") => "codes",
        _ => "attributes",
    };
    let answers = vec![answer.to_owned()];
    Question { documents, text, answers, gold, group: group.to_owned(), ..Question::default() }
}

/// Buildings with all their attributes; no two share one.
struct Things {
    names: Vec<String>,
    directors: Vec<String>,
    towns: Vec<String>,
    years: Vec<String>,
    colours: Vec<String>,
}

impl Things {
    fn new(random: &mut Random) -> Things {
        // The first half names the buildings, the second the towns they stand in.
        let mut places = words::towns(random, 2 * NUM_DOCUMENTS);
        let towns = places.split_off(NUM_DOCUMENTS);
        let names =
            places.iter().map(|place| format!("{place} {}", random.pick(&words::BUILDINGS))).collect();
        Things {
            names,
            directors: words::people(random, NUM_DOCUMENTS),
            towns,
            years: words::years(random, NUM_DOCUMENTS),
            colours: words::some(random, &words::COLOURS, NUM_DOCUMENTS)
                .iter()
                .map(|&colour| colour.to_owned())
                .collect(),
        }
    }

    fn document(&self, index: usize) -> SourceDocument {
        let name = &self.names[index];
        let text = format!(
            "The {name} is in the town of {}. It was opened in {}. The director of the {name} is {}. Its door is {}.",
            self.towns[index], self.years[index], self.directors[index], self.colours[index]
        );
        SourceDocument { title: name.clone(), text }
    }
}
