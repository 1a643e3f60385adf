//! What a run starts from: the champion, the labels, what earlier runs settled, and whether there
//! is anything to do.

use super::candidate::Labelled;
use super::folds::{Unseen, named_groups, settled_groups};
use super::{Inputs, Job, JobError, inputs};
use crate::retrain::judge::{is_held_out, next_look};
use ndarray::{ArrayView1, ArrayView2};
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use tagstream_core::redact::redact_place;
use tagstream_core::{build, digest};
use tagstream_model::bundle::{Bundle, Category};
use tagstream_model::registry::{Cache, Pointer, Registry, RegistryError, VersionRecord};
use tagstream_train::features::FeatureStore;
use tagstream_train::groups::{Candidates, GroupPattern, Groups};
use tagstream_train::labels::LabelMatrix;

/// Fewer pictures than this say too little of what a stream is like.
const FEWEST_UNLABELLED: usize = 100;

/// What a run starts from, once it is known that there is something to do.
pub(super) struct Prepared {
    /// What serves, as the registry said before anything was read.
    pub(super) pointer: Pointer,
    pub(super) champion: Bundle,
    pub(super) inputs: Inputs,
    /// The run's name.
    pub(super) run: String,
    /// Of this run, in the work folder.
    pub(super) folder: PathBuf,
    /// What scores images that the champion has not learned from.
    pub(super) unseen: Unseen,
    /// Parts that are judged by heads that have not seen them; 1: a share is held out.
    pub(super) folds: usize,
    /// Groups that earlier runs settled, by image.
    pub(super) settled: HashMap<String, String>,
    /// Which look at the champion this is, from 1.
    pub(super) look: usize,
}

