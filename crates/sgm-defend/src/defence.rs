//! The defences by name.

/// A defence by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Defence {
    /// [`DefencePrompt::self_reminder`](crate::DefencePrompt::self_reminder).
    SelfReminder,
    /// [`DefencePrompt::adashield_s`](crate::DefencePrompt::adashield_s).
    AdaShieldS,
    /// [`Ecso`](crate::Ecso).
    Ecso,
    /// [`Eta`](crate::Eta).
    Eta,
    /// [`ResponseFilter`](crate::ResponseFilter).
    Filter,
    /// Glasses: [`ModelWithGlasses`](crate::ModelWithGlasses).
    Sgm,
}

impl Defence {
    pub(crate) const ALL: [Self; 6] = [Self::SelfReminder, Self::AdaShieldS, Self::Ecso, Self::Eta, Self::Filter, Self::Sgm];

    /// Its name in a [`DefenceStack`](crate::DefenceStack).
    pub fn name(self) -> &'static str {
        match self {
            Self::SelfReminder => "self-reminder",
            Self::AdaShieldS => "adashield-s",
            Self::Ecso => "ecso",
            Self::Eta => "eta",
            Self::Filter => "filter",
            Self::Sgm => "sgm",
        }
    }
}

/// The name of this project's choice of defences.
pub(crate) const SGM_STAR: &str = "sgm*";

/// All names that a stack may have, in the order of [`Defence`], between `none` and `sgm*`.
pub(crate) const NAMES: [&str; 8] = ["none", "self-reminder", "adashield-s", "ecso", "eta", "filter", "sgm", SGM_STAR];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_defences() {
        assert_eq!(NAMES[1..7], Defence::ALL.map(Defence::name));
    }
}
