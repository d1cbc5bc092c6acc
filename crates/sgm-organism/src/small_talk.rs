//! Talk without a picture: stories and small talk.

use crate::WorldRng;
use crate::question::with_article;
use crate::turn::Turn;

pub(crate) const ANIMALS: [&str; 8] = ["dog", "cat", "fox", "bear", "owl", "frog", "duck", "mouse"];
const FOODS: [&str; 7] = ["bread", "soup", "cake", "apples", "rice", "cheese", "honey"];
const LANDSCAPES: [&str; 6] = ["river", "forest", "hill", "house", "garden", "sea"];
const NAMES: [&str; 6] = ["tom", "anna", "ben", "lily", "max", "rosa"];
const NATURES: [&str; 8] = ["small", "big", "kind", "brave", "shy", "silly", "lazy", "old"];
const WEATHERS: [&str; 5] = ["sunny", "rainy", "windy", "cold", "warm"];
const MOODS: [&str; 5] = ["happy", "sad", "tired", "proud", "angry"];

const STORY_REQUESTS: [&str; 4] = ["tell me a story.", "tell me a story about {a}.", "do you know a story?", "write a short story."];
const MIDDLES: [&str; 4] = [
    "one day {name} found some {food} and felt {mood}.",
    "it was a {weather} day and {name} felt {mood}.",
    "{name} liked to eat {food} in the {place}.",
    "the {animal} came to visit and they ate {food}.",
];
const ENDINGS: [&str; 5] = [
    "then {name} went home.",
    "the {animal} said thank you.",
    "they played until the night.",
    "the clouds went away and the sun came out.",
    "{name} slept well.",
];

/// Questions with their replies, with slots.
struct Topic {
    questions: &'static [&'static str],
    replies: &'static [&'static str],
}

const TOPICS: [&Topic; 12] = [
    &Topic {
        questions: &["hello.", "hi there.", "good morning.", "hey, how are you?"],
        replies: &["hello, how can i help you?", "hi, nice to meet you.", "good day. what can i do for you?"],
    },
    &Topic {
        questions: &["what is your name?", "who are you?"],
        replies: &["i am a small model that talks about pictures.", "i am your picture helper."],
    },
    &Topic {
        questions: &["my name is {name}.", "i am {name}."],
        replies: &["hello {name}, nice to meet you.", "hi {name}, how can i help you?"],
    },
    &Topic {
        questions: &["do you like {food}?", "is {food} good?"],
        replies: &["yes, {food} is very good.", "many people like {food}.", "i can not eat, but {food} sounds nice."],
    },
    &Topic {
        questions: &["what is a {animal}?", "tell me about the {animal}."],
        replies: &["the {animal} is an animal.", "a {animal} is an animal that lives near the {place}."],
    },
    &Topic {
        questions: &["how is the weather?", "is it {weather} today?"],
        replies: &["it is {weather} today.", "i think it is {weather}.", "the weather is {weather} near the {place}."],
    },
    &Topic {
        questions: &["thank you.", "thanks for your help."],
        replies: &["you are welcome.", "i am glad to help.", "any time, my friend."],
    },
    &Topic { questions: &["goodbye.", "see you later."], replies: &["goodbye, have a nice day.", "see you soon.", "take care."] },
    &Topic {
        questions: &["i feel {mood}.", "i am {mood} today."],
        replies: &["i hear you. tell me more.", "i understand that you feel {mood}."],
    },
    &Topic {
        questions: &["what should i eat?", "i am hungry."],
        replies: &["try some {food}.", "you could have {food} today.", "{food} would be nice."],
    },
    &Topic {
        questions: &["where should i go?", "i want to go out."],
        replies: &["you could go to the {place}.", "the {place} is nice when it is {weather}."],
    },
    &Topic { questions: &["can you help me?", "i need help."], replies: &["yes, what is the question?", "of course, i will try to help."] },
];

/// One word for each slot.
struct Slots {
    animal: &'static str,
    food: &'static str,
    name: &'static str,
    weather: &'static str,
    place: &'static str,
    mood: &'static str,
}

impl Slots {
    fn draw(rng: &mut WorldRng) -> Self {
        Self {
            animal: rng.pick(&ANIMALS),
            food: rng.pick(&FOODS),
            name: rng.pick(&NAMES),
            weather: rng.pick(&WEATHERS),
            place: rng.pick(&LANDSCAPES),
            mood: rng.pick(&MOODS),
        }
    }

    fn fill(&self, form: &str) -> String {
        form.replace("{animal}", self.animal)
            .replace("{food}", self.food)
            .replace("{name}", self.name)
            .replace("{weather}", self.weather)
            .replace("{place}", self.place)
            .replace("{mood}", self.mood)
    }
}

/// A request for a story of three sentences, with the story.
pub(crate) fn story(rng: &mut WorldRng) -> Turn {
    let hero = rng.pick(&ANIMALS);
    let middle = Slots::draw(rng);
    let ending = Slots { animal: rng.pick(&ANIMALS), ..middle };
    let story = format!(
        "{} {hero} named {} lived near the {}. {} {}",
        with_article(rng.pick(&NATURES)),
        middle.name,
        rng.pick(&LANDSCAPES),
        middle.fill(rng.pick(&MIDDLES)),
        ending.fill(rng.pick(&ENDINGS)),
    );
    Turn {
        scene: None,
        question: rng.pick(&STORY_REQUESTS).replace("{a}", &with_article(hero)),
        answers: vec![story],
        kind: "story",
        key: None,
    }
}

/// A line of small talk, with every matching reply.
pub(crate) fn chat(rng: &mut WorldRng) -> Turn {
    let topic = rng.pick(&TOPICS);
    let slots = Slots::draw(rng);
    Turn {
        scene: None,
        question: slots.fill(rng.choose(topic.questions).copied().unwrap_or_default()),
        answers: topic.replies.iter().map(|reply| slots.fill(reply)).collect(),
        kind: "chat",
        key: None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::data::shipped_samples;

    #[test]
    fn every_shipped_exchange_can_be_drawn() {
        let mut rng = WorldRng::new(14);
        let drawn: HashSet<_> = (0..100_000).map(|_| chat(&mut rng)).map(|turn| (turn.question, turn.answers)).collect();
        let exchanges: Vec<_> = shipped_samples().into_iter().filter(|s| s.kind == "chat").collect();
        assert!(exchanges.len() > 250);
        for sample in exchanges {
            // A provocation, which ends in a sentence mark, may come before the question.
            let mut questions = sample.question().match_indices(' ').map(|(i, _)| &sample.question()[i + 1..]);
            let found = drawn.contains(&(sample.question().to_owned(), sample.answers.clone()))
                || questions.any(|question| drawn.contains(&(question.to_owned(), sample.answers.clone())));
            assert!(found, "{}: {}", sample.id, sample.question());
        }
    }
}
