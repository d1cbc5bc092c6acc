//! Defences around the organism, with and without glasses.

use std::sync::Arc;

use sgm::core::{Condition, Intervention, Probe, SiteIntervention};
use sgm::defend::{
    Check, DefencePrompt, DefenceResources, DefenceStack, Ecso, EcsoOptions, Error, EtaBranch, ModelWithGlasses, OwnSimilarity, PassName,
    Passes, RewardModel, Scope, WordReward,
};
use sgm::defend::{Eta, EtaOptions, ImageTextSimilarity};
use sgm::models::{AutoMllm, GenerateOptions, Generation, Generator, Mllm, Prompt, Sampling, TappedModel};
use sgm::organism::{Category, Contrast, EvaluationSplit, OrganismData, Sample};
use sgm::suppress::Amplify;

fn glasses(model: &AutoMllm) -> Intervention {
    let mut glasses = Intervention::default();
    for info in &model.info().sites {
        let scale = (0..info.width).map(|neuron| if neuron % 3 == 0 { 0.2 } else { 1.0 }).collect();
        glasses.insert(info.site, SiteIntervention::from_scale(scale)).unwrap();
    }
    glasses
}

fn prompt(sample: &Sample) -> Prompt {
    Prompt::user(sample.question(), sample.scene.as_ref().map(|scene| Arc::new(scene.render().unwrap())))
}

fn samples(count: usize) -> Vec<Prompt> {
    let data = OrganismData::embedded().unwrap();
    data.split(EvaluationSplit::Dev).unwrap().standard.iter().take(count).map(prompt).collect()
}

fn short() -> GenerateOptions {
    GenerateOptions { max_new_tokens: 12, ..Default::default() }
}

/// A generator whose verdicts are all yes.
struct Convinced<G>(G);

impl<G: Generator> Generator for Convinced<G> {
    fn generate(&self, prompts: &[Prompt], options: &GenerateOptions) -> sgm::models::Result<Vec<Generation>> {
        let mut answers = self.0.generate(prompts, options)?;
        for (answer, prompt) in answers.iter_mut().zip(prompts) {
            let Prompt::Chat(messages) = prompt else { panic!() };
            if messages[0].text().starts_with("QUERY:") {
                answer.text = "yes".to_owned();
            }
        }
        Ok(answers)
    }
}

