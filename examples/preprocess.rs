//! Writes what a model would see of images, as PPM files:
//! `cargo run --example preprocess -- SIDE OUT_DIR IMAGE...`
//!
//! `scripts/check_preprocessing.py` compares these with Pillow's.

use std::error::Error;
use std::io::Write;
use std::path::Path;
use tagstream_image::decoders::Decoders;
use tagstream_image::preprocessing::{Filter, Fit, Preprocessing};

fn main() -> Result<(), Box<dyn Error>> {
    // What is no plain JPEG is decoded by this program, started once more.
    tagstream_image::helper::run_if_asked();
    let decoders = Decoders::default();
    let mut arguments = std::env::args().skip(1);
    let (Some(side), Some(out)) = (arguments.next(), arguments.next()) else {
        return Err("usage: preprocess SIDE OUT_DIR IMAGE...".into());
    };
    let side: usize = side.parse()?;
    let preprocessing = Preprocessing {
        height: side,
        width: side,
        fit: Fit::Squash,
        filter: Filter::Bicubic,
    };
    let mut pixels = vec![0; side * side * 3];
    for name in arguments {
        let bytes = std::fs::read(&name)?;
        decoders
            .decode_into(&bytes, &preprocessing, &mut pixels)
            .map_err(|e| format!("{name}: {e}"))?;
        let stem = Path::new(&name).file_name().ok_or("no file name")?;
        let mut ppm = std::fs::File::create(Path::new(&out).join(stem).with_extension("ppm"))?;
        write!(ppm, "P6\n{side} {side}\n255\n")?;
        ppm.write_all(&pixels)?;
    }
    Ok(())
}
