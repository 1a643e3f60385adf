//! A list of images as a source: what stands at a position of it is the message at that offset. It
//! never changes, and it is all there is.

use super::context::Pulse;
use super::{
    Admission, Generation, LogRecord, Logs, Silence, Source, SourceCommand, SourceError,
    SourceEvent, SourceMessage,
};
use crate::stage::sink::chain::TopicIdentity;
use crate::stage::sink::log_facts::LogFacts;
use chrono::{DateTime, Utc};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel, sync_channel};
use std::time::{Duration, Instant};
use tagstream_core::events::{ImageReference, Offset, PartitionId};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// Wait between two attempts to admit an image, and between two looks at what is told.
const ADMIT: Duration = Duration::from_millis(2);
/// The same when everything was sent.
const IDLE: Duration = Duration::from_millis(20);
/// How often the stage is told that memory is short.
const TELL_SHORT: Duration = Duration::from_millis(50);
/// The one assignment that there is.
const ONLY: Generation = Generation(1);

/// A list of images, in an order that stays.
#[derive(Debug, Clone)]
pub struct Listing {
    /// What its rows call it: a topic with one partition.
    pub partition: PartitionId,
    /// What tells it from another of that name.
    pub id: String,
    /// When it was made: the time of images that have none of their own.
    pub created: DateTime<Utc>,
    /// The images, by position.
    pub images: Vec<ImageReference>,
}

impl Listing {
    /// What Kafka would say about it.
    pub fn log(&self) -> LogFacts {
        let end = self.end();
        LogFacts {
            low: Offset(0),
            stable: end,
            high: end,
            leader_epoch: None,
            committed: None,
            identity: TopicIdentity {
                cluster_id: None,
                topic_id: Some(self.id.clone()),
            },
        }
    }

    /// The position behind the last image.
    pub fn end(&self) -> Offset {
        Offset(i64::try_from(self.images.len()).unwrap_or(i64::MAX))
    }

    fn message(&self, position: Offset) -> Option<SourceMessage> {
        let image = self.images.get(usize::try_from(position.0).ok()?)?;
        let value = serde_json::to_vec(image).ok()?;
        Some(SourceMessage {
            partition: self.partition.clone(),
            offset: position,
            leader_epoch: None,
            key: None,
            payload: Some(value.into()),
            headers: Vec::new(),
            timestamp: Some(self.created),
        })
    }
}

impl Logs for Listing {
    fn facts(&self, _: &PartitionId) -> Result<LogFacts, SourceError> {
        Ok(self.log())
    }

    fn first_from(&self, _: &PartitionId, from: Offset) -> Result<Option<LogRecord>, SourceError> {
        let record = LogRecord {
            offset: from,
            leader_epoch: None,
        };
        Ok((from < self.end()).then_some(record))
    }

    fn reaches(&self, _: &PartitionId, _: Offset, _: i32) -> Result<bool, SourceError> {
        Ok(true)
    }

    fn silence(&self, _: &PartitionId, from: Offset) -> Result<Silence, SourceError> {
        Ok(Silence {
            until: from,
            stable: self.end(),
        })
    }
}

/// Told where the stage goes on, before it gets anything.
pub type OnStart = Box<dyn FnOnce(Offset) -> Result<(), SourceError> + Send>;

impl Source {
    /// Starts a thread that gives the stage what stands in a list, from where it goes on.
    ///
    /// # Errors
    /// [`SourceError::Fatal`] if there can be no thread.
    pub fn of_listing(
        listing: Arc<Listing>,
        admission: Admission,
        on_start: OnStart,
    ) -> Result<Self, SourceError> {
        let (events, receiver) = unbounded_channel();
        let (commands, orders) = channel();
        let pulse = Arc::<Pulse>::default();
        let feeder = Feeder {
            listing,
            admission,
            events,
            orders,
            pulse: Arc::clone(&pulse),
            reading: true,
            told_short: None,
        };
        let thread = std::thread::Builder::new()
            .name("source-listing".into())
            .spawn(move || feeder.run(on_start))
            .map_err(|e| SourceError::Fatal(format!("cannot start a thread: {e}")))?;
        Ok(Source::from_parts(receiver, commands, pulse, thread))
    }
}

