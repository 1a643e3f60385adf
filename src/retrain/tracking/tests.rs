//! Against a server of our own that keeps to MLflow's interface, and against a real one where
//! `TAGSTREAM_TEST_MLFLOW` says where it is (`mlflow server --port 5000`).

use super::*;
use crate::retrain::report::Measurement;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tagstream_core::config::Secret;
use tokio::net::TcpListener;

fn record(run: &str) -> RunRecord {
    let measurement = |name: &str, value, step| Measurement {
        name: name.into(),
        value,
        step,
    };
    let settings = (0..150).map(|at| (format!("settings.{at}"), at.to_string()));
    RunRecord {
        run: run.into(),
        verdict: "promote".into(),
        summary: "mAP 30.00 -> 46.00".into(),
        params: settings.chain([("long".into(), "x".repeat(900))]).collect(),
        measurements: vec![
            measurement("map.candidate", 0.46, 0),
            measurement("loss.a:b(c)", 2.0, 1),
            measurement("loss.a:b(c)", 1.0, 2),
        ],
    }
}

fn times() -> (DateTime<Utc>, DateTime<Utc>) {
    let at = |text: &str| text.parse().unwrap();
    (at("2026-11-01T00:00:00Z"), at("2026-11-01T00:01:00Z"))
}

fn log(url: &str, experiment: &str) -> RunLog {
    let config = MlflowConfig {
        url: url.into(),
        experiment: experiment.into(),
        authorization: Secret::from("Bearer hunter2".to_owned()),
        timeout_ms: 60_000,
        ..MlflowConfig::default()
    };
    RunLog::new(&config).unwrap().unwrap()
}

/// The part of the interface that is used, with its limits.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    experiment: Option<String>,
    tags: BTreeMap<String, String>,
    params: BTreeMap<String, String>,
    metrics: Vec<(String, f64, u64)>,
    status: String,
    /// Requests to log that are answered with 500 first.
    failing: usize,
    created: usize,
}

fn pairs(list: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter()
        .map(|entry| (text(&entry["key"]), text(&entry["value"])))
        .collect()
}

fn answer(value: Value) -> Response {
    Json(value).into_response()
}

fn refuse(status: StatusCode, code: &str) -> Response {
    (status, Json(json!({"error_code": code}))).into_response()
}

async fn find_experiment(
    State(server): State<Server>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let kept = server.0.lock().unwrap();
    match &kept.experiment {
        Some(name) if *name == query["experiment_name"] => {
            answer(json!({"experiment": {"experiment_id": "7"}}))
        }
        _ => refuse(StatusCode::NOT_FOUND, "RESOURCE_DOES_NOT_EXIST"),
    }
}

async fn make_experiment(State(server): State<Server>, Json(asked): Json<Value>) -> Response {
    let mut kept = server.0.lock().unwrap();
    kept.experiment = Some(asked["name"].as_str().unwrap().to_owned());
    answer(json!({"experiment_id": "7"}))
}

async fn search(State(server): State<Server>, Json(asked): Json<Value>) -> Response {
    let kept = server.0.lock().unwrap();
    assert_eq!(asked["experiment_ids"], json!(["7"]));
    let filter = kept
        .tags
        .get("tagstream.run")
        .map(|run| format!("tags.`tagstream.run` = '{run}'"));
    match filter.is_some_and(|filter| asked["filter"] == filter) {
        true => answer(json!({"runs": [{"info": {"run_id": "r1", "status": kept.status}}]})),
        // What an MLflow server says where it finds none.
        false => answer(json!({})),
    }
}

async fn create(State(server): State<Server>, Json(asked): Json<Value>) -> Response {
    let mut kept = server.0.lock().unwrap();
    kept.created += 1;
    kept.tags = pairs(&asked["tags"]).into_iter().collect();
    kept.status = "RUNNING".into();
    answer(json!({"run": {"info": {"run_id": "r1"}}}))
}

async fn log_batch(State(server): State<Server>, Json(asked): Json<Value>) -> Response {
    let mut kept = server.0.lock().unwrap();
    if kept.failing > 0 {
        kept.failing -= 1;
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_ERROR");
    }
    let params = pairs(&asked["params"]);
    assert!(params.len() <= 100 && params.iter().all(|(_, value)| value.len() <= 500));
    kept.params.extend(params);
    for metric in asked["metrics"].as_array().into_iter().flatten() {
        let name = metric["key"].as_str().unwrap().to_owned();
        let (value, step) = (metric["value"].as_f64(), metric["step"].as_u64());
        kept.metrics.push((name, value.unwrap(), step.unwrap()));
    }
    answer(json!({}))
}

