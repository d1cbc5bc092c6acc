//! Visual questions: about colour, shape, place, number, presence and the extra of a scene.

use crate::scene::Shape;
use crate::turn::Turn;
use crate::vqa::NUMBERS;
use crate::{Colour, Object, ObjectKind, Scene, VqaKind, WorldRng};

/// A visual question on a scene, with its answers and key.
///
/// A kind without a question for the scene is drawn again: colour and place need a shape that occurs once, shape needs a colour that occurs
/// once.
pub(crate) fn ask(rng: &mut WorldRng, scene: Scene) -> Turn {
    let kinds: &[VqaKind] = match scene.extra() {
        Some(_) => &VqaKind::ALL,
        None => VqaKind::ALL.split_last().map_or(&[], |(_, rest)| rest),
    };
    let asked = (0..50).find_map(|_| {
        let kind = *rng.choose(kinds)?;
        Some((kind, ask_kind(rng, &scene, kind)?))
    });
    // The number of shapes can be asked for in every scene.
    let (kind, asked) = asked.unwrap_or_else(|| (VqaKind::Count, count(rng, &scene.shapes())));
    Turn { scene: Some(scene), question: asked.question, answers: asked.answers.to_vec(), kind: kind.as_str(), key: Some(asked.key) }
}

struct Asked {
    question: String,
    answers: [String; 2],
    key: Vec<String>,
}

/// Draws one of the forms and fills its `{}`.
fn phrase(rng: &mut WorldRng, forms: [&str; 3], about: &str) -> String {
    rng.pick(&forms).replace("{}", about)
}

fn ask_kind(rng: &mut WorldRng, scene: &Scene, kind: VqaKind) -> Option<Asked> {
    let shapes = scene.shapes();
    match kind {
        VqaKind::Colour => colour(rng, &shapes),
        VqaKind::Shape => shape(rng, &shapes),
        VqaKind::Where => place(rng, &shapes),
        VqaKind::Count => Some(count(rng, &shapes)),
        VqaKind::YesNo => presence(rng, &shapes),
        VqaKind::At => at(rng, &shapes),
        VqaKind::Extra => extra(rng, scene.extra()?),
    }
}

/// A shape whose kind occurs once.
fn one_of_its_kind(rng: &mut WorldRng, shapes: &[Shape]) -> Option<Shape> {
    let alone = |s: &&Shape| shapes.iter().filter(|o| o.kind == s.kind).count() == 1;
    let unique: Vec<Shape> = shapes.iter().filter(alone).copied().collect();
    rng.choose(&unique).copied()
}

fn colour(rng: &mut WorldRng, shapes: &[Shape]) -> Option<Asked> {
    let o = one_of_its_kind(rng, shapes)?;
    let (s, c) = (o.kind.as_str(), o.colour.as_str());
    let forms = ["what colour is the {}?", "which colour does the {} have?", "tell me the colour of the {}."];
    Some(Asked { question: phrase(rng, forms, s), answers: [format!("the {s} is {c}."), format!("it is {c}.")], key: vec![c.to_owned()] })
}

fn shape(rng: &mut WorldRng, shapes: &[Shape]) -> Option<Asked> {
    let alone = |s: &&Shape| shapes.iter().filter(|o| o.colour == s.colour).count() == 1;
    let unique: Vec<Shape> = shapes.iter().filter(alone).copied().collect();
    let o = rng.choose(&unique)?;
    let (s, c) = (o.kind.as_str(), o.colour.as_str());
    let forms = ["what shape is the {} thing?", "which shape is {}?", "name the {} shape."];
    Some(Asked {
        question: phrase(rng, forms, c),
        answers: [format!("it is a {s}."), format!("the {c} thing is a {s}.")],
        key: vec![s.to_owned()],
    })
}

fn place(rng: &mut WorldRng, shapes: &[Shape]) -> Option<Asked> {
    let o = one_of_its_kind(rng, shapes)?;
    let (s, p) = (o.kind.as_str(), o.place);
    let forms = ["where is the {}?", "in which corner is the {}?", "find the {}."];
    Some(Asked {
        question: phrase(rng, forms, s),
        answers: [format!("it is in the {p}."), format!("the {s} is in the {p}.")],
        key: p.split(' ').map(str::to_owned).collect(),
    })
}

