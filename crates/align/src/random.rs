//! One seed for everything that is drawn.

/// Numbers for different purposes from one seed (SplitMix64's finaliser over a running sum).
pub(crate) fn mix(seed: u64, purpose: u64, index: u64) -> u64 {
    let mut z = seed;
    for part in [purpose, index] {
        z = z
            .wrapping_add(0x9e37_79b9_7f4a_7c15)
            .wrapping_add(part.wrapping_mul(0xd134_2543_de82_ef95));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
    }
    z
}

/// The order of rows.
pub(crate) const ORDER: u64 = 1;
/// Which captions of a picture.
pub(crate) const CAPTIONS: u64 = 2;
/// Dropout and noise of a step.
pub(crate) const STEP: u64 = 3;
/// Initial weights.
pub(crate) const INIT: u64 = 4;
/// Texts that belong to no picture.
pub(crate) const NEGATIVES: u64 = 5;
/// Noise on the inputs of heads.
pub(crate) const NOISE: u64 = 6;
/// Dropout of heads, apart from that of towers.
pub(crate) const HEAD: u64 = 7;
/// Changes of a sample's picture, and the choice of its captions by group.
pub(crate) const SAMPLE: u64 = 8;
/// Which rows of a source are taken.
pub(crate) const TAKE: u64 = 9;
/// The order of reference pictures.
pub(crate) const REFERENCE: u64 = 10;
/// Which latents become codes.
pub(crate) const CODES: u64 = 11;
/// Initial weights of a discriminator.
pub(crate) const CRITIC: u64 = 12;
/// Which pairs that do not belong together a picture and a text are in.
pub(crate) const PAIRS: u64 = 13;
/// Which pictures are drawn from no text.
pub(crate) const UNGUIDED: u64 = 14;
/// Dropout of a tower whose patches a head reads.
pub(crate) const TOWER: u64 = 15;
/// This and above: one for each source.
pub(crate) const EXTRA: u64 = 16;
