//! The report on how near a bundle in 8-bit integers is to one in 32-bit floats.

use super::InitArgs;
use crate::cli::pictures;
use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use tagstream_image::decoders::Decoders;
use tagstream_image::preprocessing::Preprocessing;
use tagstream_model::bundle::Bundle;
use tagstream_model::clip::vision::Precision;
use tagstream_model::init::{Init, InitStep, drawn};
use tagstream_model::runtime::Runtime;

/// Pictures compared at most, and drawn where none are given: a large tower takes a fifth of a
/// second for each.
const PICTURES: usize = 32;

/// What a comparison needs, found before the bundle is written.
pub(super) struct Comparison {
    runtime: Runtime,
    /// Files of pictures; none: they are drawn.
    files: Vec<String>,
}

impl Comparison {
    /// Of a bundle in integers; others need none.
    ///
    /// # Errors
    /// ONNX Runtime is not there, or the pictures are not.
    pub(super) fn prepare(args: &InitArgs) -> anyhow::Result<Option<Self>> {
        let Precision::Int8(_) = args.tower().precision else {
            return Ok(None);
        };
        let mut files = match &args.guess.pictures[..] {
            [] => Vec::new(),
            named => pictures::expand(named)?,
        };
        // Some of all, not the first names only.
        let step = files.len().div_ceil(PICTURES).max(1);
        let mut at = 0..;
        files.retain(|_| at.next().is_some_and(|at| at % step == 0));
        let runtime = Runtime::load().context("int8 is compared with fp32 by running both")?;
        Ok(Some(Comparison { runtime, files }))
    }

    /// Compares, and says what was found.
    pub(super) fn run(&self, init: &Init<'_>, bundle: &Bundle) -> anyhow::Result<()> {
        let preprocessing = &bundle.manifest().preprocessing;
        let (pixels, which) = if self.files.is_empty() {
            (drawn(preprocessing.width, PICTURES), "drawn")
        } else {
            (decoded(&self.files, preprocessing), "given")
        };
        let bar = ProgressBar::new(PICTURES as u64);
        bar.set_style(ProgressStyle::with_template("{msg} {bar:30} {pos}/{len}")?);
        bar.set_message("parity");
        let found = init.parity(&self.runtime, bundle, &pixels, |step| {
            if let InitStep::Parity(done) = step {
                bar.set_position(done as u64);
            }
        });
        bar.finish_and_clear();
        let found = found.context("comparing the bundle with one of fp32")?;
        eprintln!(
            "against fp32, on {} {which} pictures: {found}",
            found.images
        );
        if found.is_doubtful() {
            eprintln!(
                "warning: features are far from those of fp32; before this bundle serves, measure \
                 it on labelled images (`tagstream eval`), or take fp32"
            );
        }
        Ok(())
    }
}

/// The model's input of every file that can be read, one after the other.
fn decoded(files: &[String], preprocessing: &Preprocessing) -> Vec<u8> {
    let decoders = Decoders::default();
    let image = 3 * preprocessing.height * preprocessing.width;
    let mut all = Vec::new();
    let mut pixels = vec![0; image];
    for file in files {
        let bytes = std::fs::read(file).map_err(|error| error.to_string());
        let decoded = bytes.and_then(|bytes| {
            let size = decoders.decode_into(&bytes, preprocessing, &mut pixels);
            size.map_err(|error| error.to_string())
        });
        match decoded {
            Ok(_) => all.extend_from_slice(&pixels),
            Err(error) => eprintln!("{file}: {error}"),
        }
    }
    all
}
