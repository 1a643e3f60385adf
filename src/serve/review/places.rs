//! Where what is asked about was seen: the boxes of the predictions table.

use super::desk::Place;
use crate::labelling::store::{TableError, read_columns};
use crate::labelling::suggest::Suggestion;
use crate::serve::rows::{COLUMNS, PictureRows, SIZE};
use crate::serve::search::newest_first;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tagstream_core::events::Tag;
use tagstream_core::storage::store::TableStore;

/// A look through the table ends after this long: questions without boxes are questions, too.
const LONGEST: Duration = Duration::from_secs(20);

/// What the table says of pictures that are asked about, by their names.
#[derive(Debug, Default)]
pub(super) struct Places(HashMap<String, Seen>);

#[derive(Debug)]
struct Seen {
    size: (u32, u32),
    tags: Vec<Tag>,
}

impl Places {
    /// Looks the pictures of these questions up, in the newest files first: each by the row of the
    /// model whose probabilities the question was chosen by.
    ///
    /// # Errors
    /// [`TableError`] names the file that cannot be read.
    pub(super) async fn of(
        store: &TableStore,
        table: &str,
        suggestions: &[Suggestion],
    ) -> Result<Self, TableError> {
        let models = suggestions
            .iter()
            .map(|s| (s.image_id.as_str(), s.model_version.as_str()));
        let models: HashMap<&str, &str> = models.collect();
        let columns = [&COLUMNS[..], &SIZE].concat();
        let (mut seen, began) = (HashMap::<String, Seen>::new(), Instant::now());
        for file in newest_first(store, table).await? {
            if seen.len() == models.len() || began.elapsed() > LONGEST {
                break;
            }
            // Of the rows of one file the last counts.
            let mut of_file = HashMap::new();
            read_columns(store, &file, &columns, |batch, footer| {
                let rows = PictureRows::of(batch, footer)?;
                for row in 0..rows.len() {
                    let image_id = rows.image_id(row);
                    let model = models.get(image_id);
                    let wanted = model.is_some_and(|model| *model == rows.model_version(row));
                    if wanted && let Some(size) = rows.size(row) {
                        let tags = rows.picture(row)?.tags;
                        of_file.insert(image_id.to_owned(), Seen { size, tags });
                    }
                }
                Ok(())
            })
            .await?;
            for (image_id, found) in of_file {
                seen.entry(image_id).or_insert(found);
            }
        }
        Ok(Places(seen))
    }

    /// Where a category was seen in a picture; none where it is no tag of it, or no region
    /// supports the tag.
    pub(super) fn place(&self, image_id: &str, category: &str) -> Option<Place> {
        let seen = self.0.get(image_id)?;
        let tag = seen.tags.iter().find(|tag| tag.category == category)?;
        let boxes = tag.shown_boxes();
        (!boxes.is_empty()).then_some(Place {
            size: seen.size,
            boxes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::sink::parquet;
    use crate::stage::sink::predictions::tests::{layout, row};
    use std::sync::Arc;
    use tagstream_core::config::{ObjectStoreConfig, VectorEncoding};
    use tagstream_core::events::{BoundingBox, QuestionPurpose};

    #[tokio::test]
    async fn boxes_are_those_of_the_category_and_of_the_model_that_asks() {
        let folder = tempfile::tempdir().unwrap();
        let options = ObjectStoreConfig::default();
        let store = TableStore::open(folder.path().to_str().unwrap(), &options).await;
        let store = store.unwrap();
        let layout = Arc::new((*layout(false)).clone());
        let (here, mut nowhere) = (row(1, &layout), row(2, &layout));
        nowhere.image_id = "nowhere".into();
        nowhere.tags[0].boxes.clear();
        nowhere.tags[0].masks.clear();
        nowhere.tags[0].bounding_box = BoundingBox::WHOLE;
        let tagged = here.tags[0].bounding_box;
        let size = (here.width, here.height);
        let (image_id, model) = (here.image_id.clone(), here.model.version.clone());
        let category = layout.categories[here.tags[0].category].clone();
        let rows = [here, nowhere];
        let bytes = parquet::encode(&*layout, &rows, &Default::default(), VectorEncoding::Plain);
        let path = store.root().clone().join("predictions").join("images");
        let path = path.join("0").join("0-00000000000000000001.parquet");
        let bytes = bytes.unwrap().into();
        store.put_if_absent(&path, bytes).await.unwrap();
        let asked = |image_id: &str, model: &str| Suggestion {
            image_id: image_id.into(),
            uri: String::new(),
            value: 1.0,
            purpose: QuestionPurpose::Learning,
            ask: Vec::new(),
            model_version: model.into(),
        };
        let both = [asked(&image_id, &model), asked("nowhere", &model)];
        let places = Places::of(&store, "predictions", &both).await.unwrap();
        let place = places.place(&image_id, &category).unwrap();
        assert_eq!((place.size, &place.boxes[..]), (size, &[tagged][..]));
        assert_eq!(places.place(&image_id, "unicorn"), None);
        assert_eq!(places.place("nowhere", &category), None);
        assert_eq!(places.place("somebody", &category), None);
        let older = [asked(&image_id, "an older one")];
        let places = Places::of(&store, "predictions", &older).await.unwrap();
        assert_eq!(places.place(&image_id, &category), None);
    }
}
