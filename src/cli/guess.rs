//! `--pictures`: thresholds guessed from the scores of pictures without labels.

use clap::Args;
use std::path::Path;
use tagstream_core::error::usage;
use tagstream_image::decoders::Decoders;
use tagstream_model::bundle::{Bundle, Category};
use tagstream_model::categories::ThresholdSource;
use tagstream_model::new_head::with_categories;
use tagstream_model::runtime::{Device, Runtime};
use tagstream_model::tagger::{HeadRows, Tagger, TaggerOptions};
use tagstream_train::eval::tags::{FEWEST_PICTURES, GuessedThreshold, guess_threshold};

/// Pictures to guess thresholds from.
#[derive(Debug, Clone, Args)]
pub(super) struct GuessArgs {
    /// Guess thresholds from the scores of these pictures (files or folders), which need no labels:
    /// between the two humps of a category's scores, or where --expected-share says. Labels replace
    /// what is guessed.
    #[arg(long, value_name = "FILE|DIR")]
    pub pictures: Vec<String>,
    /// The share of pictures that are expected to show a category, where its scores do not say.
    #[arg(long, value_name = "SHARE", default_value_t = 0.05)]
    pub expected_share: f64,
}

impl GuessArgs {
    /// Refuses what cannot be, before any work is done.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        if !(self.expected_share > 0.0 && self.expected_share < 1.0) {
            let share = self.expected_share;
            return Err(usage(format!(
                "--expected-share is {share}: it must be above 0 and below 1, as in 0.05"
            ))
            .into());
        }
        Ok(())
    }

    /// Whether there is anything to guess from.
    pub(super) fn is_wanted(&self) -> bool {
        !self.pictures.is_empty()
    }

    /// Writes to `out` the bundle with guessed thresholds for those categories that `wanted` names
    /// and for which nobody chose one.
    pub(super) fn apply(
        &self,
        bundle: &Bundle,
        wanted: impl Fn(&Category) -> bool,
        out: &Path,
    ) -> anyhow::Result<Bundle> {
        let odds = self.odds(bundle)?;
        let mut categories = bundle.manifest().categories.clone();
        let (mut between, mut by_share) = (0, 0);
        for (at, category) in categories.iter_mut().enumerate() {
            let given = category.tags.threshold_from == Some(ThresholdSource::Given);
            if given || !wanted(category) {
                continue;
            }
            let own: Vec<f32> = odds.iter().map(|picture| picture[at]).collect();
            let Some(guess) = guess_threshold(&own, self.expected_share) else {
                continue;
            };
            match guess {
                GuessedThreshold::Between { .. } => between += 1,
                GuessedThreshold::Share { .. } => by_share += 1,
            }
            category.threshold = guess.threshold();
            category.tags.threshold_from = Some(ThresholdSource::Guess);
        }
        eprintln!(
            "thresholds are guesses from {} pictures: {between} between two humps of scores, \
             {by_share} so that {:.3} of the pictures have the tag; labels will replace them",
            odds.len(),
            self.expected_share
        );
        Ok(with_categories(bundle, categories, out)?)
    }

    /// The log-odds of every category on every picture that can be read.
    fn odds(&self, bundle: &Bundle) -> anyhow::Result<Vec<Vec<f32>>> {
        let files = super::pictures::expand(&self.pictures)?;
        // Nobody looks at evidence here.
        let options = TaggerOptions {
            rows: HeadRows::Best {
                count: 1,
                regions: false,
            },
            ..TaggerOptions::on(Device::Cpu)
        };
        let tagger = Tagger::open(&Runtime::load()?, bundle, options, None)?;
        let model = tagger.model().clone();
        let decoders = Decoders::default();
        let temperature = model.manifest.calibration.temperature;
        let mut odds = Vec::new();
        tagger.tag_each(
            files.len(),
            false,
            |index, pixels| -> Result<(u32, u32), String> {
                let bytes = std::fs::read(&files[index]).map_err(|error| error.to_string())?;
                let size = decoders.decode_into(&bytes, model.preprocessing(), pixels);
                let size = size.map_err(|error| error.to_string())?;
                Ok((size.width, size.height))
            },
            |index, result| match result {
                Ok((_, outputs)) => {
                    let logits = outputs.logits.iter();
                    let mut own: Vec<f32> = logits.map(|logit| logit / temperature).collect();
                    model.decision.raise(&mut own);
                    odds.push(own);
                }
                Err(error) => eprintln!("{}: {error}", files[index]),
            },
        )?;
        if odds.len() < FEWEST_PICTURES {
            return Err(usage(format!(
                "{} of {} pictures can be read: a guess needs at least {FEWEST_PICTURES}",
                odds.len(),
                files.len()
            ))
            .into());
        }
        Ok(odds)
    }
}
