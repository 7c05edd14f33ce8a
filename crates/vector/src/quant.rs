//! Smaller codes that stand in for vectors, with factors that turn code arithmetic into estimated distances.
//!
//! | code | bytes of a row, D = dimension padded to 64 | estimates within | used by |
//! |---|---|---|---|
//! | [`RabitqCodes`] | D/8 + 12, in blocks of 32 rows | a bound that is part of the code | scans of many rows |
//! | [`NibbleCodes`] | D/2 + 8 | about 1/6 of the 1-bit error | the graph |
//! | [`I8Codes`] | dimension + 8 | about 1/1000 of the length | scans of few rows |
//!
//! Coders are immutable, made from a few numbers that a file can keep (dimension, seed, centre), and work on borrowed
//! byte slices: whoever owns the bytes decides whether they are memory or a mapped file.

mod i8codes;
mod nibble;
mod rabitq;
mod rotate;

pub use i8codes::{I8Codes, I8Factors, I8Query};
pub use nibble::{NibbleCodes, NibbleFactors, NibbleQuery};
pub use rabitq::{BLOCK_ROWS, RabitqCodes, RabitqQuery};
pub use rotate::Rotation;
pub(crate) use rotate::splitmix;

/// The nearest integer of a number between -128 and 127, ties to even. Adding 1.5 * 2^23 leaves the integer in the lowest
/// bits; unlike `round_ties_even` it needs no call where the instruction set has no rounding.
#[inline(always)]
fn nearest_i8(x: f32) -> i8 {
    const SHIFT: f32 = 12_582_912.0;
    (x + SHIFT).to_bits() as i8
}
