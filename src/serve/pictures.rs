//! Pictures as pages show them: fetched by the rules of the stage, decoded where the stage decodes,
//! and sent as small JPEGs of our own making. What others wrote never reaches a browser.
//!
//! A page names a picture by a key that only this process can make of an address: nobody can ask
//! for an address of their own, and no address (it may hold a signature) stands on a page.

use crate::stage::budget::Budget;
use crate::stage::decoding;
use crate::stage::fetch::Fetcher;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use tagstream_core::config::{ConfigError, DecodeConfig, FetchConfig, ObjectStoreConfig};
use tagstream_core::digest;
use tagstream_core::process::blocking;
use tagstream_image::decoders::Decoders;
use tokio::sync::Semaphore;

/// Longest side of a picture on a page, pixels.
const SIDE: u32 = 800;
const JPEG_QUALITY: u8 = 84;
/// Addresses that are remembered.
const MOST_KNOWN: usize = 20_000;
/// Bytes of pictures that are kept ready.
const MOST_KEPT: usize = 64 << 20;
/// Pictures that are made at a time.
const AT_A_TIME: usize = 2;
/// Bytes of files that are held while pictures are made.
const BUDGET: u64 = 128 << 20;

/// Pictures that pages may show.
pub(crate) struct Pictures {
    fetcher: Fetcher,
    decoders: Decoders,
    budget: Budget,
    places: Semaphore,
    secret: [u8; 32],
    known: Mutex<Known>,
    kept: Mutex<Kept>,
}

/// Addresses by key, oldest first in the list.
#[derive(Debug, Default)]
struct Known {
    addresses: HashMap<String, String>,
    order: VecDeque<String>,
}

/// Pictures that were made, oldest first in the list.
#[derive(Debug, Default)]
struct Kept {
    pictures: HashMap<String, Bytes>,
    order: VecDeque<String>,
    bytes: usize,
}

impl Pictures {
    /// Pictures by these rules. Nothing is fetched yet.
    ///
    /// # Errors
    /// [`ConfigError`] names the key that cannot be right.
    pub(crate) fn new(
        fetch: &FetchConfig,
        decode: &DecodeConfig,
        stores: &ObjectStoreConfig,
    ) -> Result<Self, ConfigError> {
        Ok(Pictures {
            fetcher: Fetcher::new(fetch, stores)?,
            decoders: decoding::decoders(decode),
            budget: Budget::new(BUDGET.max(2 * (fetch.max_mib << 20))),
            places: Semaphore::new(AT_A_TIME),
            secret: rand::random(),
            known: Mutex::default(),
            kept: Mutex::default(),
        })
    }

    /// Where a page finds the picture that is at `uri`.
    pub(crate) fn path(&self, uri: &str) -> String {
        let mut hasher = Sha256::new();
        hasher.update(self.secret);
        hasher.update(uri.as_bytes());
        let key = digest::hex(hasher.finalize())[..32].to_owned();
        let mut known = self.known.lock().unwrap_or_else(|e| e.into_inner());
        if !known.addresses.contains_key(&key) {
            if known.order.len() >= MOST_KNOWN
                && let Some(oldest) = known.order.pop_front()
            {
                known.addresses.remove(&oldest);
            }
            known.order.push_back(key.clone());
            known.addresses.insert(key.clone(), uri.to_owned());
        }
        format!("/pictures/{key}")
    }

    /// The address of which [`Pictures::path`] made `key`; it is not for pages.
    pub(crate) fn address(&self, key: &str) -> Option<String> {
        let known = self.known.lock().unwrap_or_else(|e| e.into_inner());
        known.addresses.get(key).cloned()
    }

    fn kept(&self, key: &str) -> Option<Bytes> {
        let kept = self.kept.lock().unwrap_or_else(|e| e.into_inner());
        kept.pictures.get(key).cloned()
    }

    fn keep(&self, key: String, picture: Bytes) {
        let mut kept = self.kept.lock().unwrap_or_else(|e| e.into_inner());
        if kept.pictures.contains_key(&key) {
            return;
        }
        kept.bytes += picture.len();
        kept.order.push_back(key.clone());
        kept.pictures.insert(key, picture);
        while kept.bytes > MOST_KEPT
            && let Some(oldest) = kept.order.pop_front()
        {
            let gone = kept.pictures.remove(&oldest);
            kept.bytes -= gone.map_or(0, |picture| picture.len());
        }
    }

    /// The picture that is at `uri`, small; why not, for people.
    async fn make(&self, uri: &str) -> Result<Bytes, String> {
        let _place = self.places.acquire().await.map_err(|e| e.to_string())?;
        let fetched = self.fetcher.fetch(uri, &self.budget).await;
        let fetched = fetched.map_err(|error| error.to_string())?;
        let decoders = self.decoders.clone();
        let work = blocking::run(move || {
            let bytes = fetched.body.load().map_err(|error| error.to_string())?;
            let picture = decoders
                .decode_rgb(&bytes)
                .map_err(|error| error.to_string())?;
            small(&picture).map_err(|error| error.to_string())
        });
        work.await.map_err(|error| error.to_string())?
    }
}

