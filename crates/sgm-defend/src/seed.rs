//! The seeds of further passes.

/// The seed of a further pass of a call. Different passes have different seeds, and none has the small seed of another call.
///
/// The mixing function is that of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
pub(crate) fn derived(seed: u64, pass: u64) -> u64 {
    mix(mix(seed).wrapping_add(pass))
}

fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_splitmix64() {
        // The first two outputs of SplitMix64 seeded with 0, as its reference implementation gives them.
        assert_eq!(mix(0), 0xE220_A839_7B1D_CDAF);
        assert_eq!(mix(0x9E37_79B9_7F4A_7C15), 0x6E78_9E6A_A1B9_65F4);
    }

    #[test]
    fn passes_and_seeds_do_not_collide() {
        let mut seeds: Vec<u64> = (0..50).flat_map(|seed| (0..50).map(move |pass| derived(seed, pass))).chain(0..50).collect();
        let all = seeds.len();
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), all);
    }
}