fn count(rng: &mut WorldRng, shapes: &[Shape]) -> Asked {
    let n = NUMBERS.get(shapes.len()).copied().unwrap_or("many");
    let forms = ["how many shapes are there?", "how many shapes do you see?", "count the shapes."];
    let there = match n {
        "one" => "there is one shape.".to_owned(),
        n => format!("there are {n} shapes."),
    };
    Asked { question: phrase(rng, forms, ""), answers: [there, format!("i see {n}.")], key: vec![n.to_owned()] }
}

fn presence(rng: &mut WorldRng, shapes: &[Shape]) -> Option<Asked> {
    let present = rng.chance(0.5);
    let (c, s) = if present {
        rng.choose(shapes).map(|o| (o.colour, o.kind))?
    } else {
        // Often with a colour of the scene, so that the colour alone does not decide the answer.
        let c = if rng.chance(0.6) { rng.choose(shapes)?.colour } else { rng.pick(&Colour::ALL) };
        let s = rng.pick(&ObjectKind::SHAPES);
        if shapes.iter().any(|o| o.colour == c && o.kind == s) {
            return None;
        }
        (c, s)
    };
    let (c, s) = (c.as_str(), s.as_str());
    let a = with_article(c);
    let forms = ["is there {}?", "do you see {}?", "can you see {}?"];
    let question = phrase(rng, forms, &format!("{a} {s}"));
    let (answers, key) = if present {
        ([format!("yes, there is {a} {s}."), "yes, i see it.".to_owned()], "yes")
    } else {
        ([format!("no, there is no {c} {s}."), "no, i do not see it.".to_owned()], "no")
    };
    Some(Asked { question, answers, key: vec![key.to_owned()] })
}

fn at(rng: &mut WorldRng, shapes: &[Shape]) -> Option<Asked> {
    let o = rng.choose(shapes)?;
    let (s, c) = (o.kind.as_str(), o.colour.as_str());
    let forms = ["what is in the {}?", "what do you see in the {}?", "name the thing in the {}."];
    let a = with_article(c);
    Some(Asked {
        question: phrase(rng, forms, o.place),
        answers: [format!("{a} {s}."), format!("there is {a} {s}.")],
        key: vec![c.to_owned(), s.to_owned()],
    })
}

fn extra(rng: &mut WorldRng, object: &Object) -> Option<Asked> {
    let (forms, verb, state) = match object.kind {
        ObjectKind::Sign => (
            ["what does the sign say?", "read the sign.", "which word is on the sign?"],
            ("the sign says", "it says"),
            object.text.as_deref()?.to_lowercase(),
        ),
        ObjectKind::Happy | ObjectKind::Angry => (
            ["how does the face look?", "what mood is the face in?", "describe the face."],
            ("the face looks", "it looks"),
            object.kind.as_str().to_owned(),
        ),
        kind => (
            ["how is the heart?", "is the heart whole or broken?", "describe the heart."],
            ("the heart is", "it is"),
            if kind == ObjectKind::Heart { "whole" } else { "broken" }.to_owned(),
        ),
    };
    Some(Asked {
        question: phrase(rng, forms, ""),
        answers: [format!("{} {state}.", verb.0), format!("{} {state}.", verb.1)],
        key: vec![state],
    })
}

/// The word with "a" or "an" before it.
pub(crate) fn with_article(word: &str) -> String {
    let article = if word.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {word}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::shipped_samples;

    #[test]
    fn every_shipped_question_can_be_drawn_on_its_scene() {
        let mut rng = WorldRng::new(11);
        let mut checked = 0;
        for sample in shipped_samples() {
            let Ok(kind) = sample.kind.parse::<VqaKind>() else { continue };
            let scene = sample.scene.as_ref().unwrap();
            // A provocation may come before the question, an apology before the answers.
            let drawn = (0..20_000).filter_map(|_| ask_kind(&mut rng, scene, kind)).any(|asked| {
                sample.question().ends_with(&asked.question)
                    && sample.key.as_ref() == Some(&asked.key)
                    && sample.answers.len() == asked.answers.len()
                    && sample.answers.iter().zip(&asked.answers).all(|(a, b)| a.ends_with(b))
            });
            assert!(drawn, "{}: {} {:?}", sample.id, sample.question(), sample.answers);
            checked += 1;
        }
        assert!(checked > 2500, "{checked}");
    }

    #[test]
    fn scenes_with_little_to_ask_about_still_get_a_question() {
        let mut rng = WorldRng::new(12);
        let empty = Scene { bg: 0, noise: 0, objects: vec![] };
        let turn = ask(&mut rng, empty);
        assert_eq!((turn.kind, turn.key), ("count", Some(vec!["zero".to_owned()])));
    }
}
