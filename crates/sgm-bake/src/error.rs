/// What can go wrong when an intervention is folded into weights.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A shift cannot be folded into a row scale.
    #[error("{site}: the intervention shifts this site, and only scales are folded as weights load; apply it at run time")]
    Shift {
        /// The site's name.
        site: String,
    },

    /// The model was loaded without meeting a site of the intervention.
    #[error("{site}: the model has loaded no such weights, so the intervention has not reached it; is it for another model?")]
    Unused {
        /// The site's name.
        site: String,
    },
}
