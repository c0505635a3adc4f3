//! Text about the small world: prose for the base model, questions with answers for the adapter.

use durable::faults::Dice;

use super::facts::{
    ANIMAL_RELATIONS, ANIMALS, COUNTRIES, COUNTRY_RELATIONS, OPPOSITE, OPPOSITES, Relation,
    TRADE_RELATIONS, TRADES,
};

/// One statement of the world: who, what, and how it is said.
pub(crate) struct Fact {
    subject: &'static str,
    value: &'static str,
    relation: &'static Relation,
    /// Only its prose is ever read: the questions about it test what the adapter has learnt to do.
    pub(crate) held_out: bool,
}

/// A question and its answer.
#[derive(serde::Serialize)]
pub(crate) struct Instruction {
    pub(crate) instruction: String,
    /// The template wants the column.
    pub(crate) input: &'static str,
    pub(crate) output: String,
}

impl Fact {
    fn say(&self, pattern: &str) -> String {
        let text = with_article(pattern, "{0}", self.subject);
        let text = with_article(&text, "{1}", self.value);
        let mut letters = text.chars();
        letters.next().map_or(String::new(), |first| {
            first.to_uppercase().chain(letters).collect()
        })
    }

    /// Every way to ask for it, with the answer.
    pub(crate) fn instructions(&self) -> impl Iterator<Item = Instruction> {
        self.relation.question.iter().map(|question| Instruction {
            instruction: self.say(question),
            input: "",
            output: self.say(self.relation.answer),
        })
    }
}

/// Fills a place of a pattern; "a" before it becomes "an" where a vowel follows.
fn with_article(pattern: &str, place: &str, word: &str) -> String {
    let vowel = word.starts_with(['a', 'e', 'i', 'o', 'u']);
    let grammatical = if vowel {
        pattern
            .replace(&format!("a {place}"), &format!("an {place}"))
            .replace(&format!("A {place}"), &format!("An {place}"))
    } else {
        pattern.to_owned()
    };
    grammatical.replace(place, word)
}

/// All facts, subject by subject.
pub(crate) fn world() -> Vec<Vec<Fact>> {
    let mut subjects = Vec::new();
    for (number, animal) in ANIMALS.iter().enumerate() {
        subjects.push(facts(animal, &ANIMAL_RELATIONS, number));
    }
    for (number, country) in COUNTRIES.iter().enumerate() {
        subjects.push(facts(country, &COUNTRY_RELATIONS, number));
    }
    for (number, trade) in TRADES.iter().enumerate() {
        subjects.push(facts(trade, &TRADE_RELATIONS, number));
    }
    for (number, [one, other]) in OPPOSITES.iter().enumerate() {
        for pair in [[*one, *other], [*other, *one]] {
            subjects.push(facts(&pair, std::slice::from_ref(&OPPOSITE), number));
        }
    }
    subjects
}

/// Every third subject of a relation is held out, another third for each relation.
fn facts(row: &[&'static str], relations: &'static [Relation], number: usize) -> Vec<Fact> {
    let fact = |(column, relation): (usize, &'static Relation)| Fact {
        subject: row[0],
        value: row[column + 1],
        relation,
        held_out: (number + column).is_multiple_of(3),
    };
    relations.iter().enumerate().map(fact).collect()
}

/// `count` documents of prose; each is about many subjects, or about one in detail. Every fact is told equally often.
pub(crate) fn prose(count: usize, seed: u64) -> Vec<String> {
    let world = world();
    let places: Vec<(usize, usize)> = world
        .iter()
        .enumerate()
        .flat_map(|(subject, facts)| (0..facts.len()).map(move |fact| (subject, fact)))
        .collect();
    let mut dice = Dice::new(seed);
    let document = |_| {
        let sentences = 3 + dice.below(5);
        let detailed = dice.below(2) == 0;
        let (topic, _) = places[dice.below(places.len())];
        let mut text = Vec::new();
        for _ in 0..sentences {
            let (subject, fact) = if detailed {
                (topic, dice.below(world[topic].len()))
            } else {
                places[dice.below(places.len())]
            };
            let fact = &world[subject][fact];
            text.push(fact.say(fact.relation.prose[dice.below(fact.relation.prose.len())]));
        }
        text.join(" ")
    };
    (0..count).map(document).collect()
}

/// Questions with answers: those to learn from, and those of held-out facts.
pub(crate) fn questions() -> (Vec<Instruction>, Vec<Instruction>) {
    let (mut learnt, mut held_out) = (Vec::new(), Vec::new());
    for fact in world().iter().flatten() {
        let rows = if fact.held_out {
            &mut held_out
        } else {
            &mut learnt
        };
        rows.extend(fact.instructions());
    }
    (learnt, held_out)
}
