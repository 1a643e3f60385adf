//! The labels line of a process: label events into the label table.

use super::{Control, LineContext, LineSpec, PipelineError, RunOptions, StageStatus};
use crate::stage::budget::Budget;
use crate::stage::label_rows::LabelRows;
use std::sync::Arc;
use tagstream_core::config::{StageConfig, StartAt};
use tokio::sync::watch;

/// The labels line's part of the memory budget: label events are small.
pub const LABELS_BUDGET_MIB: u64 = 32;

/// Runs the labels line. Its consumer group is the images' with `-labels` behind it, and it always
/// starts at the beginning of its topic: a label says how things are, however long ago it was said.
///
/// # Errors
/// [`PipelineError`].
pub async fn run_labels(
    config: &StageConfig,
    options: &RunOptions,
    status: Arc<StageStatus>,
    control: watch::Receiver<Control>,
) -> Result<(), PipelineError> {
    let mut config = config.clone();
    config.source.start = StartAt::Earliest;
    let shared = LineContext::open(&config, options, status, control).await?;
    let spec = LineSpec {
        topic: config.labels.topic.as_str().into(),
        group: format!("{}-labels", config.kafka.group_id),
        table: config.labels.table.clone(),
    };
    let budget = Budget::new(LABELS_BUDGET_MIB << 20);
    shared.run_line(&spec, LabelRows::default(), budget).await
}
