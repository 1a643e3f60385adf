//! Images of several topics in one process: a line for each, one model and one bound on memory.

use super::images::{ImageModel, ImageRows};
use super::{Control, LineContext, LineError, LineSpec, PipelineError};
use crate::stage::budget::Budget;
use crate::stage::row_maker::{Leave, MakeError, RowMaker, RowOutcome};
use crate::stage::sink::predictions::{PredictionLayout, PredictionRow};
use crate::stage::source::{ImageTopics, SourceMessage};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tagstream_core::process::blocking;

/// How often topics are looked for that a pattern takes.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// The makers of rows of one process, with the partitions of each line.
pub(super) struct SharedRows<T> {
    rows: Arc<ImageRows<T>>,
    topic: Arc<str>,
    partitions: Arc<Mutex<BTreeMap<Arc<str>, usize>>>,
}

impl<T: ImageModel> RowMaker for SharedRows<T> {
    type Row = PredictionRow;

    async fn make(
        &self,
        message: &SourceMessage,
        leave: &Leave,
    ) -> Result<RowOutcome<PredictionRow>, MakeError> {
        self.rows.make(message, leave).await
    }

    fn rows_in(&self, message: &SourceMessage) -> u64 {
        self.rows.rows_in(message)
    }

    fn layout(&self) -> Arc<PredictionLayout> {
        self.rows.layout()
    }

    fn row_bytes(&self) -> u64 {
        self.rows.row_bytes()
    }

    fn places(&self) -> usize {
        self.rows.places()
    }

    fn share_among(&self, partitions: usize) {
        let mut all = self
            .partitions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.insert(Arc::clone(&self.topic), partitions);
        self.rows.share_among(all.values().sum());
    }
}

/// Runs the lines of all topics, also of those that come later where a pattern takes them.
///
/// # Errors
/// [`PipelineError`]; the first line that fails ends all.
pub(super) async fn run_lines<T: ImageModel>(
    shared: &LineContext<'_>,
    topics: &ImageTopics,
    written: &[Arc<str>],
    (rows, budget): (ImageRows<T>, Budget),
) -> Result<(), PipelineError> {
    let config = shared.config;
    let rows = Arc::new(rows);
    let partitions = Arc::<Mutex<_>>::default();
    let grows = topics.may_grow() && !shared.options.until_drained;
    let mut control = shared.control.clone();
    let mut read = BTreeSet::new();
    let mut lines = FuturesUnordered::new();
    let mut found = look(shared, topics, written).await?;
    loop {
        for topic in found.difference(&read) {
            if topics.may_grow() {
                tracing::info!(%topic, "reading a topic that a pattern takes");
            }
            let maker = SharedRows {
                rows: Arc::clone(&rows),
                topic: Arc::clone(topic),
                partitions: Arc::clone(&partitions),
            };
            let spec = LineSpec {
                topic: Arc::clone(topic),
                group: config.kafka.group_id.clone(),
                table: config.output.table.clone(),
            };
            let budget = budget.clone();
            lines.push(async move { shared.run_line(&spec, maker, budget).await });
        }
        read.extend(found);
        let to_end = async {
            control
                .wait_for(|told| *told == Control::Drain)
                .await
                .is_ok()
        };
        let looked = async {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY), if grows => {}
                // Nothing is begun that is to end.
                _ = to_end => std::future::pending::<()>().await,
            }
        };
        found = tokio::select! {
            ended = lines.next() => match ended {
                Some(outcome) => {
                    outcome?;
                    read.clone()
                }
                None => return Ok(()),
            },
            () = looked => match look(shared, topics, written).await {
                Ok(found) => found,
                Err(PipelineError::Source(error)) if error.is_temporary() => read.clone(),
                Err(error) => return Err(error),
            },
        };
    }
}

async fn look(
    shared: &LineContext<'_>,
    topics: &ImageTopics,
    written: &[Arc<str>],
) -> Result<BTreeSet<Arc<str>>, PipelineError> {
    let (topics, kafka) = (topics.clone(), shared.config.kafka.clone());
    let written = written.to_vec();
    let found = blocking::run(move || topics.found(&kafka, &written)).await;
    Ok(found.map_err(LineError::Panicked)??)
}