impl Job<'_> {
    /// What the run starts from, with the labels, or the reason why there is nothing to do. The
    /// run's folder is made only where there is something.
    pub(super) fn prepare(
        &mut self,
        registry: &Registry,
    ) -> Result<ControlFlow<String, (Prepared, LabelMatrix)>, JobError> {
        let (pointer, version, champion) = self.step("champion", |job| job.champion(registry))?;
        let mut inputs = self.step("labels", |job| {
            let reading = inputs::read(job.config, &champion, !job.options.dry_run);
            job.runtime.block_on(reading)
        })?;
        if let Some(reason) = self.adapt_if_nothing_is_labelled(&champion, &mut inputs)? {
            return Ok(ControlFlow::Break(reason));
        }
        let run = self.run_id(&inputs, &champion)?;
        if let Some(reason) = self.nothing_to_do(registry, &inputs, &run)? {
            return Ok(ControlFlow::Break(reason));
        }
        let labels = inputs.labelled();
        let folder = self.work_folder()?.join(&run);
        let (unseen, settled, history) = self.runtime.block_on(async {
            let aside = folder.join("champion");
            let unseen = Unseen::of(&champion, &version, registry, &aside);
            let settled = settled_groups(registry).await?;
            Ok::<_, JobError>((unseen.await?, settled, registry.history().await?))
        })?;
        let made_on_labels = matches!(unseen, Unseen::HeldOut { .. });
        let folds = match self.config.judge.folds {
            // Without gradients heads start from the champion's weights, which have seen the parts
            // of which the champion keeps no heads.
            _ if self.options.prototypes_only && made_on_labels => 1,
            folds => folds,
        };
        let states = labels.states();
        let rows = labels.images().iter().zip(states.rows());
        let learnable = |(id, row): (&String, ArrayView1<'_, i8>)| {
            (folds > 1 || !self.is_held_out(id)) && row.iter().any(|label| *label > 0)
        };
        if !inputs.adapts() && !rows.into_iter().any(learnable) {
            let reason = match folds {
                1 => "no known presence outside the held-out part",
                _ => "no known presence",
            };
            return Ok(ControlFlow::Break(reason.into()));
        }
        std::fs::create_dir_all(&folder).map_err(JobError::io(&folder))?;
        let prepared = Prepared {
            look: next_look(&history, version.version),
            pointer,
            champion,
            inputs,
            run,
            folder,
            unseen,
            folds,
            settled,
        };
        Ok(ControlFlow::Continue((prepared, labels)))
    }

    /// Where no label tells of a presence: gives a model that has never seen a label pictures of
    /// the predictions table to adapt to, or the reason why there is nothing to do.
    fn adapt_if_nothing_is_labelled(
        &self,
        champion: &Bundle,
        inputs: &mut Inputs,
    ) -> Result<Option<String>, JobError> {
        // Also of pictures that cannot be had: that is another trouble than a want of labels.
        let counts = inputs.counts();
        let present =
            |category: &Category| counts.get(&category.name).is_some_and(|c| c.present > 0);
        if inputs.categories.iter().any(present) {
            return Ok(None);
        }
        let source = &self.config.labels;
        let none = match inputs.table.images().next() {
            None => format!(
                "no labels in the table `{}` at {}",
                source.table,
                redact_place(&source.url)
            ),
            Some(_) => "no known presence".to_owned(),
        };
        let learned = champion.manifest().lineage.label_snapshot.is_some();
        let off = source.unlabelled == 0 || source.predictions_table.is_empty();
        if learned || off || !self.config.method()?.learns_without_labels() {
            return Ok(Some(none));
        }
        let pictures = self.runtime.block_on(inputs::unlabelled(self.config))?;
        if pictures.len() < FEWEST_UNLABELLED {
            return Ok(Some(format!(
                "{none}, and {} pictures in the predictions table `{}`: a model adapts to at \
                 least {FEWEST_UNLABELLED} without labels",
                pictures.len(),
                source.predictions_table
            )));
        }
        inputs.adapt_to(pictures);
        tracing::info!(
            pictures = inputs.unlabelled.len(),
            "{none}: the model adapts to pictures that nobody has labelled"
        );
        Ok(None)
    }

    /// Whether an image belongs to the share that is held out where nothing is said in parts.
    pub(super) fn is_held_out(&self, id: &str) -> bool {
        is_held_out(id, self.config.judge.held_out_share)
    }

    /// Settles which images are relatives.
    pub(super) fn group(
        &self,
        work: &Prepared,
        labels: LabelMatrix,
        features: FeatureStore,
    ) -> Result<Labelled, JobError> {
        let config = &self.config.groups;
        let failed = "groups";
        let pattern = match config.pattern.as_str() {
            "" => None,
            pattern => Some(GroupPattern::new(pattern).map_err(JobError::work(failed))?),
        };
        let attributes = match config.attribute.as_str() {
            "" => HashMap::new(),
            attribute => self
                .runtime
                .block_on(inputs::attributes(self.config, attribute))?,
        };
        let ids = labels.images();
        let named = named_groups(ids, &work.inputs.uris(), &attributes, pattern.as_ref());
        let shape = (features.len(), features.dim());
        let groups = Groups::find(
            &Candidates {
                ids,
                named: &named,
                settled: &work.settled,
                embeddings: ArrayView2::from_shape(shape, features.global())
                    .map_err(JobError::work(failed))?,
            },
            config,
        );
        tracing::info!(
            images = ids.len(),
            groups = groups.count(),
            not_compared = groups.not_compared(),
            "relatives"
        );
        Ok(Labelled {
            labels,
            features,
            groups,
        })
    }

    /// What serves now, as a bundle on this disk.
    fn champion(&self, registry: &Registry) -> Result<(Pointer, VersionRecord, Bundle), JobError> {
        self.runtime.block_on(async {
            let pointer = registry.pointer().await?;
            let nothing = || RegistryError::NothingPromoted {
                url: registry.url().into(),
            };
            let pointer = pointer
                .filter(|p| p.version.is_some())
                .ok_or_else(nothing)?;
            let version = registry
                .version(pointer.version.ok_or_else(nothing)?)
                .await?;
            let cache = Cache::default_location();
            let folder = registry.materialise(&version, &cache).await?;
            let bundle = Bundle::open(folder)?;
            if bundle.text_files().is_none() {
                return Err(JobError::Unsuitable(format!(
                    "version {} has no text tower (text/), which retraining needs",
                    version.version
                )));
            }
            Ok((pointer, version, bundle))
        })
    }

    /// Hash of all that decides the result.
    fn run_id(&self, inputs: &Inputs, champion: &Bundle) -> Result<String, JobError> {
        let c = self.config;
        let mut deciding = serde_json::json!({
            "snapshot": inputs.snapshot,
            "champion": champion.id(),
            "categories": inputs.categories,
            "method": c.method()?,
            "seed": c.train.seed,
            "warm_start": c.train.warm_start,
            "prototypes_only": self.options.prototypes_only,
            "groups": c.groups,
            "tags": c.tags,
            "judge": c.judge,
        });
        // Only where it is so: the names of all other runs stay what they were.
        if inputs.adapts() {
            deciding["unlabelled"] = c.labels.unlabelled.into();
        }
        Ok(run_hash(&deciding, build::name()))
    }

    fn nothing_to_do(
        &self,
        registry: &Registry,
        inputs: &Inputs,
        run: &str,
    ) -> Result<Option<String>, JobError> {
        self.runtime.block_on(async {
            let history = registry.history().await?;
            let settled = history.iter().find(|e| e.run.as_deref() == Some(run));
            if let Some(entry) = settled {
                return Ok(Some(format!(
                    "the same labels were judged with the same champion and settings before: \
                     version {} was {}",
                    entry.version, entry.action
                )));
            }
            if inputs.adapts() {
                return Ok(None);
            }
            let new = inputs.new_since_last_run(registry, &history).await?;
            let asked = self.config.labels.min_new_labels;
            if new < asked {
                return Ok(Some(format!(
                    "{new} new or changed labels since the last run, {asked} are asked for \
                     (labels.min_new_labels)"
                )));
            }
            Ok(None)
        })
    }

    fn work_folder(&self) -> Result<PathBuf, JobError> {
        let folder = match self.config.train.work_folder.as_str() {
            "" => tagstream_model::runtime::cache_folder()
                .unwrap_or_else(std::env::temp_dir)
                .join("retrain"),
            folder => PathBuf::from(folder),
        };
        std::fs::create_dir_all(&folder).map_err(JobError::io(&folder))?;
        Ok(folder)
    }
}

/// The name of a run of `build` that `deciding` decides. Other code may come to another result:
/// after an upgrade the same labels are judged again, and no checkpoint of the old code goes on.
fn run_hash(deciding: &serde_json::Value, build: &str) -> String {
    let all = serde_json::json!({ "deciding": deciding, "build": build });
    let mut hash = digest::sha256(all.to_string());
    hash.truncate(16);
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_revision_is_another_run() {
        let deciding = serde_json::json!({"seed": 1, "snapshot": "of labels"});
        let hash = |build| run_hash(&deciding, build);
        assert_eq!(hash("0.2.0+abc"), hash("0.2.0+abc"));
        assert_eq!(hash("0.2.0+abc").len(), 16);
        let other = ["0.2.0+abd", "0.2.0+abc-dirty", "0.2.0", "0.2.1+abc"].map(hash);
        assert!(!other.contains(&hash("0.2.0+abc")), "{other:?}");
        let seed = serde_json::json!({"seed": 2, "snapshot": "of labels"});
        assert_ne!(run_hash(&seed, "0.2.0+abc"), hash("0.2.0+abc"));
    }
}