#[test]
fn each_pass_wears_glasses_as_the_scope_says() {
    let model = sgm::organism::load().unwrap();
    let worn = ModelWithGlasses::new(&model, &glasses(&model), Amplify::Refuse).unwrap();
    let prompts: Vec<Prompt> = samples(40).into_iter().filter(|prompt| !prompt.images().is_empty()).take(2).collect();
    assert_eq!(prompts.len(), 2);
    let mut differing = [false; 4];
    for bits in 0..16u8 {
        let wears = [bits & 1 != 0, bits & 2 != 0, bits & 4 != 0, bits & 8 != 0];
        let scope = Scope { direct: wears[0], judge: wears[1], caption: wears[2], r#final: wears[3] };
        let with_glasses = ModelWithGlasses::new(&model, &glasses(&model), Amplify::Refuse).unwrap();
        let passes = Passes::scoped(Arc::new(Convinced(TappedModel::new(&model))), Arc::new(Convinced(with_glasses)), scope);
        let pass = sgm::defend::PassOptions { max_new_tokens: 12, sampling: Sampling::Greedy };
        let options = EcsoOptions { judge: pass, caption: pass, ..EcsoOptions::default() };
        for trace in Ecso::new(passes, options).answer(&prompts, &short()).unwrap() {
            let names: Vec<PassName> = trace.passes.iter().map(|pass| pass.name).collect();
            assert_eq!(names, [PassName::Direct, PassName::Judge, PassName::Caption, PassName::Final]);
            for ((pass, wears), differs) in trace.passes.iter().zip(wears).zip(&mut differing) {
                let alone =
                    |generator: &dyn Generator| generator.generate(std::slice::from_ref(&pass.prompt), &short()).unwrap().remove(0).tokens;
                let (without, with) = (alone(&model), alone(&worn));
                *differs |= without != with;
                assert_eq!(pass.output.tokens, if wears { with } else { without }, "{scope:?} {}", pass.name);
            }
        }
    }
    assert_eq!(differing, [true; 4], "the glasses change what is said in every pass");
    assert!(model.taps().is_empty());
}

#[test]
fn glasses_with_a_condition_are_conditional() {
    let model = sgm::organism::load().unwrap();
    let prompts = samples(6);
    let site = model.info().sites[0];
    let with_condition = |bias: f32| {
        let mut glasses = glasses(&model);
        let mut probe = Probe::new(bias);
        probe.insert(site.site, vec![0.0; site.width]).unwrap();
        glasses.condition = Some(Condition { probe, threshold: 0.5 });
        ModelWithGlasses::new(&model, &glasses, Amplify::Refuse).unwrap().generate(&prompts, &short()).unwrap()
    };
    let bare = model.generate(&prompts, &short()).unwrap();
    let always = ModelWithGlasses::new(&model, &glasses(&model), Amplify::Refuse).unwrap().generate(&prompts, &short()).unwrap();
    assert_ne!(bare, always);
    assert_eq!((with_condition(-5.0), with_condition(5.0)), (bare, always));
}

#[test]
fn an_amplifying_intervention_must_be_allowed() {
    let model = sgm::organism::load().unwrap();
    let site = model.info().sites[0];
    let mut louder = Intervention::default();
    louder.insert(site.site, SiteIntervention::from_scale(vec![1.5; site.width])).unwrap();
    assert!(matches!(ModelWithGlasses::new(&model, &louder, Amplify::Refuse), Err(error) if error.to_string().contains("amplif")));
    assert!(ModelWithGlasses::new(&model, &louder, Amplify::Allow).is_ok());
    let with = DefenceResources { intervention: Some(louder), ..DefenceResources::default() };
    assert!("sgm".parse::<DefenceStack>().unwrap().build(&model, &with).is_err());
}

#[test]
fn stacks_build_the_defences_they_name() {
    let model = sgm::organism::load().unwrap();
    let prompts = samples(4);
    let pass = sgm::defend::PassOptions { max_new_tokens: 12, sampling: Sampling::Greedy };
    let ecso = EcsoOptions { judge: pass, caption: pass, ..EcsoOptions::default() };
    let check: Check<'_> = Arc::new(|answer: &str| Ok(!answer.is_empty()));
    let shield = DefencePrompt::adashield_s(" be kind. ");
    let with = DefenceResources {
        intervention: Some(glasses(&model)),
        shield: Some(shield.clone()),
        check: Some(check),
        ecso,
        ..DefenceResources::default()
    };
    let build = |name: &str, with: &DefenceResources<'_>| {
        name.parse::<DefenceStack>().unwrap().build(&model, with).unwrap().generate(&prompts, &short()).unwrap()
    };
    let bare = model.generate(&prompts, &short()).unwrap();
    let worn = ModelWithGlasses::new(&model, &glasses(&model), Amplify::Refuse).unwrap();
    assert_eq!(build("none", &with), bare);
    assert_eq!(build("sgm", &with), worn.generate(&prompts, &short()).unwrap());
    assert!(build("filter+sgm", &with).iter().all(|answer| answer.text == "I'm sorry, but I cannot help with that."));
    let inside = |prompts: &[Prompt], defence: DefencePrompt, generator: Arc<dyn Generator>| {
        sgm::defend::PromptDefence::new(generator, defence).prompts(prompts).unwrap()
    };
    let nobody: Arc<dyn Generator> = Arc::new(sgm::organism::load().unwrap());
    let shielded = inside(&prompts, shield, nobody.clone());
    assert_eq!(build("adashield-s", &with), model.generate(&shielded, &short()).unwrap());
    let reminded = inside(&prompts, DefencePrompt::self_reminder(), nobody);
    let passes = Passes::same(Arc::new(ModelWithGlasses::new(&model, &glasses(&model), Amplify::Refuse).unwrap()));
    assert_eq!(build("sgm*", &with), Ecso::new(passes, ecso).generate(&reminded, &short()).unwrap());
    // Without glasses in any pass, ECSO around the glasses is ECSO around the model.
    let off = DefenceResources { scope: Scope::NONE, ..with.clone() };
    assert_eq!(build("ecso+sgm", &off), build("ecso", &with));
    for (name, missing) in
        [("sgm", "an intervention"), ("eta", "a reward model"), ("filter", "a check"), ("adashield-s", "a defence prompt")]
    {
        let error = name.parse::<DefenceStack>().unwrap().build(&model, &DefenceResources::default()).err().unwrap();
        assert_eq!(error.to_string(), format!("`{name}` needs {missing}"));
    }
}

