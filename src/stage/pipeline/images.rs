//! Images to rows: parse, fetch, decode straight into the model's batch, infer.

use super::StageStatus;
use super::framed::Framing;
use super::no_row::NoRow;
use super::records::{Records, Work, outcome_of};
use crate::stage::budget::Budget;
use crate::stage::decoding::{self, dead_letter_kind};
use crate::stage::fetch::{Body, FetchError, Fetcher, Resource, Seats, Waiter, is_local, lacking};
use crate::stage::guard;
use crate::stage::guard::record::TrialStep;
use crate::stage::row_maker::{Leave, MakeError, RowMaker, RowOutcome};
use crate::stage::sink::outgoing::Outgoing;
use crate::stage::sink::predictions::{ModelStamp, PredictionLayout, PredictionRow, RowTag};
use crate::stage::sink::predictions_topic;
use crate::stage::source::SourceMessage;
use crate::stage::trace::{ImageTrace, TraceStep, Traces};
use bytes::Bytes;
use chrono::Utc;
use futures::FutureExt as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tagstream_core::events::{DeadLetterKind, ImageReference, MessageError};
use tagstream_core::failpoint;
use tagstream_core::mapping::{MappedRecord, Mapping};
use tagstream_image::decode::{DecodeError, ImageSize};
use tagstream_image::decoders::Decoders;
use tagstream_image::preprocessing::Preprocessing;
use tokio::sync::{Semaphore, oneshot};

/// Bytes of a row beside its vectors: names, tags, the message for the predictions topic.
const ROW_OVERHEAD: u64 = 8 << 10;
/// Tags whose region embeddings are reckoned with.
const TAGS_PER_ROW: u64 = 8;

/// Images on this machine that are read ahead of each decoding thread.
const LOCAL_AHEAD: usize = 3;

/// How often an image is tried for which there is no decoder, and the time before the first of
/// these tries, which doubles: two minutes in all, within which the health check says so.
const DECODER_TRIES: u32 = 7;
const DECODER_WAIT: Duration = Duration::from_secs(1);

/// What a model says about one image, in the table's terms.
#[derive(Debug, Clone)]
pub struct Tagged {
    /// What said it.
    pub model: Arc<ModelStamp>,
    /// The columns it needs.
    pub layout: Arc<PredictionLayout>,
    /// Tags, best first.
    pub tags: Vec<RowTag>,
    /// Calibrated probabilities, `[C]`.
    pub scores: Vec<f32>,
    /// The image's embedding, `[D]`.
    pub embedding: Vec<f32>,
}

/// Why a model said nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TagError {
    /// This image cannot be tagged.
    #[error("{0}")]
    Image(String),
    /// No image can be tagged any more.
    #[error("{0}")]
    Stopped(String),
}

/// A place in a batch that is being made.
pub trait PixelSlot: Send + 'static {
    /// How pixels are prepared.
    fn preprocessing(&self) -> &Preprocessing;
    /// Where they go: `[H, W, 3]`, uint8.
    fn pixels_mut(&mut self) -> &mut [u8];
    /// Tells the size of the upright original, to which boxes refer.
    fn set_image_size(&mut self, size: ImageSize);
    /// Waits for the batch.
    fn infer(self) -> impl Future<Output = Result<Tagged, TagError>> + Send;
}

/// A model that tags batches of images.
pub trait ImageModel: Send + Sync + 'static {
    /// A place in a batch.
    type Slot: PixelSlot;
    /// Waits for a place.
    fn slot(&self) -> impl Future<Output = Result<Self::Slot, TagError>> + Send;
    /// The columns that rows made now need.
    fn layout(&self) -> Arc<PredictionLayout>;
}

/// What [`ImageRows`] is told at its start.
#[derive(Debug, Clone)]
pub struct ImageSettings {
    /// What decodes images.
    pub decoders: Decoders,
    /// Where it is said that nothing can be decoded.
    pub status: Arc<StageStatus>,
    /// The predictions topic; `None`: no messages.
    pub predictions_topic: Option<Arc<str>>,
    /// Whether messages carry the embedding.
    pub embedding_in_topic: bool,
    /// Messages in the making.
    pub places: usize,
    /// Images of one partition being fetched or waiting to be decoded.
    pub fetches: usize,
    /// Most of them from one host or bucket.
    pub fetches_per_place: usize,
    /// How long to wait for what this process lacks; `None`: as long as it takes.
    pub own_wait: Option<Duration>,
    /// Decoding threads; 0: one for every core.
    pub decode_threads: usize,
    /// How messages name images.
    pub mapping: Mapping,
    /// The schema registry that messages are framed for.
    pub framing: Option<Framing>,
    /// Most records of one message.
    pub max_records: usize,
    /// Where it is told what becomes of images.
    pub traces: Traces,
}

