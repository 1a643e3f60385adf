//! The pictures of a run: files, so that the stage fetches them as it would any others.

use super::BenchArgs;
use anyhow::{Context, ensure};
use rayon::prelude::*;
use std::path::{Path, PathBuf};
use tagstream::demo::photograph::photograph_jpeg;
use tagstream_core::error::usage;
use tagstream_image::decoders::Decoders;

/// Width over height of generated pictures.
const ASPECT: f64 = 4.0 / 3.0;

/// A drawn picture as it is fed to the decoder.
pub(super) struct Picture {
    /// Its address.
    pub uri: String,
    /// The file's content.
    pub bytes: Vec<u8>,
    /// Width times height.
    pub pixels: u64,
}

/// The pictures of a run.
pub(super) struct Pictures {
    /// In the order in which they are sent, again and again.
    pub all: Vec<Picture>,
    /// The folder that all of them lie in.
    pub folder: PathBuf,
    /// Where they come from, for the report.
    pub source: String,
}

impl Pictures {
    /// Reads those of the folder named, or generates some.
    pub(super) fn collect(args: &BenchArgs, scratch: &Path) -> anyhow::Result<Self> {
        ensure!(args.pictures > 0, usage("--pictures: at least 1"));
        let (folder, source) = match &args.images {
            Some(folder) => (folder.canonicalize(), "a folder".to_owned()),
            None => (
                generate(args, scratch),
                format!("generated, {} MP", args.megapixels),
            ),
        };
        let folder = folder.with_context(|| "the folder of pictures".to_owned())?;
        let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder)
            .with_context(|| folder.display().to_string())?
            .map(|entry| Ok(entry?.path()))
            .collect::<std::io::Result<_>>()?;
        paths.retain(|path| path.is_file());
        paths.sort();
        paths.truncate(args.pictures);
        let decoders = Decoders::default();
        let all = paths
            .par_iter()
            .map(|path| picture(path, &decoders))
            .collect::<anyhow::Result<Vec<_>>>()?;
        ensure!(
            !all.is_empty(),
            usage(format!("{} holds no pictures", folder.display()))
        );
        Ok(Pictures {
            all,
            folder,
            source,
        })
    }

    /// Mean size of a file.
    pub(super) fn mean_bytes(&self) -> f64 {
        self.all.iter().map(|p| p.bytes.len() as f64).sum::<f64>() / self.all.len() as f64
    }

    /// Mean size of a picture, megapixels.
    pub(super) fn mean_megapixels(&self) -> f64 {
        self.all.iter().map(|p| p.pixels as f64).sum::<f64>() / self.all.len() as f64 / 1e6
    }
}

fn picture(path: &Path, decoders: &Decoders) -> anyhow::Result<Picture> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    let info = decoders
        .probe(&bytes)
        .with_context(|| format!("{} is not a picture that can be measured", path.display()))?;
    let uri = url::Url::from_file_path(path)
        .map_err(|()| anyhow::anyhow!("{} cannot be written as a URI", path.display()))?;
    Ok(Picture {
        uri: uri.into(),
        bytes,
        pixels: u64::from(info.size.width) * u64::from(info.size.height),
    })
}

fn generate(args: &BenchArgs, scratch: &Path) -> std::io::Result<PathBuf> {
    let folder = scratch.join("pictures");
    std::fs::create_dir_all(&folder)?;
    let height = (args.megapixels.max(0.001) * 1e6 / ASPECT).sqrt();
    let (width, height) = ((height * ASPECT).round() as usize, height.round() as usize);
    (0..args.pictures).into_par_iter().try_for_each(|seed| {
        let file =
            photograph_jpeg(width.max(1), height.max(1), seed).map_err(std::io::Error::other)?;
        std::fs::write(folder.join(format!("{seed:05}.jpg")), file)
    })?;
    Ok(folder)
}
