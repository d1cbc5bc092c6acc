//! How far glasses take a model from itself, token by token.

use crate::worn::glasses;
use sgm::models::{Mllm, Prompt, TappedModel, response_divergence, response_nll};
use sgm::suppress::{Amplify, Glasses};

#[test]
fn glasses_diverge_with_the_square_of_a_small_strength() {
    let model = sgm::organism::load().unwrap();
    let texts = [("hello.", "hi, nice to meet you."), ("thank you.", "you are welcome."), ("tell me a story about a fox.", "a fox ran.")];
    let examples = texts.map(|(prompt, response)| (Prompt::user(prompt, None), response.to_owned()));
    let at = |strength: f32, batch_size: usize| {
        let view = TappedModel::new(&model);
        let worn = Glasses::wear(&view, &glasses(&model).with_strength(strength).unwrap(), Amplify::Refuse).unwrap();
        let divergences = response_divergence(&model, &view, &examples, batch_size).unwrap();
        drop(worn);
        divergences.into_iter().map(|text| text.into_iter().map(|token| token.divergence).collect()).collect::<Vec<Vec<f64>>>()
    };
    let mean = |divergences: &[Vec<f64>]| divergences.concat().iter().sum::<f64>() / divergences.concat().len() as f64;

    // One for each token of each response, in order; none without glasses.
    let lengths = |tokens: &[Vec<f64>]| tokens.iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(lengths(&at(0.5, 2)), lengths(&response_nll(&model, &examples, 2).unwrap()));
    assert!(at(0.0, 3).concat().iter().all(|divergence| *divergence == 0.0));
    for (alone, together) in at(0.5, 1).concat().into_iter().zip(at(0.5, 3).concat()) {
        assert!((alone - together).abs() <= 1e-4 * (alone + 1e-3), "{alone} {together}");
    }
    let (small, double) = (mean(&at(0.02, 3)), mean(&at(0.04, 3)));
    assert!(small > 0.0 && (double / small - 4.0).abs() < 0.4, "{small} {double}");
    assert!(mean(&at(1.0, 3)) > double);
    assert!(response_divergence(&model, &model, &examples, 0).is_err());
    assert!(model.taps().is_empty());
}
