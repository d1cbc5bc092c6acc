//! Neutral texts in three parts.

use sgm_capture::Example;

/// Neutral texts in three parts, so that nothing is measured on the texts that it was fitted to.
#[derive(Debug, Clone, Default)]
pub(super) struct NeutralTexts {
    /// The probe of the condition and the gates of conditional patch neurons are fitted to these, as non-toxic samples.
    pub(super) fit: Vec<Example>,
    /// The threshold of the condition and the strength are chosen by these.
    pub(super) calibration: Vec<Example>,
    /// The strength is tested on these.
    pub(super) test: Vec<Example>,
}

impl NeutralTexts {
    /// Divides texts in turn, so that each part has as many of every form if texts of one form follow each other.
    pub(super) fn new(texts: Vec<Example>) -> Self {
        let mut parts = Self::default();
        for (index, text) in texts.into_iter().enumerate() {
            let part = match index % 3 {
                0 => &mut parts.fit,
                1 => &mut parts.calibration,
                _ => &mut parts.test,
            };
            part.push(Example { toxic: false, ..text });
        }
        parts
    }
}