/// Makes rows of the predictions table from image references.
pub struct ImageRows<T> {
    tagger: Arc<T>,
    fetcher: Fetcher,
    /// Bytes of images between fetch and the batch.
    budget: Budget,
    decoders: rayon::ThreadPool,
    /// Images being fetched or waiting to be decoded: bytes that are ahead of the decoder only take
    /// memory.
    seats: Seats,
    /// The same for what is read from here, where nothing is gained by asking for much at once.
    local_seats: Seats,
    /// Four for every decoding thread: a place in a batch is claimed only when it can be filled
    /// soon, and when a thread has decoded an image the next one is there. With fewer, threads wait
    /// for tasks that want the same cores.
    decode_places: Semaphore,
    records: Records,
    settings: ImageSettings,
}

/// Reads an image's bytes, on the thread that decodes them.
type Load = Box<dyn FnOnce() -> io::Result<Bytes> + Send>;

/// What a decoding thread gives back.
struct Decoded<S> {
    bytes: io::Result<Bytes>,
    slot: S,
    size: Result<ImageSize, DecodeError>,
}

impl From<TagError> for NoRow {
    fn from(error: TagError) -> Self {
        match error {
            TagError::Image(reason) if is_out_of_memory(&reason) => {
                NoRow::Lacking(Resource::Memory, reason)
            }
            TagError::Image(reason) => NoRow::DeadLetter(DeadLetterKind::Inference, reason),
            TagError::Stopped(reason) => NoRow::Fatal(MakeError::Model(reason)),
        }
    }
}

/// Whether a model failed for want of memory, which is no image's fault: all are the same size to
/// it.
fn is_out_of_memory(reason: &str) -> bool {
    let reason = reason.to_ascii_lowercase();
    [
        "failed to allocate memory",
        "bad_alloc",
        "bad allocation",
        "out of memory",
        "alloc_failed",
    ]
    .iter()
    .any(|text| reason.contains(text))
}

impl<T: ImageModel> ImageRows<T> {
    /// Joins the parts.
    ///
    /// # Errors
    /// [`MakeError::Model`] if the decoding threads cannot be started.
    pub fn new(
        tagger: Arc<T>,
        fetcher: Fetcher,
        budget: Budget,
        settings: ImageSettings,
    ) -> Result<Self, MakeError> {
        let decoders = rayon::ThreadPoolBuilder::new()
            .num_threads(settings.decode_threads)
            .thread_name(|i| format!("decode-{i}"))
            .build()
            .map_err(|e| MakeError::Model(format!("cannot start decoding threads: {e}")))?;
        Ok(ImageRows {
            tagger,
            fetcher,
            budget,
            seats: Seats::new(settings.fetches, Some(settings.fetches_per_place)),
            local_seats: Seats::new(
                (LOCAL_AHEAD * decoders.current_num_threads()).clamp(1, settings.fetches.max(1)),
                None,
            ),
            decode_places: Semaphore::new(4 * decoders.current_num_threads()),
            decoders,
            records: Records::new(
                settings.mapping.clone(),
                settings.framing.clone(),
                settings.max_records,
            ),
            settings,
        })
    }

