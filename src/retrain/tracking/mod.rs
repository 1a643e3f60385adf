//! A record of every run on a tracking server: MLflow's REST interface, version 2.0. The registry
//! and the report stay what counts; a server that is away costs a line in the record of others and
//! keeps no model from being promoted.
//!
//! A run has its name in the tag `tagstream.run`. One that the server has whole already (a job that
//! was killed after its decision comes to the same run again) is not written twice.

use super::config::MlflowConfig;
use super::report::RunRecord;
use chrono::{DateTime, Utc};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;
use tagstream_core::calls::{CallError, Calls};

/// What the interface takes in one request.
const MOST_PARAMS: usize = 100;
const MOST_METRICS: usize = 900;
/// Characters of a parameter's value that servers of all versions take.
const MOST_VALUE: usize = 500;
/// The tag with the run's name.
const RUN_TAG: &str = "tagstream.run";

/// Why a run is not on the server.
#[derive(Debug, thiserror::Error)]
pub enum TrackingError {
    /// The server did not take it.
    #[error(transparent)]
    Call(#[from] CallError),
    /// It answered something else than the interface says.
    #[error("{place} answered `{path}` without `{field}`: is it an MLflow server?")]
    Answer {
        /// Scheme, host and port.
        place: String,
        /// What was asked.
        path: &'static str,
        /// What is missing.
        field: &'static str,
    },
}

/// Where runs are recorded.
#[derive(Debug)]
pub struct RunLog {
    calls: Calls,
    experiment: String,
}

/// A run as the server knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// The server's name of the run.
    pub id: String,
    /// The server, without secrets.
    pub place: String,
    /// Whether it was there already.
    pub known: bool,
}

impl RunLog {
    /// As configured; none if no server is.
    ///
    /// # Errors
    /// [`CallError::Unusable`] if the address or the credentials cannot be used.
    pub fn new(config: &MlflowConfig) -> Result<Option<Self>, CallError> {
        if config.url.is_empty() {
            return Ok(None);
        }
        let deadline = Duration::from_millis(config.timeout_ms);
        let calls = Calls::new(&config.url, &config.authorization, deadline, config.retries)?;
        Ok(Some(RunLog {
            calls,
            experiment: config.experiment.clone(),
        }))
    }

    /// Records a run that ended at `ended`.
    ///
    /// # Errors
    /// [`TrackingError`]; what was written by then stays, in a run that is not marked as finished.
    pub async fn keep(
        &self,
        record: &RunRecord,
        version: Option<u64>,
        (began, ended): (DateTime<Utc>, DateTime<Utc>),
    ) -> Result<Recorded, TrackingError> {
        let experiment = self.experiment().await?;
        let recorded = |id: String, known| Recorded {
            id,
            place: self.calls.place(),
            known,
        };
        let id = match self.find(&experiment, &record.run).await? {
            Some((id, true)) => return Ok(recorded(id, true)),
            Some((id, false)) => id,
            None => self.begin(&experiment, record, version, began).await?,
        };
        self.write(&id, record, ended).await?;
        let end = json!({
            "run_id": id,
            "status": "FINISHED",
            "end_time": ended.timestamp_millis(),
        });
        self.post("runs/update", &end).await?;
        Ok(recorded(id, false))
    }

    /// The experiment's id; it is made if it is not there.
    async fn experiment(&self) -> Result<String, TrackingError> {
        const FIND: &str = "experiments/get-by-name";
        let query = [("experiment_name", self.experiment.as_str())];
        let path = format!("api/2.0/mlflow/{FIND}");
        let found = self.calls.json(Method::GET, &path, &query, None).await;
        match found {
            Ok(answer) => {
                let id = &answer["experiment"]["experiment_id"];
                self.text(id, FIND, "experiment_id")
            }
            Err(error) if error.status() == Some(404) => {
                const MAKE: &str = "experiments/create";
                let answer = self.post(MAKE, &json!({"name": self.experiment})).await?;
                self.text(&answer["experiment_id"], MAKE, "experiment_id")
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The run with this name, and whether it is whole.
    async fn find(
        &self,
        experiment: &str,
        run: &str,
    ) -> Result<Option<(String, bool)>, TrackingError> {
        const FIND: &str = "runs/search";
        // A run's name is a hash: it has no quotes.
        let asked = json!({
            "experiment_ids": [experiment],
            "filter": format!("tags.`{RUN_TAG}` = '{run}'"),
            "max_results": 1,
        });
        let answer = self.post(FIND, &asked).await?;
        let info = &answer["runs"][0]["info"];
        if info.is_null() {
            return Ok(None);
        }
        let id = self.text(&info["run_id"], FIND, "run_id")?;
        Ok(Some((id, info["status"] == "FINISHED")))
    }

    async fn begin(
        &self,
        experiment: &str,
        record: &RunRecord,
        version: Option<u64>,
        began: DateTime<Utc>,
    ) -> Result<String, TrackingError> {
        const MAKE: &str = "runs/create";
        let version = version.map_or("none".into(), |version| version.to_string());
        let tags: Vec<Value> = [
            (RUN_TAG, record.run.as_str()),
            ("tagstream.verdict", &record.verdict),
            ("tagstream.version", &version),
            ("mlflow.note.content", &record.summary),
        ]
        .iter()
        .map(|(key, value)| json!({"key": key, "value": value}))
        .collect();
        let name: String = record.run.chars().take(12).collect();
        let asked = json!({
            "experiment_id": experiment,
            "run_name": format!("retrain {name}"),
            "start_time": began.timestamp_millis(),
            "tags": tags,
        });
        let answer = self.post(MAKE, &asked).await?;
        self.text(&answer["run"]["info"]["run_id"], MAKE, "run_id")
    }

    async fn write(
        &self,
        id: &str,
        record: &RunRecord,
        ended: DateTime<Utc>,
    ) -> Result<(), TrackingError> {
        const WRITE: &str = "runs/log-batch";
        for params in record.params.chunks(MOST_PARAMS) {
            let params: Vec<Value> = params
                .iter()
                .map(|(name, value)| {
                    let value: String = value.chars().take(MOST_VALUE).collect();
                    json!({"key": key(name), "value": value})
                })
                .collect();
            let batch = json!({"run_id": id, "params": params});
            self.post(WRITE, &batch).await?;
        }
        let timestamp = ended.timestamp_millis();
        for measurements in record.measurements.chunks(MOST_METRICS) {
            let metrics: Vec<Value> = measurements
                .iter()
                .map(|m| {
                    let (key, value, step) = (key(&m.name), m.value, m.step);
                    json!({"key": key, "value": value, "timestamp": timestamp, "step": step})
                })
                .collect();
            let batch = json!({"run_id": id, "metrics": metrics});
            self.post(WRITE, &batch).await?;
        }
        Ok(())
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Value, CallError> {
        let path = format!("api/2.0/mlflow/{path}");
        let answer = self.calls.json(Method::POST, &path, &[], Some(body));
        answer.await
    }

    fn text(
        &self,
        value: &Value,
        path: &'static str,
        field: &'static str,
    ) -> Result<String, TrackingError> {
        let text = value.as_str().map(str::to_owned);
        text.ok_or_else(|| TrackingError::Answer {
            place: self.calls.place(),
            path,
            field,
        })
    }
}

/// A name as the interface takes it: letters, digits, `_`, `-`, `.`, space and `/`.
fn key(name: &str) -> String {
    let taken = |c: char| c.is_ascii_alphanumeric() || "_-. /".contains(c);
    let part = |c| if taken(c) { c } else { '_' };
    name.chars().map(part).collect()
}

#[cfg(test)]
mod tests;
