//! Pictures of the predictions table by words, by likeness, by tag and by time.

pub(super) mod index;
mod scan;
mod view;

use super::api::Predictor;
use super::frame::{self, Tab};
use super::pictures::Pictures;
use super::visitor::Visitor;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, NaiveDate, Utc};
use index::IndexShelf;
pub(super) use scan::newest_first;
use scan::{Found, Wanted};
use serde::Deserialize;
use std::sync::Arc;
use tagstream_core::process::blocking;
use tagstream_core::storage::store::TableStore;
use tokio::sync::Semaphore;

/// Searches at a time: each may read the whole table.
const AT_A_TIME: usize = 1;

/// Longest vector of a picture that is compared, numbers.
const LONGEST_VECTOR: usize = 8_192;

/// What the search page needs.
pub(crate) struct Search {
    /// The store, and the index that may stand beside the table.
    store: Option<(TableStore, Arc<IndexShelf>)>,
    table: String,
    predictor: Option<Arc<Predictor>>,
    pictures: Arc<Pictures>,
    places: Semaphore,
}

impl Search {
    /// Searches `table`; without a store it says why it does not, without a predictor not by words.
    pub(crate) fn new(
        store: Option<TableStore>,
        table: &str,
        predictor: Option<Arc<Predictor>>,
        pictures: Arc<Pictures>,
    ) -> Arc<Self> {
        let store = store.map(|store| {
            let shelf = IndexShelf::new(&store, table);
            (store, Arc::new(shelf))
        });
        Arc::new(Search {
            store,
            table: table.to_owned(),
            predictor,
            pictures,
            places: Semaphore::new(AT_A_TIME),
        })
    }
}

/// `/search`.
pub(crate) fn routes(search: Arc<Search>) -> Router {
    Router::new().route("/search", get(page)).with_state(search)
}

/// What somebody asks for, as they wrote it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Asked {
    /// Words that pictures should be near to.
    pub words: String,
    /// The name of a picture that others should be like.
    pub image: String,
    /// The vector of a picture of somebody's own, which the page has had made of it: little-endian
    /// floats in base 64 for addresses. So an answer can be shown again without the picture.
    pub vector: String,
    /// A category.
    pub tag: String,
    /// How probable it must be, percent.
    pub least: String,
    /// A day, or a time: pictures from then on.
    pub from: String,
    /// Pictures before then.
    pub to: String,
}

impl Asked {
    fn is_empty(&self) -> bool {
        let likes = [&self.words, &self.image, &self.vector];
        let mut all = likes.into_iter().chain([&self.tag, &self.from, &self.to]);
        all.all(|text| text.trim().is_empty())
    }
}

async fn page(
    State(search): State<Arc<Search>>,
    Extension(visitor): Extension<Visitor>,
    Query(asked): Query<Asked>,
) -> Response {
    let found = match asked.is_empty() {
        true => None,
        false => Some(search.find(&asked).await),
    };
    let words = search.predictor.is_some();
    let content = view::page(&asked, words, found.as_ref(), &search.pictures);
    let scripts: &[&str] = if words { &["search.js"] } else { &[] };
    frame::page("Search", Tab::Search, &visitor, scripts, &content).into_response()
}

