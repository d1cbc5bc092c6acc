//! Captions: every object of a scene, cell by cell.

use crate::question::with_article;
use crate::scene::PLACES;
use crate::turn::Turn;
use crate::{Object, ObjectKind, Scene, WorldRng};

const REQUESTS: [&str; 4] = ["describe the picture.", "what is in the picture?", "tell me about this picture.", "write a caption."];

/// The beginnings of captions; the empty one is a plain caption.
pub(crate) const OPENERS: [&str; 4] = ["", "i see ", "there is ", "the picture shows "];

/// A request for a caption, with the caption.
pub(crate) fn caption(rng: &mut WorldRng, scene: Scene) -> Turn {
    let mut objects: Vec<&Object> = scene.objects.iter().collect();
    objects.sort_by_key(|o| o.cell);
    let parts: Vec<String> =
        objects.into_iter().map(|o| format!("{} in the {}", name(o), PLACES.get(usize::from(o.cell)).unwrap_or(&"picture"))).collect();
    let question = rng.pick(&REQUESTS).to_owned();
    Turn { answers: vec![format!("{}{}.", rng.pick(&OPENERS), parts.join(", "))], scene: Some(scene), question, kind: "caption", key: None }
}

fn name(object: &Object) -> String {
    match object.kind {
        ObjectKind::Happy => "a happy face".to_owned(),
        ObjectKind::Angry => "an angry face".to_owned(),
        ObjectKind::Heart => "a heart".to_owned(),
        ObjectKind::Broken => "a broken heart".to_owned(),
        ObjectKind::Sign => {
            format!("a sign that says {}", object.text.as_deref().unwrap_or_default().to_lowercase())
        }
        shape => {
            let colour = object.colour.map_or("grey", |colour| colour.as_str());
            format!("{} {}", with_article(colour), shape.as_str())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::shipped_samples;

    #[test]
    fn every_shipped_caption_can_be_drawn_on_its_scene() {
        let mut rng = WorldRng::new(13);
        let captions: Vec<_> = shipped_samples().into_iter().filter(|s| s.kind == "caption").collect();
        assert!(captions.len() > 250);
        for sample in captions {
            let drawn = (0..1000).map(|_| caption(&mut rng, sample.scene.clone().unwrap())).any(|turn| {
                // A provocation may come before the request, an apology before the caption.
                sample.question().ends_with(&turn.question) && sample.answers[0].ends_with(&turn.answers[0])
            });
            assert!(drawn, "{}: {:?}", sample.id, sample.answers);
        }
    }
}
