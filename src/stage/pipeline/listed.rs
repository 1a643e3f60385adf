//! A list of images into the predictions table, without Kafka: the images line with the list in the
//! place of a topic, and a file in that of the dead-letter topic.

use super::around::Watched;
use super::images::ImageModel;
use super::run::image_rows;
use super::{Control, Line, LineContext, PipelineError, RunOptions, StageStatus};
use crate::stage::row_maker::RowMaker as _;
use crate::stage::sink::begun::FirstOffset;
use crate::stage::sink::files::FileSink;
use crate::stage::sink::letter_file::LetterFile;
use crate::stage::source::{Admission, Listing, Source, SourceError};
use std::sync::Arc;
use std::time::Instant;
use tagstream_core::config::StageConfig;
use tagstream_core::storage::store::TableStore;
use tokio::sync::watch;

/// A list of images, and where what is told of them goes.
#[derive(Debug, Clone)]
pub struct ListingRun {
    /// Where the table is kept.
    pub store: TableStore,
    /// Addresses in the order that numbers them.
    pub listing: Arc<Listing>,
    /// Where images go that come to nothing.
    pub letters: Arc<LetterFile>,
}

/// Runs until everything in the list is in files, or it is told to stop.
///
/// # Errors
/// [`PipelineError`]; what is in files stays, and the next run goes on there.
pub async fn run_listing<T: ImageModel>(
    config: &StageConfig,
    tagger: Arc<T>,
    run: &ListingRun,
    status: Arc<StageStatus>,
    control: watch::Receiver<Control>,
) -> Result<(), PipelineError> {
    let mut config = config.clone();
    // A row tells all, and nobody listens to a topic.
    config.output.predictions_topic.clear();
    let options = RunOptions {
        until_drained: true,
        ..RunOptions::default()
    };
    let process = format!("{:016x}-{}", rand::random::<u64>(), std::process::id());
    let shared = LineContext {
        config: &config,
        options: &options,
        store: run.store.clone(),
        topics: run.letters.clone(),
        process: process.into(),
        status,
        control,
    };
    let (maker, budget) = image_rows(&shared, tagger).await?;
    let sink = FileSink::new(
        run.store.clone(),
        config.output.table.as_str(),
        config.output.format,
    )
    .with_vector_encoding(config.output.vector_encoding);
    let until = [(run.listing.partition.clone(), run.listing.log())];
    let settings = shared.line_settings(FirstOffset::Earliest, Some(until.into()), &[]);
    let admission = Admission::new(budget.clone(), maker.places(), maker.row_bytes());
    let letters = Arc::clone(&run.letters);
    let on_start = Box::new(move |start| {
        let begun = letters.go_on_at(start);
        begun.map_err(|error| SourceError::Letters(error.to_string()))
    });
    let source = Source::of_listing(Arc::clone(&run.listing), admission, on_start)?;
    let line = Line {
        maker: Arc::new(maker),
        sink,
        topics: Arc::clone(&shared.topics),
        logs: run.listing.clone(),
        budget,
        settings,
        status: Arc::clone(&shared.status),
    };
    let watched = Watched {
        config: &config,
        store: &shared.store,
        status: &shared.status,
    };
    let outcome = tokio::select! {
        outcome = line.run(source, shared.control.clone()) => outcome,
        never = watched.watch_dead_letters() => match never {},
        never = watched.watch_store() => match never {},
    };
    shared.status.tell_dead_letters(Instant::now());
    options.lives.end_all().await;
    Ok(outcome?)
}