impl Search {
    /// What was found; why nothing was, for people.
    async fn find(&self, asked: &Asked) -> Result<Found, String> {
        let (store, shelf) = self
            .store
            .clone()
            .ok_or("No tables are named in `tables.url`.")?;
        let mut wanted = Wanted {
            from: time(&asked.from)?,
            to: time(&asked.to)?,
            ..Wanted::default()
        };
        if !asked.tag.trim().is_empty() {
            let least = match asked.least.trim() {
                "" => 50.0,
                text => text
                    .parse::<f32>()
                    .map_err(|_| "The least probability is no number.")?,
            };
            wanted.tag = Some((asked.tag.trim().to_owned(), least / 100.0));
        }
        let (words, image) = (asked.words.trim(), asked.image.trim().to_owned());
        if !words.is_empty() {
            let predictor = self.predictor.as_ref();
            let predictor = predictor.ok_or("Words need the model: set `inference.enabled`.")?;
            let text = predictor
                .text(words)
                .await
                .map_err(|error| error.to_string())?;
            wanted.near = Some(text.1);
        } else if !asked.vector.is_empty() {
            wanted.near = Some(vector(&asked.vector)?);
        }
        let _place = self
            .places
            .acquire()
            .await
            .map_err(|error| error.to_string())?;
        let table = self.table.clone();
        // Reading a table is work for a thread of its own.
        let runtime = tokio::runtime::Handle::current();
        let found = blocking::run(move || {
            runtime.block_on(async {
                if wanted.near.is_none() && !image.is_empty() {
                    let vector = scan::vector_of(&store, &table, &image).await;
                    let vector = vector.map_err(|error| error.to_string())?;
                    let missing = || format!("No row of the table has the image {image}.");
                    wanted.near = Some(vector.ok_or_else(missing)?);
                    wanted.itself = Some(image);
                }
                let found = scan::search(&store, &table, &wanted, &shelf).await;
                found.map_err(|error| error.to_string())
            })
        });
        found.await.map_err(|error| error.to_string())?
    }
}

/// The vector that a text holds, made as long as all others are: 1.
fn vector(text: &str) -> Result<Vec<f32>, String> {
    let wrong = || "This is no vector of a picture: choose the picture again.".to_owned();
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| wrong())?;
    let (floats, rest) = bytes.as_chunks::<4>();
    let floats: Vec<f32> = floats
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect();
    let length = floats.iter().map(|x| x * x).sum::<f32>().sqrt();
    match rest.is_empty() && length.is_finite() && length > 0.0 && floats.len() <= LONGEST_VECTOR {
        true => Ok(floats.into_iter().map(|x| x / length).collect()),
        false => Err(wrong()),
    }
}

/// A day or a time; none if nothing is written.
fn time(text: &str) -> Result<Option<DateTime<Utc>>, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(Some(time.to_utc()));
    }
    let day = text
        .parse::<NaiveDate>()
        .ok()
        .and_then(|day| day.and_hms_opt(0, 0, 0));
    let time = day.map(|time| time.and_utc());
    let wrong = "A time is written as 2026-01-31 or 2026-01-31T12:00:00Z.";
    time.map(Some).ok_or_else(|| wrong.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_is_one_of_finite_numbers_that_point_somewhere() {
        let text = |floats: &[f32]| {
            let bytes: Vec<u8> = floats.iter().flat_map(|x| x.to_le_bytes()).collect();
            URL_SAFE_NO_PAD.encode(bytes)
        };
        assert_eq!(vector(&text(&[3.0, 0.0, 4.0])).unwrap(), [0.6, 0.0, 0.8]);
        for wrong in [
            text(&[0.0, 0.0]),
            text(&[f32::NAN, 1.0]),
            text(&[f32::INFINITY]),
            text(&[f32::MAX, f32::MAX]),
            text(&vec![1.0; LONGEST_VECTOR + 1]),
            "AAA".into(),
            "<script>".into(),
            "AAAA/+==".into(),
        ] {
            let error = vector(&wrong).unwrap_err();
            assert!(error.contains("choose the picture again"), "{error}");
        }
    }

    #[test]
    fn times_are_days_or_instants() {
        assert_eq!(time("  ").unwrap(), None);
        let day = time("2026-01-31").unwrap().unwrap();
        assert_eq!(day.to_rfc3339(), "2026-01-31T00:00:00+00:00");
        let instant = time("2026-01-31T12:00:00+01:00").unwrap().unwrap();
        assert_eq!(instant.to_rfc3339(), "2026-01-31T11:00:00+00:00");
        for wrong in ["yesterday", "31.1.2026", "2026-13-01"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }
}