async fn update(State(server): State<Server>, Json(asked): Json<Value>) -> Response {
    let mut kept = server.0.lock().unwrap();
    kept.status = asked["status"].as_str().unwrap().to_owned();
    answer(json!({"run_info": {}}))
}

async fn serve(server: &Server) -> String {
    let routes = Router::new()
        .route("/experiments/get-by-name", get(find_experiment))
        .route("/experiments/create", post(make_experiment))
        .route("/runs/search", post(search))
        .route("/runs/create", post(create))
        .route("/runs/log-batch", post(log_batch))
        .route("/runs/update", post(update))
        .with_state(server.clone());
    let routes = Router::new().nest("/below/api/2.0/mlflow", routes);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, routes).await });
    format!("http://{address}/below/")
}

#[tokio::test]
async fn a_run_is_recorded_once_and_whole() {
    let server = Server::default();
    server.0.lock().unwrap().failing = 1;
    let log = log(&serve(&server).await, "tags");
    let first = log.keep(&record("abc"), Some(3), times()).await.unwrap();
    assert_eq!((first.id.as_str(), first.known), ("r1", false));
    let again = log.keep(&record("abc"), Some(3), times()).await.unwrap();
    assert!(again.known);
    let kept = server.0.lock().unwrap();
    assert_eq!(kept.created, 1);
    assert_eq!(kept.experiment.as_deref(), Some("tags"));
    assert_eq!(kept.status, "FINISHED");
    assert_eq!(kept.tags["tagstream.version"], "3");
    assert_eq!(kept.tags["tagstream.verdict"], "promote");
    assert_eq!(kept.params.len(), 151);
    let name = "loss.a_b_c_".to_owned();
    let losses = [(name.clone(), 2.0, 1), (name, 1.0, 2)];
    assert_eq!(kept.metrics[1..], losses);
}

#[tokio::test]
async fn what_was_begun_is_gone_on_with_and_what_is_no_server_is_named() {
    let server = Server::default();
    // More than the tries.
    server.0.lock().unwrap().failing = 4;
    let log_here = log(&serve(&server).await, "tags");
    let error = log_here.keep(&record("abc"), None, times()).await;
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("500") && !error.contains("hunter2"),
        "{error}"
    );
    log_here.keep(&record("abc"), None, times()).await.unwrap();
    assert_eq!(server.0.lock().unwrap().created, 1);
    assert_eq!(server.0.lock().unwrap().status, "FINISHED");

    let routes = Router::new().fallback(async || "{}");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let other = log(&format!("http://{address}"), "tags");
    let error = other.keep(&record("abc"), None, times()).await.unwrap_err();
    assert!(
        error.to_string().contains("is it an MLflow server?"),
        "{error}"
    );
}

#[tokio::test]
async fn a_real_mlflow_keeps_it() {
    let Ok(url) = std::env::var("TAGSTREAM_TEST_MLFLOW") else {
        eprintln!("NOT TESTED: a real MLflow, TAGSTREAM_TEST_MLFLOW is not set");
        return;
    };
    let experiment = format!("tests {}", std::process::id());
    let log = log(&url, &experiment);
    let first = log.keep(&record("abc"), Some(3), times()).await.unwrap();
    assert!(!first.known);
    let again = log.keep(&record("abc"), Some(3), times()).await.unwrap();
    assert_eq!((again.id, again.known), (first.id.clone(), true));
    let query = [("run_id", first.id.as_str())];
    let path = "api/2.0/mlflow/runs/get";
    let run = log
        .calls
        .json(Method::GET, path, &query, None)
        .await
        .unwrap();
    let run = &run["run"];
    assert_eq!(run["info"]["status"], "FINISHED");
    let (params, metrics) = (&run["data"]["params"], &run["data"]["metrics"]);
    assert_eq!(params.as_array().unwrap().len(), 151);
    let loss = metrics.as_array().unwrap().iter();
    let loss = loss.clone().find(|m| m["key"] == "loss.a_b_c_").unwrap();
    assert_eq!((&loss["value"], &loss["step"]), (&json!(1.0), &json!(2)));
}
