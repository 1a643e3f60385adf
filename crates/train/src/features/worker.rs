//! A worker: takes batches of missing images, decodes and encodes them.

use super::cache::FeatureKey;
use super::encoder::{BATCH, Encoder};
use super::{FeatureError, ImageBytes, ImageError};
use half::f16;
use half::slice::HalfFloatSliceExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::SyncSender;
use tagstream_image::decode::DecodeError;
use tagstream_image::decoders::Decoders;
use tagstream_model::session::EncoderSession;

/// A batch that a worker has encoded: rows with their keys and features, and why others have none.
pub(super) struct Encoded {
    pub(super) rows: Vec<(usize, FeatureKey)>,
    pub(super) dense: Vec<f16>,
    pub(super) global: Vec<f32>,
    pub(super) failed: Vec<(usize, ImageError)>,
}

/// What the workers share.
pub(super) struct Work<'a> {
    pub(super) encoder: &'a Encoder,
    pub(super) decoders: &'a Decoders,
    /// Mirror every image left to right.
    pub(super) mirror: bool,
    pub(super) images: &'a dyn ImageBytes,
    pub(super) ids: &'a [String],
    pub(super) missing: &'a [(usize, FeatureKey)],
    pub(super) next: AtomicUsize,
}

impl Work<'_> {
    /// Takes batches until none is left or the receiver is gone.
    pub(super) fn encode_batches(
        &self,
        first: Option<EncoderSession>,
        sender: &SyncSender<Result<Encoded, FeatureError>>,
    ) {
        let mut session = match first.map_or_else(|| self.encoder.session(), Ok) {
            Ok(session) => session,
            Err(error) => {
                let _ = sender.send(Err(error));
                return;
            }
        };
        loop {
            let start = self.next.fetch_add(BATCH, Ordering::Relaxed);
            let Some(batch) = self
                .missing
                .get(start..self.missing.len().min(start + BATCH))
                .filter(|b| !b.is_empty())
            else {
                return;
            };
            let encoded = self.encode(&mut session, batch);
            let stop = encoded.is_err();
            if sender.send(encoded).is_err() || stop {
                return;
            }
        }
    }

    fn encode(
        &self,
        session: &mut EncoderSession,
        batch: &[(usize, FeatureKey)],
    ) -> Result<Encoded, FeatureError> {
        let bytes_each = session.shape().image_bytes();
        let mut pixels = Vec::with_capacity(batch.len() * bytes_each);
        let mut encoded = Encoded {
            rows: Vec::new(),
            dense: Vec::new(),
            global: Vec::new(),
            failed: Vec::new(),
        };
        for &(row, key) in batch {
            let start = pixels.len();
            pixels.resize(start + bytes_each, 0);
            match self.decode(&self.ids[row], &mut pixels[start..])? {
                Ok(()) => encoded.rows.push((row, key)),
                Err(error) => {
                    pixels.truncate(start);
                    encoded.failed.push((row, error));
                }
            }
        }
        if !encoded.rows.is_empty() {
            let features = session.encode(&pixels, encoded.rows.len())?;
            encoded.dense = vec![f16::ZERO; features.dense.len()];
            encoded.dense.convert_from_f32_slice(&features.dense);
            encoded.global = features.global;
        }
        Ok(encoded)
    }

    /// What is wrong with one image is the inner error.
    fn decode(&self, id: &str, pixels: &mut [u8]) -> Result<Result<(), ImageError>, FeatureError> {
        let bytes = match self.images.read(id) {
            Ok(bytes) => bytes,
            Err(error) => return Ok(Err(error)),
        };
        let preprocessing = &self.encoder.preprocessing;
        match self.decoders.decode_into(&bytes, preprocessing, pixels) {
            Ok(_) => (),
            Err(error @ DecodeError::Unavailable { .. }) => return Err(error.into()),
            Err(error) => {
                let reason = error.to_string();
                return Ok(Err(ImageError::Undecodable { reason }));
            }
        }
        if self.mirror {
            for line in pixels.chunks_exact_mut(preprocessing.width * 3) {
                mirror(line);
            }
        }
        Ok(Ok(()))
    }
}

/// Reverses the pixels of a row.
pub(super) fn mirror(line: &mut [u8]) {
    let width = line.len() / 3;
    for left in 0..width / 2 {
        let right = width - 1 - left;
        for channel in 0..3 {
            line.swap(3 * left + channel, 3 * right + channel);
        }
    }
}