fn small(picture: &image::RgbImage) -> Result<Bytes, image::ImageError> {
    let (width, height) = picture.dimensions();
    let scale = (f64::from(SIDE) / f64::from(width.max(height))).min(1.0);
    let side = |length: u32| ((f64::from(length) * scale).round() as u32).max(1);
    let filter = image::imageops::FilterType::Triangle;
    let resized = image::imageops::resize(picture, side(width), side(height), filter);
    let mut jpeg = Vec::new();
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut jpeg, JPEG_QUALITY)
        .encode_image(&resized)?;
    Ok(jpeg.into())
}

/// `/pictures/{key}`.
pub(crate) fn routes(pictures: Arc<Pictures>) -> Router {
    Router::new()
        .route("/pictures/{key}", get(show))
        .with_state(pictures)
}

/// Stands where a picture cannot be had: a page with holes in it is hard to read.
const NONE: &str = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 160 120\">\
    <rect width=\"160\" height=\"120\" fill=\"#8883\"/>\
    <path d=\"M52 82l18-24 14 17 9-10 15 17z\" fill=\"#8888\"/>\
    <circle cx=\"98\" cy=\"44\" r=\"7\" fill=\"#8888\"/>\
    <path d=\"M46 26l68 68\" stroke=\"#888\" stroke-width=\"4\"/></svg>";

async fn show(State(pictures): State<Arc<Pictures>>, Path(key): Path<String>) -> Response {
    let Some(uri) = pictures.address(&key) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let made = match pictures.kept(&key) {
        Some(picture) => Ok(picture),
        None => pictures.make(&uri).await,
    };
    match made {
        Ok(picture) => {
            pictures.keep(key, picture.clone());
            let kept = "private, max-age=3600";
            (
                [(CONTENT_TYPE, "image/jpeg"), (CACHE_CONTROL, kept)],
                picture,
            )
                .into_response()
        }
        Err(reason) => {
            tracing::debug!(reason, "a picture cannot be shown");
            let kept = "private, max-age=60";
            (
                [(CONTENT_TYPE, "image/svg+xml"), (CACHE_CONTROL, kept)],
                NONE,
            )
                .into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pictures(folder: &std::path::Path) -> Pictures {
        let fetch = FetchConfig {
            allow_schemes: vec!["file".into()],
            allow_path_prefixes: vec![folder.to_str().unwrap().into()],
            ..FetchConfig::default()
        };
        let stores = ObjectStoreConfig::default();
        Pictures::new(&fetch, &DecodeConfig::default(), &stores).unwrap()
    }

    fn key(path: &str) -> String {
        path.strip_prefix("/pictures/").unwrap().to_owned()
    }

    #[tokio::test]
    async fn a_picture_is_sent_small_and_kept_and_others_are_not_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.jpg");
        let picture = image::RgbImage::from_pixel(2_000, 500, image::Rgb([200, 90, 10]));
        picture.save(&file).unwrap();
        let all = Arc::new(pictures(folder.path()));
        let path = all.path(&format!("file://{}", file.display()));
        assert!(!path.contains("a.jpg"), "{path}");
        let answer = show(State(Arc::clone(&all)), Path(key(&path))).await;
        let bytes = axum::body::to_bytes(answer.into_body(), 1 << 20)
            .await
            .unwrap();
        let shown = image::load_from_memory(&bytes).unwrap();
        assert_eq!((shown.width(), shown.height()), (800, 200));
        std::fs::remove_file(&file).unwrap();
        let again = show(State(Arc::clone(&all)), Path(key(&path))).await;
        assert_eq!(again.headers()[CONTENT_TYPE], "image/jpeg", "it was kept");
        for made_up in ["../../etc/passwd", "0", &"0".repeat(32)] {
            let answer = show(State(Arc::clone(&all)), Path(made_up.to_owned())).await;
            assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{made_up}");
        }
    }

    #[tokio::test]
    async fn what_may_not_be_fetched_is_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let all = Arc::new(pictures(folder.path()));
        for uri in [
            "file:///etc/passwd",
            "http://127.0.0.1:1/",
            "javascript:alert(1)",
        ] {
            let path = all.path(uri);
            let answer = show(State(Arc::clone(&all)), Path(key(&path))).await;
            assert_eq!(answer.headers()[CONTENT_TYPE], "image/svg+xml", "{uri}");
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let all = pictures(folder.path());
        for number in 0..MOST_KNOWN + 10 {
            all.path(&format!("s3://b/{number}"));
        }
        assert_eq!(all.known.lock().unwrap().addresses.len(), MOST_KNOWN);
        for number in 0..70 {
            all.keep(number.to_string(), Bytes::from(vec![0; 1 << 20]));
        }
        let kept = all.kept.lock().unwrap();
        assert!(
            kept.bytes <= MOST_KEPT && kept.pictures.len() == 64,
            "{}",
            kept.bytes
        );
    }
}
