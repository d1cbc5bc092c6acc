/// Whether an intervention may make neurons stronger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Amplify {
    /// Scales above 1 or below 0 are refused.
    #[default]
    Refuse,
    /// They are applied: for research into what a neuron does, never for protection.
    Allow,
}
