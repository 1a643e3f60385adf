//! The model over HTTP: `/v1/tag`, `/v1/embed`, and the paths of the Open Inference Protocol
//! (KServe V2) by which gateways know a model. `schemas/serve.openapi.json` says the same.
//!
//! Pictures are fetched and decoded by the rules and within the bounds of the stage, and pictures
//! that come at a time run as one batch.

mod error;
mod kserve;
mod predictor;

pub(crate) use error::ApiError;
pub(crate) use predictor::{Predictor, Saliency};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use predictor::Predicted;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tagstream_core::events::Tag;

/// A path with what answers it.
type Route = (
    &'static str,
    &'static str,
    fn() -> MethodRouter<Arc<Predictor>>,
);

/// Every path, with its method.
const ROUTES: [Route; 9] = [
    ("/v1/tag", "post", || post(tag)),
    ("/v1/embed", "post", || post(embed)),
    ("/v2", "get", || get(kserve::server)),
    ("/v2/health/live", "get", || get(kserve::live)),
    ("/v2/health/ready", "get", || get(kserve::ready)),
    ("/v2/models/{model}", "get", || get(kserve::model)),
    ("/v2/models/{model}/ready", "get", || {
        get(kserve::model_ready)
    }),
    ("/v2/models/{model}/infer", "post", || post(kserve::infer)),
    (
        "/v2/models/{model}/versions/{version}/infer",
        "post",
        || post(kserve::infer_version),
    ),
];

/// All of them.
pub(crate) fn routes(predictor: Arc<Predictor>) -> Router {
    let routes = ROUTES
        .iter()
        .fold(Router::new(), |router, (path, _, answer)| {
            router.route(path, answer())
        });
    routes.with_state(predictor)
}

/// One picture, or one text.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Subjects {
    /// Where the picture is.
    uri: Option<String>,
    /// The picture itself, base 64.
    image: Option<String>,
    /// A text, where one can be embedded.
    text: Option<String>,
}

/// The answer of `/v1/tag`.
#[derive(Debug, Serialize)]
struct Tagged {
    model_version: String,
    width: u32,
    height: u32,
    tags: Vec<Tag>,
}

/// The answer of `/v1/embed`.
#[derive(Debug, Serialize)]
struct Embedded {
    model_version: String,
    kind: &'static str,
    embedding: Vec<f32>,
}

/// What a request asks about.
enum Subject {
    Address(String),
    Picture(Bytes),
    Text(String),
}

/// What a request says that its body is.
fn kind_of(request: &Request) -> String {
    let kind = request
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    kind.unwrap_or_default().to_ascii_lowercase()
}

/// Reads a request: JSON, or a picture as it is.
async fn subject(predictor: &Predictor, request: Request) -> Result<Subject, ApiError> {
    let kind = kind_of(&request);
    let most = predictor.most_bytes();
    if kind.starts_with("image/") || kind == "application/octet-stream" {
        return Ok(Subject::Picture(body(request.into_body(), most).await?));
    }
    if !kind.starts_with("application/json") {
        return Err(ApiError::MediaType);
    }
    let bytes = body(request.into_body(), in_base64(most)).await?;
    let asked: Subjects = json(&bytes)?;
    match (asked.uri, asked.image, asked.text) {
        (Some(uri), None, None) => Ok(Subject::Address(uri)),
        (None, Some(image), None) => Ok(Subject::Picture(decoded(&image, most)?)),
        (None, None, Some(text)) => Ok(Subject::Text(text)),
        _ => Err(ApiError::BadRequest(
            "give one of `uri`, `image` and `text`".into(),
        )),
    }
}

/// What a picture of so many bytes takes in base 64, with some room for what stands around it.
pub(super) fn in_base64(most: usize) -> usize {
    most / 3 * 4 + (64 << 10)
}

async fn body(body: Body, most: usize) -> Result<Bytes, ApiError> {
    let read = super::body::whole(body, most).await;
    read.ok_or(ApiError::TooLarge(most))
}

fn json<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    // Structs can also be read from JSON arrays, field by field; what is described is an object.
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return Err(ApiError::BadRequest("the body is no JSON object".into()));
    }
    serde_json::from_slice(bytes).map_err(|error| {
        // Not its words: they repeat what was sent.
        let (line, column) = (error.line(), error.column());
        let message = format!("the body is no such JSON (line {line}, column {column})");
        ApiError::BadRequest(message)
    })
}

fn decoded(text: &str, most: usize) -> Result<Bytes, ApiError> {
    let bytes = STANDARD.decode(text);
    let bytes = bytes.map_err(|_| ApiError::BadRequest("`image` is no base 64".into()))?;
    match bytes.len() <= most {
        true => Ok(bytes.into()),
        false => Err(ApiError::TooLarge(most)),
    }
}