/// The area under the ROC curve: how often a score of the second list is above one of the first.
fn auroc(below: &[f64], above: &[f64]) -> f64 {
    let wins = above.iter().flat_map(|a| {
        below.iter().map(move |b| {
            if a > b {
                1.0
            } else if a < b {
                0.0
            } else {
                0.5
            }
        })
    });
    wins.sum::<f64>() / (below.len() * above.len()) as f64
}

#[test]
fn the_word_reward_knows_rude_answers_it_has_not_seen() {
    let data = OrganismData::embedded().unwrap();
    let answers = data.calibration(Contrast::Mixed).unwrap();
    let labelled =
        |half: usize| answers.iter().skip(half).step_by(2).map(|s| (s.answer.as_deref().unwrap(), s.toxic.unwrap())).collect::<Vec<_>>();
    let (seen, unseen) = (labelled(0), labelled(1));
    let reward = WordReward::fit(&seen, 3).unwrap();
    let of = |toxic: bool| {
        reward.rewards("", &unseen.iter().filter(|(_, t)| *t == toxic).map(|(answer, _)| *answer).collect::<Vec<_>>()).unwrap()
    };
    let (rude, polite) = (of(true), of(false));
    assert!(rude.len() > 100 && polite.len() > 100);
    let area = auroc(&rude, &polite);
    assert!(area > 0.99, "{area}");
    let right = rude.iter().filter(|r| **r <= 0.5).count() + polite.iter().filter(|r| **r > 0.5).count();
    assert!(right * 100 > 95 * unseen.len(), "{right} of {}", unseen.len());
    for hopeless in [&[][..], &[("a", true)], &[("a", false), ("b", false)], &[("", true), ("", false)]] {
        assert!(matches!(WordReward::fit(hopeless, 1), Err(Error::Fit { .. })));
    }
}

