//! The coefficients of sixteen blocks side by side, as the vector instructions work on them.

/// Blocks in a group, one in each lane.
pub(super) const LANES: usize = 16;
/// Coefficients of a block for which there is room. At most 64 are kept, and [`DISCARDED`] takes
/// the others; a power of two, so that a storage index reduced modulo this needs no check.
pub(super) const CAPACITY: usize = 128;
/// The storage index of coefficients that are not kept: nobody reads what is written there.
pub(super) const DISCARDED: u8 = 64;
/// What the means of blocks are counted in: this many parts of a level.
pub(super) const MEAN_PARTS: i32 = 128;

/// The coefficients of [`LANES`] blocks side by side.
#[derive(Clone)]
pub(super) struct Group {
    /// By storage index, which a component's plan gives to each coefficient that it keeps, and
    /// lane. Storage index 0 holds, in place of the DC coefficient, the block's mean in
    /// [`MEAN_PARTS`].
    pub coefficients: [[i16; LANES]; CAPACITY],
    /// Zigzag index of the last nonzero coefficient of any of the blocks, as far as they are kept.
    pub last_nonzero: usize,
    /// 1 for blocks whose AC coefficients are all 0: all their samples are equal.
    pub flat: [u8; LANES],
}

impl Group {
    /// Blocks of mean 0 and no AC coefficients.
    pub(super) const FLAT: Group = Group {
        last_nonzero: 0,
        ..Group::EMPTY
    };

    /// Room for any coefficients: the next MCU row clears it as if it held all 64.
    pub(super) const EMPTY: Group = Group {
        coefficients: [[0; LANES]; CAPACITY],
        last_nonzero: 63,
        flat: [0; LANES],
    };
}
