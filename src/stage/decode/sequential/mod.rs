//! Baseline JPEG at any size of 1 to 8 eighths, without the work that a reduced size does not need.
//!
//! A picture that is shrunk to a model's input needs the low frequencies of its blocks only. The Huffman codes of the others
//! must be walked through all the same, but their values need not be made, and several of them are passed in one step.
//! Blocks are then transformed straight to `eighths` pixels a side from as many coefficients (ITU-T T.81, A.3.3, with the
//! cosines sampled at fewer points), sixteen blocks side by side; subsampled chroma is transformed to the size of the
//! brightness, so that nothing is interpolated.
//!
//! Only whole, plain files are read here: sequential Huffman coding of 8 bits in one scan, grey or YCbCr, usual sampling.
//! Everything else, and every file in which something is found to be wrong, is [`Unfit`] and left to libjpeg-turbo, which
//! says what is wrong or puts up with it.

mod bits;
mod colour;
mod frame;
mod huffman;
mod scan;
mod transform;

use frame::Frame;
use huffman::{AcTable, DcTable};
use scan::Strip;
use transform::{Plan, Plane};

/// The file is none of those read here, or is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unfit;

/// What is kept from one picture to the next.
#[derive(Default)]
pub struct Reader {
    tables: Tables,
    strip: Strip,
    planes: [Plane; 3],
}

/// Tables for looking codes up, with room for two of each kind; most files bring the same ones.
#[derive(Default)]
struct Tables {
    dc: [DcTable; 2],
    ac: [AcTable; 2],
}

/// Width and height of the result.
pub fn scaled(side: usize, eighths: usize) -> usize {
    (side * eighths).div_ceil(8)
}

impl Reader {
    /// Writes the picture at `eighths` of its size to `rgb`, `[height, width, 3]`, sides as [`scaled`] says.
    ///
    /// # Errors
    /// [`Unfit`] if the file is not plain, not whole, or not of the size `width` x `height`; `rgb` then holds nothing of use.
    pub fn read(
        &mut self,
        bytes: &[u8],
        (width, height): (usize, usize),
        eighths: usize,
        rgb: &mut [u8],
    ) -> Result<(), Unfit> {
        let frame = Frame::parse(bytes).ok_or(Unfit)?;
        if (frame.width, frame.height) != (width, height)
            || !(1..=8).contains(&eighths)
            || rgb.len() != scaled(width, eighths) * scaled(height, eighths) * 3
        {
            return Err(Unfit);
        }
        self.tables.set(&frame).ok_or(Unfit)?;
        let plans = frame.components().map(|c| Plan::new(&frame, c, eighths));
        let plans: Vec<Plan> = plans.collect();
        self.strip.shape(&frame, &plans);
        for (plane, plan) in self.planes.iter_mut().zip(&plans) {
            plane.shape(plan, self.strip.units());
        }
        self.strips(&frame, &plans, eighths, rgb)
    }

    fn strips(
        &mut self,
        frame: &Frame,
        plans: &[Plan],
        eighths: usize,
        rgb: &mut [u8],
    ) -> Result<(), Unfit> {
        let columns = scaled(frame.width, eighths);
        let strip_rows = frame.tallest * eighths;
        let mut scan = scan::Scan::new(frame, plans, &self.tables);
        for rows in rgb.chunks_mut(strip_rows * columns * 3) {
            scan.strip(&mut self.strip)?;
            for (index, plan) in plans.iter().enumerate() {
                let (groups, plane) = (self.strip.groups(index), &mut self.planes[index]);
                transform::strip(plan, groups, plane);
            }
            for (y, row) in rows.chunks_exact_mut(columns * 3).enumerate() {
                let [luma, blue, red] = &self.planes;
                if plans.len() == 1 {
                    colour::grey_to_rgb(luma.row(y), row);
                } else {
                    colour::ycc_to_rgb(luma.row(y), blue.row(y), red.row(y), row);
                }
            }
        }
        scan.finish()
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
