//! A bundle that knows one category more, by its words alone: no training, no label.

use super::bundle::{Bundle, BundleError, Category};
use super::head::HeadError;
use super::init::PROMPT_TEMPLATE;
use super::new_head::{NewHead, Towers};
use super::text::{ClipTextEncoder, TextEncoderError};
use std::collections::BTreeMap;
use std::path::Path;

/// How the lineage's method ends where a category was added by its words; the head is the parent's
/// but for that.
pub const BY_WORDS: &str = " and a category by its words";

/// Why a category cannot be added.
#[derive(Debug, thiserror::Error)]
pub enum AddCategoryError {
    /// It is there.
    #[error("the model has a category `{0}` already")]
    Known(String),
    /// No name.
    #[error("a category needs a name and words to look for")]
    Empty,
    /// Nothing to make the words' feature with.
    #[error("{0} has no text tower (text/), without which words mean nothing")]
    NoTextTower(String),
    /// The words cannot be embedded.
    #[error("embedding the category's words: {0}")]
    Text(#[from] TextEncoderError),
    /// The head does not take it.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// The bundle cannot be read or written.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

/// Writes to `out` (which must not exist) the bundle with the category `name` behind all others.
/// `words` stand for it in the prompt "a photo of a ..."; without them the name does, underscores
/// as spaces. Its threshold is the mean of the others'.
///
/// What training left beside the head stays as it is: the next retraining starts the category from
/// its words.
///
/// # Errors
/// [`AddCategoryError`]; nothing is left at `out` then.
pub fn add_category(
    bundle: &Bundle,
    name: &str,
    words: Option<&str>,
    out: &Path,
) -> Result<Bundle, AddCategoryError> {
    let manifest = bundle.manifest();
    let name = name.trim();
    let words = words.map_or_else(|| name.replace('_', " "), |w| w.trim().to_owned());
    if name.is_empty() || words.is_empty() {
        return Err(AddCategoryError::Empty);
    }
    if manifest.categories.iter().any(|c| c.name == name) {
        return Err(AddCategoryError::Known(name.into()));
    }
    let no_tower = || AddCategoryError::NoTextTower(bundle.id().into());
    let tower = ClipTextEncoder::open(&bundle.text_files().ok_or_else(no_tower)?)?;
    let prompt = PROMPT_TEMPLATE.replace("{}", &words);
    let text = tower.embed(&[prompt], |_| ())?;
    let (head, trainable) = bundle.head()?;
    let files = head
        .with_category(&text)?
        .to_files(Some(manifest.positions()), &trainable)?;

    let mut categories = manifest.categories.clone();
    let thresholds: f32 = categories.iter().map(|c| c.threshold).sum();
    categories.push(Category {
        name: name.into(),
        prompt: words,
        threshold: thresholds / manifest.categories.len() as f32,
    });
    // The id is this name and a hash of the content.
    let base = bundle.id().rsplit_once('-').map_or("model", |(n, _)| n);
    let head = NewHead {
        name: base,
        files: &files,
        categories,
        calibration: manifest.calibration,
        // Figures of the parent are not this model's: it answers one question more.
        metrics: BTreeMap::new(),
        method: format!("{}{BY_WORDS}", manifest.lineage.method),
        label_snapshot: manifest.lineage.label_snapshot.clone(),
        seed: manifest.lineage.seed,
    };
    Ok(Towers::from(bundle).with_head(head, out)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::{CategoryList, ClipFolder, Init};
    use std::path::PathBuf;

    /// A zero-shot bundle of a tiny CLIP with these categories.
    fn zero_shot(folder: &Path, names: &[&str]) -> Bundle {
        let fixture = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        let clip = ClipFolder::open(&fixture.join("models/demo-clip")).unwrap();
        let list = folder.join(format!("{}.txt", names.len()));
        std::fs::write(&list, names.join("\n")).unwrap();
        let init = Init {
            clip: &clip,
            name: "demo-clip",
            source: "test",
            categories: &CategoryList::read(&list).unwrap(),
            tower: Default::default(),
            views: crate::views::Views::default(),
        };
        let out = folder.join(format!("bundle-{}", names.len()));
        init.run(&out, |_| ()).unwrap()
    }

    #[test]
    fn a_zero_shot_model_becomes_the_one_that_it_would_have_been_with_the_category() {
        let folder = tempfile::tempdir().unwrap();
        let small = zero_shot(folder.path(), &["cat", "dog"]);
        let large = zero_shot(folder.path(), &["cat", "dog", "sail_boat"]);
        let out = folder.path().join("added");
        let added = add_category(&small, "sail_boat", None, &out).unwrap();
        let manifest = added.manifest();
        assert_eq!(manifest.categories, large.manifest().categories);
        assert_eq!(manifest.parent.as_deref(), Some(small.id()));
        assert_eq!(added.encoder_hash(), small.encoder_hash());
        let (ours, _) = added.head().unwrap();
        let (theirs, _) = large.head().unwrap();
        for (a, b) in [
            (&ours.region.weight, &theirs.region.weight),
            (&ours.region.bias, &theirs.region.bias),
        ] {
            assert_eq!(a.len(), b.len());
            assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4));
        }
        let image = vec![0.3; 4 * ours.dim];
        let [x, y] = [&ours, &theirs].map(|h| h.evaluate(&image, &image[..h.dim], 1).logits);
        assert!(
            x.iter().zip(&y).all(|(a, b)| (a - b).abs() < 1e-3),
            "{x:?} {y:?}"
        );
    }

    #[test]
    fn what_cannot_be_added_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let bundle = zero_shot(folder.path(), &["cat", "dog"]);
        let out = folder.path().join("added");
        for (name, words, wrong) in [
            ("dog", None, "`dog` already"),
            (" ", None, "needs a name"),
            ("bird", Some(" "), "needs a name"),
        ] {
            let error = add_category(&bundle, name, words, &out).unwrap_err();
            assert!(error.to_string().contains(wrong), "{error}");
            assert!(!out.exists());
        }
    }
}
