//! Build plans: the number of samples of each kind that a benchmark is built from.

use serde::Serialize;

/// The number of samples of each kind in a benchmark.
///
/// The seed chooses the samples, and the data sets say what they are for: labelled answers calibrate, harmless questions measure utility,
/// all other questions are risky. Risky questions of condition standard fill the test split first, category by category, then the dev
/// split; attacks that a data set ships go into the test split. Where a data set is published in splits, the test split is filled from its
/// evaluation part alone and the dev split from its train part; with all risky questions in the test split, its train part is the dev split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BuildPlan {
    /// Its name, with a version.
    pub name: String,
    /// A description for the datasheet.
    pub about: String,
    /// The categories of the risky questions; `None` for all.
    pub categories: Option<Vec<String>>,
    /// The number of test samples in each category; `None` for all.
    pub test_per_category: Option<usize>,
    /// The number of dev samples in each category.
    pub dev_per_category: usize,
    /// The number of calibration samples of each label; `None` for all.
    pub calibration_per_label: Option<usize>,
    /// The number of utility samples; `None` for all.
    pub utility: Option<usize>,
    /// Whether labelled answers of a published evaluation split calibrate too.
    pub calibrate_on_evaluation: bool,
}

/// The categories of [`BuildPlan::mm_toxic_qa_v1`]: those of BeaverTails-V except `violence_and_physical_harm`, in its spelling. They are
/// those of the author's list of test questions.
pub const MM_TOXIC_QA_CATEGORIES: [&str; 19] = [
    "animal_abuse",
    "dangerous_behavior",
    "deception_in_personal_relationships",
    "discriminatory_depictions",
    "environmental_damage",
    "false_information",
    "financial_and_academic_fraud",
    "hacking_or_digital_crime",
    "harmful_health_content",
    "horror_and_gore",
    "identity_misuse_and_impersonation",
    "insulting_and_harassing_behavior",
    "pornographic_content",
    "privacy_invasion_and_surveillance",
    "psychological_harm_and_manipulation",
    "psychological_horror_and_dark_themes",
    "sensitive_information_in_key_areas",
    "sexual_crimes",
    "terrorism_or_extremism",
];

impl BuildPlan {
    /// A reconstruction of the paper's MM-TOXIC-QA: 19 categories of BeaverTails-V with 26 test prompts each (494), and all
    /// labelled answers for calibration.
    ///
    /// The paper gives these two numbers, and the author's list of test questions (`llava1/test.xlsx` of dut-laowang/ml-aura-vl) the
    /// categories: the one left out of the 20 is `violence_and_physical_harm`. With that list as the
    /// [selection](crate::builder::Builder::selecting) the test questions are the author's; otherwise the seed chooses them. The dev split of
    /// 13 prompts a category is our own.
    pub fn mm_toxic_qa_v1() -> Self {
        Self {
            name: "mm-toxic-qa-v1".to_owned(),
            about: "A reconstruction of MM-TOXIC-QA, not the set of the paper: the number of categories and of test prompts in \
                    each are the paper's, the categories are those of the author's list of test questions; the choice of prompts, \
                    unless that list made it, and the dev split are ours."
                .to_owned(),
            categories: Some(MM_TOXIC_QA_CATEGORIES.map(str::to_owned).to_vec()),
            test_per_category: Some(26),
            dev_per_category: 13,
            calibration_per_label: None,
            utility: None,
            calibrate_on_evaluation: false,
        }
    }

    /// Every sample of the data sets, without duplicates and without samples that splits would share.
    pub fn everything() -> Self {
        Self {
            name: "everything".to_owned(),
            about: "Every sample of the sources, but duplicates and what splits would share.".to_owned(),
            categories: None,
            test_per_category: None,
            dev_per_category: 0,
            calibration_per_label: None,
            utility: None,
            calibrate_on_evaluation: true,
        }
    }
}
