//! The passes of a defence by name, and those in which glasses are worn.

use serde::{Deserialize, Serialize};

/// A pass of a defence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PassName {
    /// The question is answered as it is.
    Direct,
    /// The model judges its answer.
    Judge,
    /// The model describes the image.
    Caption,
    /// The question is answered by the means of the defence.
    Final,
}

impl std::fmt::Display for PassName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Judge => "judge",
            Self::Caption => "caption",
            Self::Final => "final",
        })
    }
}

/// The passes of a defence in which the model wears glasses.
///
/// ```
/// use sgm_defend::Scope;
///
/// // No glasses while the model judges its answer and describes the image.
/// let scope: Scope = serde_json::from_str(r#"{"judge": false, "caption": false}"#)?;
/// assert_eq!(scope, Scope { judge: false, caption: false, ..Scope::ALL });
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scope {
    /// [`PassName::Direct`].
    pub direct: bool,
    /// [`PassName::Judge`].
    pub judge: bool,
    /// [`PassName::Caption`].
    pub caption: bool,
    /// [`PassName::Final`].
    pub r#final: bool,
}

impl Scope {
    /// Glasses in every pass.
    pub const ALL: Self = Self { direct: true, judge: true, caption: true, r#final: true };
    /// No glasses at all.
    pub const NONE: Self = Self { direct: false, judge: false, caption: false, r#final: false };
}

impl Default for Scope {
    /// [`ALL`](Self::ALL): glasses are an attribute of the model.
    fn default() -> Self {
        Self::ALL
    }
}
