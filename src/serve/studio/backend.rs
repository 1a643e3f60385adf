//! What Label Studio asks an ML backend for. A backend of it is added by the address of these
//! pages with `/label-studio`; where tokens are used, one is its password (any user's name).

use super::error::StudioError;
use super::{Studio, body};
use crate::serve::api::{ApiError, Predictor, in_base64, named};
use axum::Json;
use axum::extract::{Request, State};
use futures::stream::{self, StreamExt, TryStreamExt};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use tagstream_train::labels::{
    ImportOptions, LabellingConfig, LabelsError, image_of_task, predicted,
};

/// Most tasks of one request: Label Studio sends a hundred.
const MOST_TASKS: usize = 1_000;
/// Pictures of one request that are fetched at a time.
const AT_A_TIME: usize = 32;

#[derive(Debug, Deserialize)]
struct PredictRequest {
    tasks: Vec<Map<String, Value>>,
    #[serde(default)]
    label_config: Option<String>,
}

#[derive(Debug, Deserialize)]
struct SetupRequest {
    #[serde(default)]
    schema: Option<String>,
}

impl Studio {
    fn predictor(&self) -> Result<&Arc<Predictor>, StudioError> {
        self.predictor.as_ref().ok_or(StudioError::NotTaken(
            "set `inference.enabled = true`, and the model answers here",
        ))
    }
}

/// The model that serves.
fn serving(predictor: &Predictor) -> Result<String, StudioError> {
    Ok(predictor.engine()?.model().id().to_owned())
}

/// Whether there is a model that answers.
pub(super) async fn health(State(studio): State<Arc<Studio>>) -> Result<Json<Value>, StudioError> {
    serving(studio.predictor()?)?;
    Ok(Json(json!({"status": "UP", "model_class": "tagstream"})))
}

/// The versions there are to ask: the one that serves.
pub(super) async fn versions(
    State(studio): State<Arc<Studio>>,
) -> Result<Json<Value>, StudioError> {
    let version = serving(studio.predictor()?)?;
    Ok(Json(json!({"versions": [version]})))
}

/// Label Studio shows its labelling configuration (and an access token, which is not looked at).
pub(super) async fn setup(
    State(studio): State<Arc<Studio>>,
    request: Request,
) -> Result<Json<Value>, StudioError> {
    let version = serving(studio.predictor()?)?;
    let bytes = body(request, in_base64(0)).await?;
    let asked: SetupRequest = read(&bytes)?;
    let config = asked.schema.filter(|schema| !schema.is_empty());
    let controls = match config {
        Some(text) => LabellingConfig::read(&text)?.controls.len(),
        None => 0,
    };
    Ok(Json(
        json!({"model_version": version, "controls": controls}),
    ))
}

fn read<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, StudioError> {
    // Not the parser's words: they repeat what was sent.
    let wrong = "the body is none that Label Studio sends an ML backend";
    serde_json::from_slice(bytes).map_err(|_| StudioError::BadRequest(wrong))
}

/// Predictions of tasks, one for each and in their order. A picture that cannot be had or decoded
/// has none, and `errors` says why; what the model cannot answer now is answered for no task.
pub(super) async fn predict(
    State(studio): State<Arc<Studio>>,
    request: Request,
) -> Result<Json<Value>, StudioError> {
    let predictor = studio.predictor()?;
    let _place = predictor.place()?;
    let version = serving(predictor)?;
    let bytes = body(request, 2 * in_base64(predictor.most_bytes())).await?;
    let asked: PredictRequest = read(&bytes)?;
    if asked.tasks.is_empty() || asked.tasks.len() > MOST_TASKS {
        return Err(StudioError::BadRequest("`tasks` must be from 1 to 1000"));
    }
    let config = asked.label_config.filter(|text| !text.is_empty());
    let config = config.ok_or(StudioError::BadRequest(
        "`label_config` is missing: the project has no labelling interface",
    ))?;
    let config = LabellingConfig::read(&config)?;
    let mut options = studio.options.clone();
    options.image_key = options.image_key.or_else(|| config.image_key.clone());
    let ids: Vec<Value> = asked
        .tasks
        .iter()
        .map(|task| task.get("id").cloned().unwrap_or_default())
        .collect();
    let mut waiting = Vec::new();
    for task in &asked.tasks {
        waiting.push(one(predictor, task, &config, &options));
    }
    let answers: Vec<Result<Value, Untagged>> = stream::iter(waiting)
        .buffered(AT_A_TIME)
        .try_collect()
        .await?;
    let mut errors = Vec::new();
    let results = ids.into_iter().zip(answers).map(|(task, answer)| {
        answer.unwrap_or_else(|Untagged { kind, message }| {
            errors.push(json!({"task": task, "kind": kind, "message": message}));
            json!([])
        })
    });
    let results: Vec<Value> = results.collect();
    if !errors.is_empty() {
        let (failed, first) = (errors.len(), errors[0].to_string());
        tracing::warn!(
            failed,
            "Label Studio's pictures that have no prediction; the first: {first}"
        );
    }
    Ok(Json(json!({
        "results": results, "model_version": version, "errors": errors,
    })))
}

/// Why a task has no prediction.
struct Untagged {
    kind: &'static str,
    message: String,
}

impl From<LabelsError> for Untagged {
    fn from(error: LabelsError) -> Self {
        Untagged {
            kind: "bad_task",
            message: error.to_string(),
        }
    }
}

/// The prediction of one task; an error of its own does not fail the others.
async fn one(
    predictor: &Predictor,
    task: &Map<String, Value>,
    config: &LabellingConfig,
    options: &ImportOptions,
) -> Result<Result<Value, Untagged>, StudioError> {
    let empty = Map::new();
    let data = task.get("data").and_then(Value::as_object);
    let uri = match image_of_task(data.unwrap_or(&empty), options) {
        Ok(uri) => uri,
        Err(error) => return Ok(Err(error.into())),
    };
    let (inference, size) = match predictor.fetched(&uri).await {
        Ok(said) => said,
        Err(error @ (ApiError::Fetch(_) | ApiError::Decode(_) | ApiError::BadRequest(_))) => {
            let (kind, message) = (error.kind(), error.to_string());
            return Ok(Err(Untagged { kind, message }));
        }
        Err(error) => return Err(error.into()),
    };
    let said = (inference, size);
    let tags = named(&said);
    let model = &said.0.model;
    let categories: Vec<String> = model
        .manifest
        .categories
        .iter()
        .map(|category| category.name.clone())
        .collect();
    let size = (size.width, size.height);
    let absent = options.absent_control.as_deref();
    let (score, result) = predicted(&tags, &categories, size, config, absent);
    Ok(Ok(json!({
        "model_version": model.id(), "score": score, "result": result,
    })))
}