struct Feeder {
    listing: Arc<Listing>,
    admission: Admission,
    events: UnboundedSender<SourceEvent>,
    orders: Receiver<SourceCommand>,
    pulse: Arc<Pulse>,
    reading: bool,
    told_short: Option<Instant>,
}

/// The stage wants nothing more.
struct Ended;

impl Feeder {
    fn run(mut self, on_start: OnStart) {
        if let Ok(start) = self.start()
            && self.began(start, on_start).is_ok()
            && self.send_from(start).is_ok()
        {
            while self.listens(IDLE).is_ok() {}
        }
        let _ = self.events.send(SourceEvent::Stopped);
    }

    /// Where the stage goes on.
    fn start(&mut self) -> Result<Offset, Ended> {
        let (reply, answer) = sync_channel(1);
        let assigned = SourceEvent::Assigned {
            generation: ONLY,
            partitions: vec![self.listing.partition.clone()],
            reply,
        };
        self.events.send(assigned).map_err(|_| Ended)?;
        loop {
            self.listens(Duration::ZERO)?;
            match answer.recv_timeout(IDLE) {
                Ok(starts) => return starts.first().map(|s| s.offset).ok_or(Ended),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    while self.listens(IDLE).is_ok() {}
                    return Err(Ended);
                }
            }
        }
    }

    fn began(&self, start: Offset, on_start: OnStart) -> Result<(), Ended> {
        on_start(start).map_err(|error| {
            let _ = self.events.send(SourceEvent::Failed(error));
            Ended
        })
    }

    fn send_from(&mut self, start: Offset) -> Result<(), Ended> {
        let mut position = start;
        while let Some(message) = self.listing.message(position) {
            let bytes = self.admission.bytes_of(&message);
            let (reservation, place) = loop {
                self.listens(Duration::ZERO)?;
                if !self.reading {
                    return Ok(());
                }
                match self.admission.admit(&message.partition, bytes) {
                    Ok(admitted) => break admitted,
                    Err(short) => self.wait_for(short.memory),
                }
            };
            let event = SourceEvent::Message {
                generation: ONLY,
                message,
                reservation,
                place,
            };
            self.events.send(event).map_err(|_| Ended)?;
            position = position.next();
        }
        let end = SourceEvent::End {
            generation: ONLY,
            partition: self.listing.partition.clone(),
            position: Some(position),
            high: self.listing.end(),
        };
        self.events.send(end).map_err(|_| Ended)
    }

    fn wait_for(&mut self, memory: bool) {
        let told = self.told_short.is_some_and(|at| at.elapsed() < TELL_SHORT);
        if memory && !told {
            self.told_short = Some(Instant::now());
            let _ = self.events.send(SourceEvent::MemoryShort);
        }
        std::thread::sleep(ADMIT);
    }

    /// Hears what the stage tells, waiting so long for the first.
    fn listens(&mut self, wait: Duration) -> Result<(), Ended> {
        self.pulse.moved();
        let first = match wait.is_zero() {
            true => self.orders.try_recv(),
            false => self.orders.recv_timeout(wait).map_err(|e| match e {
                RecvTimeoutError::Timeout => TryRecvError::Empty,
                RecvTimeoutError::Disconnected => TryRecvError::Disconnected,
            }),
        };
        let mut order = first;
        loop {
            match order {
                Ok(SourceCommand::Commit(_)) => {}
                Ok(SourceCommand::StopReading) => self.reading = false,
                Ok(SourceCommand::Stop(_)) | Err(TryRecvError::Disconnected) => return Err(Ended),
                Err(TryRecvError::Empty) => return Ok(()),
            }
            order = self.orders.try_recv();
        }
    }
}
