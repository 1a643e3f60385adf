//! Sequential JPEG straight to the size a model wants, without making pixels.
//!
//! A picture that is shrunk to a model's input needs only the low frequencies of its blocks. The
//! Huffman codes of the others must be decoded to find what comes after them, but their values need
//! not be made, and one lookup passes several. What is kept need not become pixels first: the
//! inverse cosine transform, the interpolation of chroma and resampling are all linear, so each
//! coefficient goes into the samples of the result with a weight for its row times a weight for its
//! column.
//!
//! The result is that of decoding in full and resampling as Pillow does, except for what rounding
//! and clamping in between would do, and for frequencies too high to show.
//!
//! Only whole, plain files are read here: sequential Huffman coding of 8-bit samples in one scan,
//! grey or YCbCr, luma sampled once or twice as densely as chroma on each side. Everything else,
//! and every file in which something is found to be wrong, is [`Unfit`] and left to libjpeg-turbo,
//! which says what is wrong or puts up with it.
//!
//! # The road, file by file
//!
//! | file | from | to |
//! |---|---|---|
//! | `frame` | the file | frame header, scan header, tables, where the coded data begins |
//! | `huffman`, `tables` | Huffman table specifications | lookups by the next bits |
//! | `target`, `axis` | the part of the picture wanted | weights of coefficients on one side |
//! | `weights`, `plan`, `plans` | both sides, quantization tables | what is kept of a component |
//! | `bits` | the coded data | bits, without stuffing and restart markers |
//! | `scan`, `mcu_row`, `group` | bits | quantized coefficients of one MCU row |
//! | `flat` | blocks without AC coefficients | the same, rounded as other readers round them |
//! | `resample` | coefficients | samples of the result, for each component |
//! | `colour` | samples | RGB |
//!
//! # Words
//!
//! The words are those of ITU-T T.81 (ISO/IEC 10918-1), which comments cite by section. A *block*
//! is 8 x 8 samples of a component and has one *DC coefficient* and 63 *AC coefficients*; their
//! order in the file is the *zigzag* order. The *sampling factors* of a component say how many
//! blocks of it, side by side and above each other, an *MCU* (minimum coded unit) has. A *frame* is
//! the picture; its MCUs are coded in one or more *scans*, here in one. Our own words: a *group* is
//! sixteen blocks of a component side by side; a *block row* is all blocks of a component at one
//! height, and an *MCU row* has one or two of them.

mod axis;
mod bits;
mod colour;
mod flat;
mod frame;
mod group;
mod huffman;
mod lists;
mod mcu_row;
mod plan;
mod plans;
mod resample;
mod scan;
mod tables;
mod target;
mod unfit;
mod weights;

pub(super) use target::{Kernel, Span, Target};
pub(super) use unfit::Unfit;

use frame::Frame;
use mcu_row::McuRow;
use plans::Plans;
use resample::Sums;
use scan::Scan;
use tables::Tables;

/// What the headers of a plain file say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outline {
    /// Pixels a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// The identifier of each component: one, or three.
    pub components: Vec<u8>,
}

impl Outline {
    /// `None` if the file is not plain as far as its headers go.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        let frame = Frame::parse(bytes)?;
        Some(Outline {
            width: frame.width,
            height: frame.height,
            components: frame.components().map(|c| c.identifier).collect(),
        })
    }
}

/// Reads pictures; keeps tables, plans and memory from one to the next.
#[derive(Default)]
pub(super) struct Reader {
    tables: Tables,
    plans: Plans,
    row: McuRow,
    /// Of luma, of both components of chroma, and of what is added to green.
    sums: [Sums; 4],
}

impl Reader {
    /// Reads a picture, resampled, into `rgb`, `[rows, columns, 3]`.
    ///
    /// # Errors
    /// [`Unfit`] if the file is not plain, not whole, or not of the target's size; `rgb` then holds
    /// nothing of use.
    pub(super) fn read(
        &mut self,
        bytes: &[u8],
        target: &Target,
        rgb: &mut [u8],
    ) -> Result<(), Unfit> {
        let frame = Frame::parse(bytes).ok_or(Unfit)?;
        let Target { columns, rows, .. } = target;
        if (frame.width, frame.height) != (columns.pixels, rows.pixels)
            || rgb.len() != columns.samples * rows.samples * 3
        {
            return Err(Unfit);
        }
        self.tables.set(&frame).ok_or(Unfit)?;
        let plans = self.plans.of(&frame, target);
        self.row.resize(&frame, plans);
        for (sums, plan) in self.sums.iter_mut().zip(plans) {
            sums.clear(&plan.weights);
        }
        let mut scan = Scan::new(&frame, plans, &self.tables);
        for mcu_row in 0..frame.height.div_ceil(8 * frame.max_vertical_sampling) {
            scan.read_mcu_row(&mut self.row)?;
            self.row.round_flat_blocks();
            for (component, (plan, sums)) in plans.iter().zip(&mut self.sums).enumerate() {
                let groups = self.row.groups(component);
                let per_block_row = groups.len() / plan.vertical_sampling;
                for (y, groups) in groups.chunks_exact(per_block_row).enumerate() {
                    let block_row = mcu_row * plan.vertical_sampling + y;
                    resample::add(sums, plan, block_row, groups);
                }
            }
        }
        scan.finish()?;
        if plans.len() == 1 {
            colour::grey_to_rgb(&self.sums[0], columns.samples, rgb);
        } else {
            colour::ycc_to_rgb(&self.sums, columns.samples, rgb);
        }
        Ok(())
    }

    /// Bytes written between the coefficients and the result, for the picture read last.
    pub(super) fn working_bytes(&self) -> usize {
        self.sums.iter().map(Sums::bytes).sum()
    }
}

#[cfg(test)]
mod tests;