    /// Decodes straight into the batch. That there is no decoder is not the image's fault: it waits
    /// for one, and in the end the stage stops rather than give it up.
    async fn decode(
        &self,
        uri: &str,
        body: Body,
        slot: T::Slot,
    ) -> Result<(T::Slot, ImageSize), NoRow> {
        let mut load: Load = Box::new(|| body.load());
        let mut slot = slot;
        let mut tries = 0;
        loop {
            let Some(done) = self.decode_once(load, slot).await else {
                return Err(NoRow::DeadLetter(
                    DeadLetterKind::BadImage,
                    "the decoder gave up on this image".into(),
                ));
            };
            let unreadable = |error| {
                if let Some(resource) = lacking(&error) {
                    return NoRow::Lacking(resource, error.to_string());
                }
                let error = FetchError::unreadable(uri, &error);
                NoRow::DeadLetter(error.kind(), error.to_string())
            };
            let bytes = done.bytes.map_err(unreadable)?;
            let status = &self.settings.status;
            let error = match done.size {
                Ok(size) => {
                    if tries > 0 {
                        status.report(StageStatus::DECODERS_START, None);
                    }
                    return Ok((done.slot, size));
                }
                Err(error) => error,
            };
            if let Some(kind) = dead_letter_kind(error.fault()) {
                return Err(NoRow::DeadLetter(kind, error.to_string()));
            }
            if tries == DECODER_TRIES {
                return Err(NoRow::Fatal(MakeError::Decoder(error)));
            }
            let wait = DECODER_WAIT * 2u32.pow(tries);
            if status.report(StageStatus::DECODERS_START, Some(error.to_string())) {
                tracing::warn!(%error, "images wait for a decoder");
            }
            tokio::time::sleep(wait).await;
            tries += 1;
            load = Box::new(|| Ok(bytes));
            slot = done.slot;
        }
    }

    /// Decodes on a decoding thread; a file that lies in the system's memory is read there too.
    async fn decode_once(&self, load: Load, mut slot: T::Slot) -> Option<Decoded<T::Slot>> {
        let (sender, decoded) = oneshot::channel();
        let decoders = self.settings.decoders.clone();
        self.decoders.spawn(move || {
            let preprocessing = slot.preprocessing().clone();
            let bytes = load();
            let size = match &bytes {
                Ok(bytes) => decoders.decode_into(bytes, &preprocessing, slot.pixels_mut()),
                Err(_) => Err(DecodeError::Empty),
            };
            if let Ok(size) = size {
                slot.set_image_size(size);
            }
            decoding::count(&decoders);
            // Nobody waits if the stage is stopping.
            let _ = sender.send(Decoded { bytes, slot, size });
        });
        decoded.await.ok()
    }

    /// Fetches, decodes and tags one image.
    async fn tagged(
        &self,
        reference: &ImageReference,
        waiter: &Waiter<'_>,
        trace: &ImageTrace,
    ) -> Result<(Tagged, ImageSize), NoRow> {
        let uri = reference.uri.as_str();
        let fetched = self.fetcher.fetch_patiently(uri, &self.budget, waiter);
        let (fetched, seat) = fetched.await?;
        trace.reached(TraceStep::Fetched);
        failpoint::pass("fetch.after").await?;
        guard::reached(TrialStep::Decode).await;
        if reference.image_id.starts_with(failpoint::MARK) {
            failpoint::pass("marked").await?;
        }
        let place = self.decode_places.acquire().await.expect("never closed");
        let slot = self.tagger.slot().await?;
        drop(seat);
        let (slot, size) = self.decode(uri, fetched.body, slot).await?;
        trace.reached(TraceStep::Decoded);
        drop(place);
        drop(fetched.reservation);
        guard::reached(TrialStep::Infer).await;
        failpoint::pass("infer.before").await?;
        let tagged = slot.infer().await?;
        trace.reached(TraceStep::Inferred);
        failpoint::pass("infer.after").await?;
        Ok((tagged, size))
    }

    /// Fetches and tags what a reference names, until it is a row.
    async fn row(
        &self,
        message: &SourceMessage,
        record: u32,
        reference: ImageReference,
        (leave, trace): (&Leave, &ImageTrace),
    ) -> Result<PredictionRow, NoRow> {
        trace.named(&reference.image_id);
        let event_time = message.time_of(reference.event_time);
        let bad = |e: MessageError| NoRow::DeadLetter(DeadLetterKind::BadMessage, e.to_string());
        let event_time = event_time.map_err(bad)?;
        failpoint::pass("fetch.before").await?;
        let waiter = Waiter {
            partition: &message.partition,
            seats: match is_local(&reference.uri) {
                true => &self.local_seats,
                false => &self.seats,
            },
            leave,
            own_wait: self.settings.own_wait,
        };
        let mut lacked = self.fetcher.patience(&reference.uri, &waiter);
        let (tagged, size) = loop {
            match self.tagged(&reference, &waiter, trace).await {
                Err(NoRow::Lacking(resource, reason)) => lacked.pause(resource, &reason).await?,
                done => break done?,
            }
        };
        Ok(PredictionRow {
            image_id: reference.image_id,
            uri: reference.uri,
            event_time,
            processed_time: Utc::now(),
            partition: message.partition.clone(),
            offset: message.offset,
            record,
            model: tagged.model,
            width: size.width,
            height: size.height,
            tags: tagged.tags,
            scores: tagged.scores,
            embedding: tagged.embedding,
            attributes: reference.attributes,
            layout: self.records.layout(&tagged.layout),
            trace: trace.clone(),
        })
    }