async fn predicted(predictor: &Predictor, subject: Subject) -> Result<Predicted, ApiError> {
    match subject {
        Subject::Address(uri) => predictor.fetched(&uri).await,
        Subject::Picture(bytes) => predictor.sent(bytes).await,
        Subject::Text(_) => Err(ApiError::BadRequest("a text has no tags".into())),
    }
}

/// The tags by name.
pub(super) fn named(predicted: &Predicted) -> Vec<Tag> {
    let categories = &predicted.0.model.manifest.categories;
    let tags = predicted.0.tags.iter().map(|hit| Tag {
        category: categories[hit.category].name.clone(),
        display: categories[hit.category].tags.display.clone(),
        score: hit.score,
        bounding_box: hit.bounding_box(),
        boxes: Some(hit.boxes()),
    });
    tags.collect()
}

async fn tag(
    State(predictor): State<Arc<Predictor>>,
    request: Request,
) -> Result<Json<Tagged>, ApiError> {
    let _place = predictor.place()?;
    let subject = subject(&predictor, request).await?;
    let predicted = predicted(&predictor, subject).await?;
    let tags = named(&predicted);
    let (inference, size) = predicted;
    Ok(Json(Tagged {
        model_version: inference.model.id().to_owned(),
        width: size.width,
        height: size.height,
        tags,
    }))
}

async fn embed(
    State(predictor): State<Arc<Predictor>>,
    request: Request,
) -> Result<Json<Embedded>, ApiError> {
    let _place = predictor.place()?;
    let subject = subject(&predictor, request).await?;
    if let Subject::Text(text) = &subject {
        let (model_version, embedding) = predictor.text(text).await?;
        return Ok(Json(Embedded {
            model_version,
            kind: "text",
            embedding,
        }));
    }
    let (inference, _) = predicted(&predictor, subject).await?;
    Ok(Json(Embedded {
        model_version: inference.model.id().to_owned(),
        kind: "image",
        embedding: inference.embedding,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::collections::BTreeSet;

    #[test]
    fn the_published_description_and_the_code_have_the_same_paths() {
        let published = include_str!("../../../schemas/serve.openapi.json");
        let published: Value = serde_json::from_str(published).unwrap();
        let paths = published["paths"].as_object().unwrap();
        let theirs: BTreeSet<(String, String)> = paths
            .iter()
            .flat_map(|(path, methods)| {
                let methods = methods.as_object().unwrap().keys();
                methods.map(move |method| (path.clone(), method.clone()))
            })
            .collect();
        let ours = ROUTES.iter().map(|(path, method, _)| (*path, *method));
        let studio = crate::serve::studio::ROUTES.iter();
        let ours = ours.chain(studio.map(|(path, method, _)| (*path, *method)));
        let ours = ours.map(|(path, method)| (path.to_owned(), method.to_owned()));
        assert_eq!(theirs, ours.collect());
    }

    #[test]
    fn the_published_description_and_the_code_have_the_same_fields() {
        let published = include_str!("../../../schemas/serve.openapi.json");
        let published: Value = serde_json::from_str(published).unwrap();
        let fields = |name: &str| -> BTreeSet<String> {
            let schema = &published["components"]["schemas"][name]["properties"];
            schema
                .as_object()
                .unwrap_or_else(|| panic!("{name}"))
                .keys()
                .cloned()
                .collect()
        };
        let written = |value: Value| -> BTreeSet<String> {
            value.as_object().unwrap().keys().cloned().collect()
        };
        let tagged = Tagged {
            model_version: String::new(),
            width: 1,
            height: 1,
            tags: Vec::new(),
        };
        assert_eq!(
            fields("Tagged"),
            written(serde_json::to_value(tagged).unwrap())
        );
        let embedded = Embedded {
            model_version: String::new(),
            kind: "text",
            embedding: Vec::new(),
        };
        assert_eq!(
            fields("Embedded"),
            written(serde_json::to_value(embedded).unwrap())
        );
        for name in fields("Asked") {
            let asked = format!("{{{name:?}: \"x\"}}");
            assert!(json::<Subjects>(asked.as_bytes()).is_ok(), "{asked}");
        }
        assert!(json::<Subjects>(b"{\"url\": \"x\"}").is_err());
    }

    #[test]
    fn what_is_wrong_with_a_body_is_told_without_it() {
        let error = json::<Subjects>(b"{\"uri\": \"https://me:hunter2@a\", }").unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
        assert!(decoded("####", 10).is_err());
        assert!(matches!(decoded("AAAA", 2), Err(ApiError::TooLarge(2))));
    }
}