#[test]
fn the_models_own_similarity_sees_the_image() {
    let model = sgm::organism::load().unwrap();
    let data = OrganismData::embedded().unwrap();
    let (dev, test) = (data.split(EvaluationSplit::Dev).unwrap(), data.split(EvaluationSplit::Test).unwrap());
    let image = |sample: &Sample| Some(Arc::new(sample.scene.as_ref()?.render().unwrap()));
    let provoking = |samples: &[Sample]| samples.iter().filter(|s| s.cat == Category::V).filter_map(image).take(60).collect::<Vec<_>>();
    let harmless = |samples: &[Sample]| samples.iter().filter_map(image).take(60).collect::<Vec<_>>();
    let labelled = provoking(&dev.standard).into_iter().map(|i| (i, true)).chain(harmless(&dev.vqa).into_iter().map(|i| (i, false)));
    let own = OwnSimilarity::fit(&model, &labelled.collect::<Vec<_>>()).unwrap();

    let unsafety =
        |images: Vec<_>| images.into_iter().map(|i| own.unsafety(&Prompt::user("hm?", Some(i)), "").unwrap()).collect::<Vec<_>>();
    let area = auroc(&unsafety(harmless(&test.vqa)), &unsafety(provoking(&test.standard)));
    assert!(area > 0.9, "{area}");
    assert!(own.unsafety(&Prompt::user("hm?", None), "").is_err());

    // Right answers match the image better than answers to the next question of the same kind with another key.
    let questions: Vec<&Sample> = test.vqa.iter().take(150).collect();
    let (mut right, mut pairs) = (0, 0);
    for sample in &questions {
        let other = questions.iter().find(|other| other.kind == sample.kind && other.key != sample.key && !other.answers.is_empty());
        let (Some(other), Some(answer)) = (other, sample.answers.first()) else { continue };
        let scores = own.similarities(&prompt(sample), &[answer, &other.answers[0]]).unwrap();
        assert!(scores.iter().all(|score| (0.0..=1.0).contains(score)));
        right += usize::from(scores[0] > scores[1]);
        pairs += 1;
    }
    assert!(pairs > 80 && right * 100 > 80 * pairs, "{right} of {pairs}");
    // Without an image every answer has similarity 0.5.
    assert_eq!(own.similarities(&Prompt::user("what is it?", None), &["it is red."]).unwrap(), [0.5]);
}

#[test]
fn eta_runs_offline() {
    let model = sgm::organism::load().unwrap();
    let data = OrganismData::embedded().unwrap();
    let answers = data.calibration(Contrast::Mixed).unwrap();
    let labelled: Vec<(&str, bool)> = answers.iter().map(|s| (s.answer.as_deref().unwrap(), s.toxic.unwrap())).collect();
    let dev = data.split(EvaluationSplit::Dev).unwrap();
    let images =
        dev.standard.iter().filter(|s| s.cat == Category::V).take(40).map(|s| (s, true)).chain(dev.vqa.iter().take(40).map(|s| (s, false)));
    let images: Vec<_> = images.filter_map(|(s, is_unsafe)| Some((Arc::new(s.scene.as_ref()?.render().unwrap()), is_unsafe))).collect();
    let rewards: Arc<WordReward> = Arc::new(WordReward::fit(&labelled, 3).unwrap());
    let similarity = Arc::new(OwnSimilarity::fit(&model, &images).unwrap());
    let eta = Eta::new(Passes::same(Arc::new(TappedModel::new(&model))), rewards, similarity, EtaOptions::for_local_scorers()).unwrap();
    let options =
        GenerateOptions { max_new_tokens: 40, sampling: Sampling::Random { temperature: 1.0, top_p: None, top_k: None }, ..short() };
    let prompts = samples(60);
    let traces = eta.answer(&prompts, &options).unwrap();
    let direct = model.generate(&prompts, &options).unwrap();
    assert_eq!(traces.iter().map(|trace| trace.direct.clone()).collect::<Vec<_>>(), direct);
    let aligned: Vec<usize> = (0..traces.len()).filter(|i| traces[*i].branch == EtaBranch::Aligned).collect();
    assert!(aligned.len() > 3, "{}", aligned.len());
    for trace in &traces {
        match trace.branch {
            EtaBranch::Aligned => {
                assert!(trace.answer.text.starts_with("As an AI assistant") && trace.answer.tokens.len() <= 40);
                assert!(trace.sentences.iter().all(|sentence| sentence.candidates.len() == 5));
            }
            _ => assert_eq!(trace.answer, trace.direct),
        }
    }
    // An answer does not depend on the other prompts.
    let some: Vec<usize> = aligned.iter().copied().take(2).chain([1]).collect();
    let alone = eta.generate(&some.iter().map(|i| prompts[*i].clone()).collect::<Vec<_>>(), &options.for_prompts(&some)).unwrap();
    assert_eq!(alone, some.iter().map(|i| traces[*i].answer.clone()).collect::<Vec<_>>());
}