    /// The row's message for the predictions topic.
    fn prediction(&self, message: &SourceMessage, row: &PredictionRow) -> Option<Outgoing> {
        let topic = self.settings.predictions_topic.as_ref()?;
        let with_embedding = self.settings.embedding_in_topic;
        Some(predictions_topic::message(
            topic,
            row,
            &row.trace.headers(&message.headers),
            with_embedding,
        ))
    }

    /// Makes the row of one record.
    async fn made(
        &self,
        message: &SourceMessage,
        record: MappedRecord,
        leave: &Leave,
    ) -> (u32, Result<PredictionRow, NoRow>) {
        let index = record.index;
        let trace = self.settings.traces.image(message, index);
        let made = match record.reference {
            Ok(reference) => {
                let told = (leave, &trace);
                self.row(message, index, reference, told).await
            }
            Err(e) => Err(NoRow::DeadLetter(DeadLetterKind::BadMessage, e.to_string())),
        };
        if let Err(NoRow::DeadLetter(kind, reason)) = &made {
            trace.refused(*kind, reason);
        }
        (index, made)
    }
}

impl<T: ImageModel> RowMaker for ImageRows<T> {
    type Row = PredictionRow;

    async fn make(
        &self,
        message: &SourceMessage,
        leave: &Leave,
    ) -> Result<RowOutcome<PredictionRow>, MakeError> {
        let framed = match self
            .records
            .framed(message, &self.settings.status, leave)
            .await
        {
            Ok(framed) => framed,
            Err(none) => {
                if let NoRow::DeadLetter(kind, reason) = &none {
                    self.gave_up(message, *kind, reason);
                }
                return outcome_of(none);
            }
        };
        let mut records = match self.records.of(message, &framed) {
            Ok(records) => records,
            Err((kind, reason)) => {
                self.gave_up(message, kind, &reason);
                return Ok(RowOutcome::DeadLetter { kind, reason });
            }
        };
        if self.records.are_many() {
            let work = Work {
                message,
                framed: &framed,
                at_once: self.settings.fetches.max(1),
                make: |record| self.made(message, record, leave).boxed(),
                prediction: |row: &PredictionRow| self.prediction(message, row),
            };
            return self.records.make(records, &work).await;
        }
        let Some(record) = records.pop() else {
            return Ok(RowOutcome::Nothing);
        };
        match self.made(message, record, leave).await.1 {
            Ok(row) => {
                let prediction = self.prediction(message, &row);
                Ok(RowOutcome::Row { row, prediction })
            }
            Err(none) => outcome_of(none),
        }
    }

    fn gave_up(&self, message: &SourceMessage, kind: DeadLetterKind, reason: &str) {
        self.settings.traces.image(message, 0).refused(kind, reason);
    }

    fn rows_in(&self, message: &SourceMessage) -> u64 {
        self.records.most_rows(message) as u64
    }

    fn layout(&self) -> Arc<PredictionLayout> {
        self.records.layout(&self.tagger.layout())
    }

    fn row_bytes(&self) -> u64 {
        let layout = self.tagger.layout();
        let embedding = layout.embedding as u64;
        let in_topic = if self.settings.embedding_in_topic {
            14 * embedding
        } else {
            0
        };
        let regions = if layout.region_embeddings {
            TAGS_PER_ROW * 4 * embedding
        } else {
            0
        };
        ROW_OVERHEAD + 4 * (layout.categories.len() as u64 + embedding) + in_topic + regions
    }

    fn places(&self) -> usize {
        self.settings.places
    }

    fn share_among(&self, partitions: usize) {
        self.seats.share_among(partitions);
        self.local_seats.share_among(partitions);
    }
}
