//! Label Studio: its webhook, by which labels that are given there become label events, and what
//! it asks an ML backend for, by which its pictures are labelled in advance.
//!
//! Every request is JSON, so that no form of a foreign page can be one.

mod backend;
mod error;
mod memory;
mod webhook;

use super::api::Predictor;
use super::config::{LabelStudioConfig, ServeConfig};
use super::visitor::Visitor;
use crate::labelling::PublishError;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::routing::{MethodRouter, get, post};
use axum::{Extension, Json, Router};
use bytes::Bytes;
use error::StudioError;
use serde_json::{Value, json};
use std::sync::Arc;
use tagstream_core::image_id::IdRule;
use tagstream_train::labels::{ImportOptions, notice};
use webhook::Webhook;

/// Largest notice, bytes: Label Studio sends up to a hundred annotations in one.
const LARGEST_NOTICE: usize = 16 << 20;

/// What answers Label Studio.
pub(crate) struct Studio {
    options: ImportOptions,
    webhook: Option<Webhook>,
    predictor: Option<Arc<Predictor>>,
}

/// A path with what answers it.
type Route = (
    &'static str,
    &'static str,
    fn() -> MethodRouter<Arc<Studio>>,
);

/// Every path, with its method.
pub(super) const ROUTES: [Route; 5] = [
    ("/label-studio/health", "get", || get(backend::health)),
    ("/label-studio/setup", "post", || post(backend::setup)),
    ("/label-studio/versions", "get", || get(backend::versions)),
    ("/label-studio/predict", "post", || post(backend::predict)),
    ("/label-studio/webhook", "post", || post(take)),
];

/// Whether a path is one of Label Studio's.
pub(super) fn is_of_label_studio(path: &str) -> bool {
    path.starts_with("/label-studio/")
}

/// Whether a path takes labels, which only those may send who may act.
pub(super) fn takes_labels(path: &str) -> bool {
    path == "/label-studio/webhook"
}

impl Studio {
    /// Sets up a producer where labels are taken; asks nobody yet.
    ///
    /// # Errors
    /// [`PublishError`] if librdkafka takes no such client.
    pub(crate) fn new(
        config: &ServeConfig,
        predictor: Option<Arc<Predictor>>,
    ) -> Result<Arc<Self>, PublishError> {
        let takes = !config.label_studio.state.is_empty() && !config.topics.labels.is_empty();
        let webhook = match takes {
            true => Some(Webhook::new(config)?),
            false => None,
        };
        Ok(Arc::new(Studio {
            options: import_options(&config.label_studio),
            webhook,
            predictor,
        }))
    }
}

/// What `labels import` would be told.
fn import_options(config: &LabelStudioConfig) -> ImportOptions {
    let told = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    ImportOptions {
        id: IdRule::named(&config.id),
        root: config.root.clone(),
        exhaustive: config.exhaustive,
        uri_prefix: config.uri_prefix.clone(),
        image_key: told(&config.image_key),
        controls: config.controls.clone(),
        absent_control: told(&config.absent_control),
        ..ImportOptions::default()
    }
}

/// All of them.
pub(crate) fn routes(studio: Arc<Studio>) -> Router {
    let routes = ROUTES
        .iter()
        .fold(Router::new(), |router, (path, _, answer)| {
            router.route(path, answer())
        });
    routes.with_state(studio)
}

/// The body of a request that is to be JSON.
async fn body(request: Request, most: usize) -> Result<Bytes, StudioError> {
    let kind = request.headers().get(CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.to_ascii_lowercase().starts_with("application/json") {
        return Err(StudioError::MediaType);
    }
    let read = super::body::whole(request.into_body(), most).await;
    read.ok_or(StudioError::TooLarge(most))
}

/// A request of the webhook.
async fn take(
    State(studio): State<Arc<Studio>>,
    Extension(visitor): Extension<Visitor>,
    request: Request,
) -> Result<Json<Value>, StudioError> {
    let webhook = studio.webhook.as_ref().ok_or(StudioError::NotTaken(
        "set `label_studio.state` and `topics.labels`, and labels are taken here",
    ))?;
    let bytes = body(request, LARGEST_NOTICE).await?;
    let notice = notice(&bytes, &studio.options)?;
    let events = webhook.take(notice, &visitor.name).await?;
    Ok(Json(json!({"events": events})))
}
