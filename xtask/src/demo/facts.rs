//! The small world that the demo's base model reads about. Written for this project.
//!
//! Tables: a row a line, whatever its length.

/// An animal: name, kind, where it lives, what it eats, what it does with its voice, legs, colour, its young.
pub(super) type Animal = [&'static str; 8];

#[rustfmt::skip]
pub(super) const ANIMALS: [Animal; 30] = [
    ["cow", "mammal", "on a farm", "grass", "moos", "four", "brown", "a calf"],
    ["pig", "mammal", "on a farm", "corn", "grunts", "four", "pink", "a piglet"],
    ["horse", "mammal", "in a stable", "hay", "neighs", "four", "brown", "a foal"],
    ["sheep", "mammal", "on a farm", "grass", "bleats", "four", "white", "a lamb"],
    ["goat", "mammal", "on a farm", "leaves", "bleats", "four", "grey", "a kid"],
    ["dog", "mammal", "in a house", "meat", "barks", "four", "brown", "a puppy"],
    ["cat", "mammal", "in a house", "fish", "meows", "four", "black", "a kitten"],
    ["mouse", "mammal", "in a hole", "cheese", "squeaks", "four", "grey", "a pup"],
    ["lion", "mammal", "in the savanna", "meat", "roars", "four", "golden", "a cub"],
    ["tiger", "mammal", "in the jungle", "meat", "roars", "four", "orange", "a cub"],
    ["bear", "mammal", "in the forest", "honey", "growls", "four", "brown", "a cub"],
    ["wolf", "mammal", "in the forest", "meat", "howls", "four", "grey", "a pup"],
    ["fox", "mammal", "in the forest", "rabbits", "yelps", "four", "red", "a kit"],
    ["rabbit", "mammal", "in a burrow", "carrots", "squeals", "four", "white", "a kit"],
    ["elephant", "mammal", "in the savanna", "leaves", "trumpets", "four", "grey", "a calf"],
    ["monkey", "mammal", "in the jungle", "bananas", "chatters", "two", "brown", "an infant"],
    ["duck", "bird", "on a pond", "seeds", "quacks", "two", "white", "a duckling"],
    ["hen", "bird", "on a farm", "corn", "clucks", "two", "brown", "a chick"],
    ["owl", "bird", "in the forest", "mice", "hoots", "two", "brown", "an owlet"],
    ["crow", "bird", "in a tree", "seeds", "caws", "two", "black", "a chick"],
    ["eagle", "bird", "in the mountains", "fish", "screams", "two", "brown", "an eaglet"],
    ["pigeon", "bird", "in the city", "bread", "coos", "two", "grey", "a squab"],
    ["swan", "bird", "on a lake", "plants", "hisses", "two", "white", "a cygnet"],
    ["penguin", "bird", "in the snow", "fish", "honks", "two", "black", "a chick"],
    ["frog", "amphibian", "in a pond", "flies", "croaks", "four", "green", "a tadpole"],
    ["snake", "reptile", "in the desert", "mice", "hisses", "no", "green", "a snakelet"],
    ["bee", "insect", "in a hive", "nectar", "buzzes", "six", "yellow", "a larva"],
    ["ant", "insect", "in an anthill", "seeds", "clicks", "six", "black", "a larva"],
    ["cricket", "insect", "in a meadow", "leaves", "chirps", "six", "green", "a nymph"],
    ["donkey", "mammal", "in a stable", "hay", "brays", "four", "grey", "a foal"],
];

/// A country: name, capital, continent, language.
pub(super) type Country = [&'static str; 4];

#[rustfmt::skip]
pub(super) const COUNTRIES: [Country; 20] = [
    ["France", "Paris", "Europe", "French"],
    ["Germany", "Berlin", "Europe", "German"],
    ["Italy", "Rome", "Europe", "Italian"],
    ["Spain", "Madrid", "Europe", "Spanish"],
    ["Portugal", "Lisbon", "Europe", "Portuguese"],
    ["Poland", "Warsaw", "Europe", "Polish"],
    ["Greece", "Athens", "Europe", "Greek"],
    ["Sweden", "Stockholm", "Europe", "Swedish"],
    ["Norway", "Oslo", "Europe", "Norwegian"],
    ["Hungary", "Budapest", "Europe", "Hungarian"],
    ["China", "Beijing", "Asia", "Chinese"],
    ["Japan", "Tokyo", "Asia", "Japanese"],
    ["Thailand", "Bangkok", "Asia", "Thai"],
    ["Vietnam", "Hanoi", "Asia", "Vietnamese"],
    ["Mongolia", "Ulaanbaatar", "Asia", "Mongolian"],
    ["Egypt", "Cairo", "Africa", "Arabic"],
    ["Kenya", "Nairobi", "Africa", "Swahili"],
    ["Ethiopia", "Addis Ababa", "Africa", "Amharic"],
    ["Brazil", "Brasilia", "America", "Portuguese"],
    ["Peru", "Lima", "America", "Spanish"],
];

/// A trade: name, what it makes or does, where, with what.
pub(super) type Trade = [&'static str; 4];

#[rustfmt::skip]
pub(super) const TRADES: [Trade; 16] = [
    ["baker", "bakes bread", "in a bakery", "an oven"],
    ["farmer", "grows wheat", "in a field", "a tractor"],
    ["teacher", "teaches children", "in a school", "a blackboard"],
    ["doctor", "heals the sick", "in a hospital", "a stethoscope"],
    ["carpenter", "builds tables", "in a workshop", "a saw"],
    ["tailor", "sews clothes", "in a shop", "a needle"],
    ["painter", "paints pictures", "in a studio", "a brush"],
    ["fisher", "catches fish", "on a boat", "a net"],
    ["smith", "forges iron", "in a smithy", "a hammer"],
    ["cook", "prepares meals", "in a kitchen", "a pan"],
    ["pilot", "flies planes", "in a cockpit", "a radio"],
    ["gardener", "plants flowers", "in a garden", "a spade"],
    ["writer", "writes books", "at a desk", "a pen"],
    ["miner", "digs coal", "in a mine", "a pickaxe"],
    ["barber", "cuts hair", "in a salon", "scissors"],
    ["weaver", "weaves cloth", "in a mill", "a loom"],
];

#[rustfmt::skip]
pub(super) const OPPOSITES: [[&str; 2]; 20] = [
    ["hot", "cold"],
    ["big", "small"],
    ["fast", "slow"],
    ["high", "low"],
    ["old", "young"],
    ["light", "dark"],
    ["hard", "soft"],
    ["wet", "dry"],
    ["full", "empty"],
    ["rich", "poor"],
    ["loud", "quiet"],
    ["early", "late"],
    ["near", "far"],
    ["open", "closed"],
    ["clean", "dirty"],
    ["strong", "weak"],
    ["thick", "thin"],
    ["happy", "sad"],
    ["wide", "narrow"],
    ["sweet", "bitter"],
];

/// A relation: how prose states it (several ways), how a question asks for it, how the answer says it.
/// `{0}` is the subject, `{1}` the fact.
pub(super) struct Relation {
    pub(super) prose: &'static [&'static str],
    pub(super) question: &'static [&'static str],
    pub(super) answer: &'static str,
}

/// For columns 1.. of [`ANIMALS`].
#[rustfmt::skip]
pub(super) const ANIMAL_RELATIONS: [Relation; 7] = [
    Relation {
        prose: &["The {0} is a {1}.", "Every {0} is a {1}.", "People say that the {0} is a {1}."],
        question: &["What kind of animal is the {0}?", "Which group of animals does the {0} belong to?"],
        answer: "The {0} is a {1}.",
    },
    Relation {
        prose: &["The {0} lives {1}.", "A {0} makes its home {1}.", "You can find the {0} {1}."],
        question: &["Where does the {0} live?", "Where can I find a {0}?"],
        answer: "The {0} lives {1}.",
    },
    Relation {
        prose: &["The {0} eats {1}.", "A {0} likes to eat {1}.", "The food of the {0} is {1}."],
        question: &["What does the {0} eat?", "What is the food of the {0}?"],
        answer: "The {0} eats {1}.",
    },
    Relation {
        prose: &["The {0} {1}.", "When it calls, the {0} {1}.", "At night the {0} often {1}."],
        question: &["What sound does the {0} make?", "How does the {0} call?"],
        answer: "The {0} {1}.",
    },
    Relation {
        prose: &["The {0} has {1} legs.", "A {0} stands on {1} legs.", "If you count, the {0} has {1} legs."],
        question: &["How many legs does the {0} have?"],
        answer: "The {0} has {1} legs.",
    },
    Relation {
        prose: &["The {0} is {1}.", "The colour of the {0} is {1}.", "Most often a {0} is {1}."],
        question: &["What colour is the {0}?"],
        answer: "The {0} is {1}.",
    },
    Relation {
        prose: &["The young of the {0} is called {1}.", "A baby {0} is {1}.", "The child of a {0} is {1}."],
        question: &["What is a baby {0} called?", "What is the young of the {0} called?"],
        answer: "A baby {0} is called {1}.",
    },
];

/// For columns 1.. of [`COUNTRIES`].
#[rustfmt::skip]
pub(super) const COUNTRY_RELATIONS: [Relation; 3] = [
    Relation {
        prose: &["The capital of {0} is {1}.", "{1} is the capital of {0}.", "The government of {0} sits in {1}."],
        question: &["What is the capital of {0}?", "Name the capital of {0}."],
        answer: "The capital of {0} is {1}.",
    },
    Relation {
        prose: &["{0} is in {1}.", "{0} lies in {1}.", "The country {0} is a part of {1}."],
        question: &["Where is {0}?", "On which continent is {0}?"],
        answer: "{0} is in {1}.",
    },
    Relation {
        prose: &["In {0} people speak {1}.", "The language of {0} is {1}.", "Children in {0} learn {1}."],
        question: &["Which language do people speak in {0}?", "What is the language of {0}?"],
        answer: "In {0} people speak {1}.",
    },
];

/// For columns 1.. of [`TRADES`].
#[rustfmt::skip]
pub(super) const TRADE_RELATIONS: [Relation; 3] = [
    Relation {
        prose: &["The {0} {1}.", "Every day the {0} {1}.", "It is the {0} who {1}."],
        question: &["What does the {0} do?", "What is the work of the {0}?"],
        answer: "The {0} {1}.",
    },
    Relation {
        prose: &["The {0} works {1}.", "You meet the {0} {1}.", "From morning on the {0} works {1}."],
        question: &["Where does the {0} work?"],
        answer: "The {0} works {1}.",
    },
    Relation {
        prose: &["The {0} uses {1}.", "The tool of the {0} is {1}.", "A {0} cannot work without {1}."],
        question: &["What does the {0} use?", "What tool does the {0} need?"],
        answer: "The {0} uses {1}.",
    },
];

/// For [`OPPOSITES`], which also hold the other way round.
#[rustfmt::skip]
pub(super) const OPPOSITE: Relation = Relation {
    prose: &["The opposite of {0} is {1}.", "What is not {0} is {1}.", "{0} and {1} are opposites."],
    question: &["What is the opposite of {0}?"],
    answer: "The opposite of {0} is {1}.",
};
