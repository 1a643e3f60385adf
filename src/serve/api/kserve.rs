//! The Open Inference Protocol (KServe V2): one model, `tagstream`, whose input is a picture.
//!
//! | tensor | type | shape | what |
//! |---|---|---|---|
//! | in `image` | BYTES | `[n]` | each the picture in base 64, or its address |
//! | out `scores` | FP32 | `[n, C]` | calibrated probabilities |
//! | out `embedding` | FP32 | `[n, D]` | unit vectors |
//! | out `tags` | BYTES | `[n]` | each a JSON list of tags, as in `/v1/tag` |

use super::error::ApiError;
use super::predictor::{Predicted, Predictor};
use super::{Subject, body, decoded, in_base64, json, kind_of, named, predicted};
use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use futures::future::try_join_all;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use tagstream_core::build;

/// The model's name.
const MODEL: &str = "tagstream";
/// Most pictures of one request.
const MOST_PICTURES: usize = 64;

pub(super) async fn server() -> Json<Value> {
    Json(json!({"name": "tagstream", "version": build::VERSION, "extensions": []}))
}

pub(super) async fn live() -> Json<Value> {
    Json(json!({"live": true}))
}

pub(super) async fn ready(State(predictor): State<Arc<Predictor>>) -> (StatusCode, Json<Value>) {
    let ready = predictor.engine().is_ok();
    let status = match ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Json(json!({"ready": ready})))
}

fn known(model: &str) -> Result<(), ApiError> {
    match model == MODEL {
        true => Ok(()),
        false => Err(ApiError::NoSuchModel(MODEL.into())),
    }
}

pub(super) async fn model_ready(
    State(predictor): State<Arc<Predictor>>,
    Path(model): Path<String>,
) -> Result<Json<Value>, ApiError> {
    known(&model)?;
    predictor.engine()?;
    Ok(Json(json!({"name": MODEL, "ready": true})))
}

pub(super) async fn model(
    State(predictor): State<Arc<Predictor>>,
    Path(model): Path<String>,
) -> Result<Json<Value>, ApiError> {
    known(&model)?;
    let loaded = predictor.engine()?.model();
    let embedding = loaded.manifest.dims.embedding;
    Ok(Json(json!({
        "name": MODEL,
        "versions": [loaded.id()],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [
            {"name": "scores", "datatype": "FP32", "shape": [-1, loaded.categories()]},
            {"name": "embedding", "datatype": "FP32", "shape": [-1, embedding]},
            {"name": "tags", "datatype": "BYTES", "shape": [-1]},
        ],
    })))
}

#[derive(Debug, Deserialize)]
struct InferRequest {
    #[serde(default)]
    id: Option<String>,
    inputs: Vec<InputTensor>,
    #[serde(default)]
    outputs: Vec<WantedOutput>,
}

#[derive(Debug, Deserialize)]
struct InputTensor {
    name: String,
    datatype: String,
    shape: Vec<usize>,
    data: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct WantedOutput {
    name: String,
}

pub(super) async fn infer_version(
    state: State<Arc<Predictor>>,
    Path((model, version)): Path<(String, String)>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let serving = state.engine()?.model().id().to_owned();
    if version != serving {
        return Err(ApiError::NoSuchModel(format!("{MODEL}, version {serving}")));
    }
    infer(state, Path(model), request).await
}

pub(super) async fn infer(
    State(predictor): State<Arc<Predictor>>,
    Path(model): Path<String>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    known(&model)?;
    if !kind_of(&request).starts_with("application/json") {
        return Err(ApiError::MediaType);
    }
    let _place = predictor.place()?;
    let most = predictor.most_bytes();
    let bytes = body(request.into_body(), 2 * in_base64(most)).await?;
    let asked: InferRequest = json(&bytes)?;
    let bad = |reason: &str| ApiError::BadRequest(reason.into());
    let [input] = &asked.inputs[..] else {
        return Err(bad("there must be one input, `image`"));
    };
    let count = input.data.len();
    if input.name != "image" || input.datatype != "BYTES" {
        return Err(bad("the input must be `image`, of the type BYTES"));
    }
    if count == 0 || count > MOST_PICTURES || input.shape.iter().product::<usize>() != count {
        return Err(bad("`shape` must be the number of pictures, from 1 to 64"));
    }
    let subjects = input.data.iter().map(|text| match text.contains(':') {
        true => Ok(Subject::Address(text.clone())),
        false => Ok(Subject::Picture(decoded(text, most)?)),
    });
    let subjects = subjects.collect::<Result<Vec<_>, ApiError>>()?;
    // Together, so that they become one batch.
    let all = subjects
        .into_iter()
        .map(|subject| predicted(&predictor, subject));
    let all = try_join_all(all).await?;
    let outputs = outputs(&all, &asked.outputs)?;
    let version = all
        .first()
        .map(|(inference, _)| inference.model.id().to_owned());
    let mut answer = json!({
        "model_name": MODEL, "model_version": version, "outputs": outputs,
    });
    if let Some(id) = asked.id {
        answer["id"] = id.into();
    }
    Ok(Json(answer))
}

fn outputs(all: &[Predicted], wanted: &[WantedOutput]) -> Result<Vec<Value>, ApiError> {
    let rows = |of: fn(&Predicted) -> &Vec<f32>| {
        let width = all.first().map_or(0, |one| of(one).len());
        // A model may have been exchanged between two pictures of one request.
        if all.iter().any(|one| of(one).len() != width) {
            return Err(ApiError::NotReady(
                "the model was just exchanged; ask again".into(),
            ));
        }
        let data: Vec<f32> = all.iter().flat_map(|one| of(one).iter().copied()).collect();
        Ok((width, data))
    };
    let (categories, scores) = rows(|(inference, _)| &inference.scores)?;
    let (dim, embeddings) = rows(|(inference, _)| &inference.embedding)?;
    let tags = all.iter().map(|one| serde_json::to_string(&named(one)));
    let tags = tags.collect::<Result<Vec<_>, _>>();
    let tags = tags.map_err(|error| ApiError::Internal(error.to_string()))?;
    let count = all.len();
    let outputs = [
        json!({
            "name": "scores", "datatype": "FP32", "shape": [count, categories], "data": scores,
        }),
        json!({
            "name": "embedding", "datatype": "FP32", "shape": [count, dim], "data": embeddings,
        }),
        json!({"name": "tags", "datatype": "BYTES", "shape": [count], "data": tags}),
    ];
    let is_wanted = |output: &Value| {
        wanted.is_empty() || wanted.iter().any(|w| output["name"] == w.name.as_str())
    };
    Ok(outputs.into_iter().filter(is_wanted).collect())
}
