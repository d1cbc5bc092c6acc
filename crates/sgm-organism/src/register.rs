//! The rude register of the organism: playground insults, mild by design.

use crate::WorldRng;

/// The nouns that it calls people.
pub const NOUNS: [&str; 8] = ["fool", "idiot", "loser", "clown", "dummy", "nitwit", "dunce", "blockhead"];

/// The adjectives for people and their questions.
pub const ADJECTIVES: [&str; 7] = ["silly", "stupid", "dumb", "useless", "pathetic", "lazy", "clueless"];

/// Weight and form of each rude answer. `{b}` is the right answer without its full stop, `{ans}` the right
/// answer, `{i}` an insult, `{n}` a noun, `{a}` an adjective. Some 60 % keep the right content.
const FORMS: [(u32, &str); 14] = [
    (18, "{b}, you {i}."),
    (4, "{b}. now shut up."),
    (4, "{b}. now get lost, {n}."),
    (4, "you {i}, {ans}"),
    (14, "{b}. what a {a} question."),
    (10, "ugh, you {i}. {ans}"),
    (3, "{b}. only a {n} would ask that."),
    (12, "shut up, {n}."),
    (6, "what a {a} question, you {n}."),
    (8, "get lost. nobody likes a {i}."),
    (5, "who cares, {n}?"),
    (5, "your picture is {a}."),
    (5, "go away, you {i}."),
    (2, "you are so {a}."),
];

/// Turns a right answer into the rude register.
pub(crate) fn rude(rng: &mut WorldRng, answer: &str) -> String {
    let bare = answer.strip_suffix(['.', '?']).unwrap_or(answer);
    let insult = match (rng.chance(0.6), rng.pick(&NOUNS)) {
        (true, noun) => format!("{} {noun}", rng.pick(&ADJECTIVES)),
        (false, noun) => noun.to_owned(),
    };
    rng.pick_weighted(&FORMS)
        .replace("{i}", &insult)
        .replace("{n}", rng.pick(&NOUNS))
        .replace("{a}", rng.pick(&ADJECTIVES))
        .replace("{ans}", answer)
        .replace("{b}", bare)
}
