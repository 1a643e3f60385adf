//! Baseline JPEG straight to the size a model wants.
//!
//! A picture that is shrunk to a model's input needs the low frequencies of its blocks only. The Huffman codes of the others
//! must be walked through all the same, but their values need not be made, and several of them are passed in one step. And
//! what is left need not become pixels first: transforming the blocks, interpolating chroma and resampling are all linear, so that
//! each coefficient goes into the samples of the result by one weight for its row and one for its column.
//!
//! This is decoding in full and resampling as Pillow does it, but for what rounding and clamping in between do, and for
//! frequencies too high to show.
//!
//! Only whole, plain files are read here: sequential Huffman coding of 8 bits in one scan, grey or YCbCr, usual sampling.
//! Everything else, and every file in which something is found to be wrong, is [`Unfit`] and left to libjpeg-turbo, which
//! says what is wrong or puts up with it.

mod axis;
mod bits;
mod colour;
mod flat;
mod frame;
mod huffman;
mod lists;
mod plan;
mod plans;
mod resample;
mod scan;

pub(super) use axis::{Kernel, Span};

use frame::Frame;
use huffman::{AcTable, DcTable};
use plans::Plans;
use resample::Sums;
use scan::Strip;

/// The file is none of those read here, or is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unfit;

/// What is kept from one picture to the next.
#[derive(Default)]
pub(super) struct Reader {
    tables: Tables,
    plans: Plans,
    strip: Strip,
    /// Of brightness, of chroma, and of what is missing of green.
    sums: [Sums; 4],
}

/// Tables for looking codes up, with room for two of each kind; most files bring the same ones.
#[derive(Default)]
struct Tables {
    dc: [DcTable; 2],
    ac: [AcTable; 2],
}

/// What becomes of a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Target {
    /// Along its rows.
    pub columns: Span,
    /// Along its columns.
    pub rows: Span,
    /// How it is resampled.
    pub kernel: Kernel,
}

impl Reader {
    /// Reads a picture, resampled, into `rgb`, `[rows, columns, 3]`.
    ///
    /// # Errors
    /// [`Unfit`] if the file is not plain, not whole, or not of the target's size; `rgb` then holds nothing of use.
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
        self.strip.shape(&frame, plans);
        for (sums, plan) in self.sums.iter_mut().zip(plans) {
            sums.clear(&plan.shape);
        }
        let mut scan = scan::Scan::new(&frame, plans, &self.tables);
        for unit_row in 0..frame.height.div_ceil(8 * frame.tallest) {
            scan.strip(&mut self.strip)?;
            self.strip.settle();
            for (index, (plan, sums)) in plans.iter().zip(&mut self.sums).enumerate() {
                let groups = self.strip.groups(index);
                let per_row = groups.len() / plan.down;
                for (down, groups) in groups.chunks_exact(per_row).enumerate() {
                    resample::add(sums, plan, unit_row * plan.down + down, groups);
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

    /// What is written between the coefficients and the result, bytes.
    pub(super) fn working_bytes(&self) -> usize {
        self.sums.iter().map(Sums::bytes).sum()
    }
}

impl Tables {
    /// Makes the tables that the frame's codes need, unless they are there already.
    fn set(&mut self, frame: &Frame) -> Option<()> {
        for component in frame.components() {
            let dc = frame.dc_codes[component.dc].as_ref()?;
            self.dc[component.dc].set(dc)?;
            let ac = frame.ac_codes[component.ac].as_ref()?;
            self.ac[component.ac].set(ac)?;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests;
