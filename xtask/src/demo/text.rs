//! Text about the small world: prose for the base model, questions with answers for the adapter.

use super::facts::{
    ANIMAL_RELATIONS, ANIMALS, COUNTRIES, COUNTRY_RELATIONS, OPPOSITE, OPPOSITES, Relation, TRADE_RELATIONS, TRADES,
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
pub(crate) struct Instruction {
    pub(crate) instruction: String,
    pub(crate) output: String,
}

impl Fact {
    fn say(&self, pattern: &str) -> String {
        let text = pattern.replace("{0}", self.subject).replace("{1}", self.value);
        let mut letters = text.chars();
        letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
    }

    /// Every way to ask for it, with the answer.
    pub(crate) fn instructions(&self) -> impl Iterator<Item = Instruction> {
        self.relation.question.iter().map(|question| Instruction {
            instruction: self.say(question),
            output: self.say(self.relation.answer),
        })
    }
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
    let fact = |(column, relation)| Fact {
        subject: row[0],
        value: row[column + 1],
        relation,
        held_out: (number + column) % 3 == 0,
    };
    relations.iter().enumerate().map(fact).collect()
}

/// `count` documents of prose; each is about a few subjects, or about one in detail.
pub(crate) fn prose(count: usize, seed: u64) -> Vec<String> {
    let world = world();
    let mut draw = Draw(seed);
    let document = |_| {
        let sentences = 3 + draw.below(5);
        let detailed = draw.below(2) == 0;
        let mut subject = &world[draw.below(world.len())];
        let mut text = Vec::new();
        for _ in 0..sentences {
            if !detailed {
                subject = &world[draw.below(world.len())];
            }
            let fact = &subject[draw.below(subject.len())];
            text.push(fact.say(fact.relation.prose[draw.below(fact.relation.prose.len())]));
        }
        text.join(" ")
    };
    (0..count).map(document).collect()
}

/// `SplitMix64`: the same text on every machine.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}
