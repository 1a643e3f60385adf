//! The labels line of a process: label events into the label table.

use super::framed::Framing;
use super::records::{opened, outcome_of};
use super::run::framing;
use super::{Control, LineContext, LineSpec, PipelineError, RunOptions, StageStatus};
use crate::stage::budget::Budget;
use crate::stage::label_rows::{LabelRow, LabelRows};
use crate::stage::row_maker::{Leave, MakeError, RowMaker, RowOutcome};
use crate::stage::source::SourceMessage;
use std::sync::Arc;
use tagstream_core::config::{StageConfig, StartAt};
use tagstream_core::events::DeadLetterKind;
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
    let maker = OpenedLabels {
        labels: LabelRows::default(),
        framing: framing(&config, shared.own_wait())?,
        status: Arc::clone(&shared.status),
    };
    shared.run_line(&spec, maker, budget).await
}

/// Rows of label events, which may be framed for a schema registry.
#[derive(Debug)]
struct OpenedLabels {
    labels: LabelRows,
    framing: Option<Framing>,
    status: Arc<StageStatus>,
}

impl RowMaker for OpenedLabels {
    type Row = LabelRow;

    async fn make(
        &self,
        message: &SourceMessage,
        leave: &Leave,
    ) -> Result<RowOutcome<LabelRow>, MakeError> {
        let Some(framing) = &self.framing else {
            return self.labels.make(message, leave).await;
        };
        let framed = match framing.of(message, false, &self.status, leave).await {
            Ok(framed) => framed,
            Err(none) => return outcome_of(none),
        };
        let payload = match opened(message, &framed) {
            Ok((payload, _)) => payload,
            Err(reason) => {
                let kind = DeadLetterKind::BadMessage;
                return Ok(RowOutcome::DeadLetter { kind, reason });
            }
        };
        let opened = SourceMessage {
            payload,
            ..message.clone()
        };
        self.labels.make(&opened, leave).await
    }

    fn layout(&self) -> Arc<()> {
        self.labels.layout()
    }

    fn row_bytes(&self) -> u64 {
        self.labels.row_bytes()
    }

    fn places(&self) -> usize {
        self.labels.places()
    }
}
