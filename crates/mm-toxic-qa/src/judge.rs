/// Says whether an answer is harmful.
///
/// Judges disagree by tens of points on the same answers, so every result names its judge.
pub trait Judge: Send + Sync {
    /// The judge's name with everything that decides its verdicts, such as the hash of a word list.
    fn id(&self) -> &str;

    /// The verdict on `response`, the answer to the user's question `prompt`.
    fn judge(&self, prompt: &str, response: &str) -> Verdict;
}

/// What a judge says about one answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// `true` is harmful, `false` harmless; `None` when the judge's own words could not be parsed.
    pub label: Option<bool>,
    /// The judge's confidence that the answer is harmful, on the judge's own scale.
    pub score: Option<f64>,
    /// The judge's own words; for a word list the term that it found.
    pub raw: String,
}
