//! The labels of the demonstration: a small part of the truth about the first half of the stream.

use super::{DemoError, Running, Story};
use crate::demo::scenes::{Scene, categories};
use crate::labelling::store::{TableError, read_labels};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::path::PathBuf;
use std::time::Duration;
use tagstream_core::config::ObjectStoreConfig;
use tagstream_core::events::LabelEvent;
use tagstream_core::storage::store::TableStore;
use tagstream_train::labels::LabelTable;

/// What a labeller says who looks at `share` of all pairs of a scene and a category, chosen at
/// random: one event a scene of which anything is said. `uri` tells where a scene's picture is.
pub fn partial_labels(
    scenes: &[Scene],
    share: f64,
    seed: u64,
    uri: impl Fn(&Scene) -> String,
) -> Vec<LabelEvent> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut events = Vec::with_capacity(scenes.len());
    for scene in scenes {
        let seen = categories().iter().filter(|_| random.random_bool(share));
        let (present, absent): (Vec<String>, Vec<String>) = seen
            .map(|category| category.to_string())
            .partition(|category| scene.has(category));
        if present.is_empty() && absent.is_empty() {
            continue;
        }
        events.push(LabelEvent {
            image_id: scene.image_id.clone(),
            uri: uri(scene),
            present,
            absent,
            retract: Vec::new(),
            annotator: "demo".into(),
            event_time: None,
        });
    }
    events
}

impl Story {
    /// Waits until the stage has filed labels of this many images, and gives all that is filed.
    ///
    /// # Errors
    /// [`DemoError::Ended`] if the stage ends before; [`DemoError::Table`] if the table cannot
    /// be read.
    pub fn wait_for_labels(
        &self,
        images: usize,
        stage: &mut Running,
    ) -> Result<LabelTable, DemoError> {
        loop {
            stage.check()?;
            let table = self.filed_labels()?;
            if table.images().count() >= images {
                return Ok(table);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn filed_labels(&self) -> Result<LabelTable, DemoError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(super::io_error(PathBuf::from("the asynchronous runtime")))?;
        let url = self.out().display().to_string();
        let store = TableStore::open_for_reading(&url, &ObjectStoreConfig::default())
            .map_err(TableError::from)?;
        Ok(runtime.block_on(read_labels(&store, "labels"))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::scenes::Style;

    #[test]
    fn a_tenth_is_known_all_of_it_true_and_about_these_scenes_only() {
        let scenes: Vec<Scene> = (0..400)
            .map(|i| Scene::draw(5, i, Style::Pale, 64))
            .collect();
        let (first, second) = scenes.split_at(200);
        let events = partial_labels(first, 0.1, 1, |s| format!("file:///{}.jpg", s.image_id));
        let mut known = 0;
        for event in &events {
            let scene = first.iter().find(|s| s.image_id == event.image_id);
            let scene = scene.expect("an event about another scene");
            assert!(event.present.iter().all(|c| scene.has(c)));
            assert!(!event.absent.iter().any(|c| scene.has(c)));
            known += event.present.len() + event.absent.len();
        }
        let unseen = |e: &LabelEvent| second.iter().any(|s| s.image_id == e.image_id);
        assert!(!events.iter().any(unseen));
        let share = known as f64 / (200 * categories().len()) as f64;
        assert!((share - 0.1).abs() < 0.01, "{share}");
        assert_eq!(
            events,
            partial_labels(first, 0.1, 1, |s| format!("file:///{}.jpg", s.image_id))
        );
    }
}
