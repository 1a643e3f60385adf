//! Whether the model that is measured says what a reference says on the processor.

use super::pictures::Pictures;
use anyhow::Context;
use serde::Serialize;
use tagstream_core::config::ObjectStoreConfig;
use tagstream_image::decoders::Decoders;
use tagstream_model::bundle::Bundle;
use tagstream_model::parity::Parity;
use tagstream_model::runtime::{Device, Runtime};
use tagstream_model::session::SessionOptions;
use tagstream_model::tagger::{Tagger, TaggerOptions};

/// Pictures compared at most: a large model on the processor is slow.
const PICTURES: usize = 48;

/// A comparison, for the report.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Comparison {
    /// The reference's id.
    pub reference: String,
    /// Whether it is the same model.
    pub holds: bool,
    /// What was found.
    #[serde(flatten)]
    pub found: Parity,
}

impl Comparison {
    /// Compares `bundle` as `session` opens it with `reference` on the processor.
    pub(super) fn make(
        runtime: &Runtime,
        bundle: &Bundle,
        session: &SessionOptions,
        reference: &str,
        pictures: &Pictures,
    ) -> anyhow::Result<Self> {
        let reference = crate::cli::open_model(reference, &ObjectStoreConfig::default())?;
        let reference = reference.into_bundle()?;
        let open = |bundle: &Bundle, session: SessionOptions| {
            let options = TaggerOptions {
                workers: 1,
                ..TaggerOptions::on(session.device)
            };
            Tagger::open(runtime, bundle, TaggerOptions { session, ..options }, None)
        };
        let processor = SessionOptions {
            threads: Device::Cpu.usual_workers(),
            ..SessionOptions::cpu()
        };
        let (here, there) = (open(&reference, processor)?, open(bundle, session.clone())?);
        let model = here.model();
        let decoders = Decoders::default();
        let mut pixels = Vec::new();
        for picture in pictures.all.iter().take(PICTURES) {
            let start = pixels.len();
            pixels.resize(start + model.shape.image_bytes(), 0);
            let image = &mut pixels[start..];
            decoders
                .decode_into(&picture.bytes, model.preprocessing(), image)
                .with_context(|| picture.uri.clone())?;
        }
        let found = Parity::between(&here, &there, &pixels)?;
        Ok(Comparison {
            reference: reference.id().to_owned(),
            holds: found.holds(),
            found,
        })
    }

    /// One line for people.
    pub(super) fn line(&self) -> String {
        let Parity {
            images,
            embedding_cosine,
            region_cosine,
            score_difference,
            same_top_tags,
        } = self.found;
        format!(
            "{}; least cosine {embedding_cosine:.6} (embedding), {region_cosine:.6} (regions); \
             {same_top_tags} of {images} with the same top \
             tags; scores within {score_difference:.4}",
            if self.holds {
                "the same"
            } else {
                "NOT THE SAME"
            }
        )
    }
}
