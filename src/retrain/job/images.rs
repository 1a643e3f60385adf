//! The images behind addresses, fetched under the same rules as in the stage.

use super::{Inputs, Job, JobError, JobProgress};
use crate::retrain::config::RetrainConfig;
use crate::stage::budget::Budget;
use crate::stage::fetch::{FetchError, Fetcher, is_local};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fmt::Display;
use std::path::PathBuf;
use tagstream_image::decoders::Decoders;
use tagstream_model::bundle::Bundle;
use tagstream_train::features::{
    Encoder, Extraction, ExtractionProgress, FeatureStore, Identity, ImageBytes, ImageError,
};
use tagstream_train::labels::LabelMatrix;
use tokio::runtime::{Handle, Runtime};

/// Images by id, through their addresses.
pub(super) struct UriImages {
    fetcher: Fetcher,
    budget: Budget,
    decoders: Decoders,
    runtime: Handle,
    addresses: HashMap<String, Vec<String>>,
}

impl UriImages {
    pub(super) fn new(
        config: &RetrainConfig,
        inputs: &Inputs,
        runtime: &Runtime,
    ) -> Result<Self, JobError> {
        // As many images at once as the cap on memory has room for.
        let decoders = crate::stage::decoding::decoders(&config.decode);
        decoders.prove()?;
        let room = config.fetch.max_mib.saturating_mul(8).max(64);
        Ok(UriImages {
            fetcher: Fetcher::new(&config.fetch, &config.object_store)?,
            budget: Budget::new(room << 20),
            decoders,
            runtime: runtime.handle().clone(),
            addresses: inputs.addresses(),
        })
    }

    /// What decodes the images.
    pub(super) fn decoders(&self) -> &Decoders {
        &self.decoders
    }

    /// Where the image may be, the likeliest first: at least one address.
    fn addresses(&self, id: &str) -> Result<&[String], ImageError> {
        let addresses = self.addresses.get(id).filter(|all| !all.is_empty());
        let addresses = addresses.map(Vec::as_slice);
        addresses.ok_or_else(|| ImageError::NotFound {
            container: "the label table".into(),
        })
    }

    fn fetch(&self, uri: &str) -> Result<Bytes, FetchError> {
        let fetched = self.runtime.block_on(self.fetcher.fetch(uri, &self.budget));
        fetched.and_then(|f| {
            let loaded = f.body.load();
            loaded.map_err(|e| FetchError::unreadable(uri, &e))
        })
    }
}

/// What the first address gives from which something can be had, or what was wrong with each.
fn first<T, E: Display>(
    addresses: &[String],
    mut have: impl FnMut(&str) -> Result<T, E>,
) -> Result<T, ImageError> {
    let mut reasons = Vec::new();
    for uri in addresses {
        match have(uri) {
            Ok(found) => return Ok(found),
            Err(error) => reasons.push(error.to_string()),
        }
    }
    Err(ImageError::Unreadable {
        reason: reasons.join("; and by the label's own address: "),
    })
}

impl ImageBytes for UriImages {
    fn read(&self, id: &str) -> Result<Bytes, ImageError> {
        first(self.addresses(id)?, |uri| self.fetch(uri))
    }

    /// Behind an address in a network there is one image for ever: what is in the cache needs no
    /// fetching. Local files change more easily and are cheap to read: their content counts.
    fn identity(&self, id: &str) -> Result<Identity, ImageError> {
        let addresses = self.addresses(id)?;
        if addresses.iter().any(|uri| is_local(uri)) {
            let bytes = self.read(id)?;
            return Ok(Identity {
                key: Sha256::digest(&bytes).into(),
                bytes: Some(bytes),
            });
        }
        // Nobody knows before it is fetched which of several addresses still holds the image.
        let named = Sha256::digest([b"uri\0", addresses.join("\0").as_bytes()].concat());
        Ok(Identity {
            key: named.into(),
            bytes: None,
        })
    }
}

impl Job<'_> {
    /// The features of labelled images by the champion's encoder; images that cannot be had leave.
    pub(super) fn features(
        &self,
        champion: &Bundle,
        images: &UriImages,
        labels: LabelMatrix,
    ) -> Result<(LabelMatrix, FeatureStore), JobError> {
        let config = &self.config.features;
        let failed = || JobError::work("features");
        let encoder = Encoder::open(
            &champion.encoder(),
            champion.manifest().preprocessing.clone(),
            config.provider,
            config.workers,
        )
        .map_err(failed())?;
        if labels.images().is_empty() {
            let dims = champion.manifest().dims;
            let positions = champion.manifest().positions();
            let empty = FeatureStore::from_memory(0, positions, dims.embedding, vec![], vec![]);
            return Ok((labels, empty));
        }
        let on_progress =
            |p: ExtractionProgress| (self.on_progress)(JobProgress::Features(p.done, p.total));
        let extraction = Extraction {
            cache: match config.cache.as_str() {
                "" => tagstream_train::features::default_cache(),
                folder => Some(PathBuf::from(folder)),
            },
            cache_limit: config.cache_limit_gib << 30,
            memory_limit: config.memory_mib << 20,
            skip_bad: true,
            decoders: images.decoders.clone(),
            progress: &on_progress,
            ..Extraction::default()
        };
        let (store, skipped) = extraction
            .extract(&encoder, images, labels.images())
            .map_err(failed())?;
        for s in skipped.iter().take(10) {
            tracing::warn!(image_id = s.id, "left out: {}", s.error);
        }
        if !skipped.is_empty() {
            tracing::warn!(
                "{} of {} images were left out",
                skipped.len(),
                labels.images().len()
            );
        }
        let rows: Vec<usize> = skipped.iter().map(|s| s.row).collect();
        Ok((labels.without(&rows), store))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_address_is_tried_where_one_fails() {
        let all = ["a", "b"].map(String::from);
        let only = |wanted: &'static str| {
            move |uri: &str| match uri == wanted {
                true => Ok(uri.to_owned()),
                false => Err(format!("nothing at {uri}")),
            }
        };
        assert_eq!(first(&all, only("a")), Ok("a".into()));
        assert_eq!(first(&all, only("b")), Ok("b".into()));
        let refused = first(&all, only("c")).unwrap_err().to_string();
        assert!(
            refused.contains("nothing at a") && refused.contains("nothing at b"),
            "{refused}"
        );
    }
}
