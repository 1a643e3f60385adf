//! What the stages do, now: throughput, lag, latency, dead letters, memory, the model that serves,
//! the last verdict, the newest pictures.
//!
//! The page is written whole when it is asked for; after that its parts are sent as they change
//! (server-sent events). All who look share one reading of the stages and one writing of the parts.

mod exposition;
mod letters;
mod newest;
mod stages;
mod view;

use super::addresses::stage_url;
use super::config::ServeConfig;
use super::frame::{self, Tab};
use super::models::Catalogue;
use super::pictures::Pictures;
use super::visitor::Visitor;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use futures::stream;
use letters::{Letters, Tail};
use newest::Newest;
use stages::StageView;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tagstream_core::storage::store::TableStore;
use tagstream_core::tls::http_client;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

/// People who are sent the parts at a time.
const MOST_READERS: usize = 64;
/// After this long a browser asks anew, and is asked who it is.
const LONGEST: Duration = Duration::from_secs(600);
/// Something is sent at least this often, so that a connection is not taken for dead.
const ALIVE: Duration = Duration::from_secs(10);

/// Why nothing can be watched.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// librdkafka takes no such client.
    #[error(transparent)]
    Kafka(#[from] crate::stage::source::Refusal),
    /// There is no HTTP client.
    #[error("making the client that asks the stages: {0}")]
    Client(String),
    /// A thread could not be started.
    #[error("starting the thread that reads dead letters: {0}")]
    Thread(std::io::Error),
}

/// What is known of everything that is watched.
pub(crate) struct Board {
    stages: watch::Receiver<Vec<StageView>>,
    newest: Option<watch::Receiver<Newest>>,
    letters: Option<watch::Receiver<Letters>>,
    catalogue: Arc<Catalogue>,
    pictures: Arc<Pictures>,
    readers: Arc<Semaphore>,
    parts: watch::Sender<Parts>,
}

/// The parts of the page, by name, as HTML.
type Parts = Vec<(&'static str, Arc<str>)>;

impl Board {
    /// Begins to watch what `config` names.
    ///
    /// # Errors
    /// [`LiveError`].
    pub(crate) fn start(
        config: &ServeConfig,
        store: Option<&TableStore>,
        catalogue: Arc<Catalogue>,
        pictures: Arc<Pictures>,
    ) -> Result<Arc<Self>, LiveError> {
        let client = http_client()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy();
        let client = client
            .build()
            .map_err(|error| LiveError::Client(error.to_string()))?;
        let addresses = config.stages.addresses.iter();
        let urls: Vec<_> = addresses.filter_map(|text| stage_url(text)).collect();
        let interval = Duration::from_millis(config.stages.interval_ms);
        let (views, stages) = watch::channel(stages::unasked(&urls));
        tokio::spawn(stages::watch_stages(client, urls, interval, views));
        let newest = store.map(|store| {
            let (newest, watched) = watch::channel(Newest::default());
            let every = Duration::from_millis(config.stages.pictures_interval_ms);
            let table = config.tables.predictions.clone();
            tokio::spawn(newest::watch_newest(store.clone(), table, every, newest));
            watched
        });
        let letters = match config.topics.dead_letters.as_str() {
            "" => None,
            topic => {
                let tail = Tail::new(&config.kafka, topic)?;
                let (letters, watched) = watch::channel(Letters::default());
                let thread = std::thread::Builder::new().name("dead-letters".into());
                let read = move || tail.watch(&letters);
                thread.spawn(read).map_err(LiveError::Thread)?;
                Some(watched)
            }
        };
        let board = Arc::new(Board {
            stages,
            newest,
            letters,
            catalogue,
            pictures,
            readers: Arc::new(Semaphore::new(MOST_READERS)),
            parts: watch::Sender::new(Vec::new()),
        });
        tokio::spawn(write_parts(Arc::downgrade(&board), interval));
        Ok(board)
    }

    async fn parts(&self) -> Parts {
        let listing = self.catalogue.listing().await;
        let report = match &listing {
            Ok(listing) => {
                let judged = listing.last_judged();
                match judged.and_then(|entry| listing.version(entry.version)) {
                    Some(version) => self.catalogue.report(version).await,
                    None => None,
                }
            }
            Err(_) => None,
        };
        let stages = self.stages.borrow().clone();
        let newest = self.newest.as_ref().map(|newest| newest.borrow().clone());
        let letters = self
            .letters
            .as_ref()
            .map(|letters| letters.borrow().clone());
        let shown = view::Shown {
            stages: &stages,
            newest: newest.as_ref(),
            letters: letters.as_ref(),
            listing: listing.as_deref().map_err(|error| error.to_string()),
            report: report.as_deref(),
            pictures: &self.pictures,
        };
        let parts = view::PARTS.iter();
        parts
            .map(|(name, write)| (*name, write(&shown).into_string().into()))
            .collect()
    }
}

/// Writes the parts again and again while somebody looks.
async fn write_parts(board: std::sync::Weak<Board>, interval: Duration) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(board) = board.upgrade() else {
            return;
        };
        if board.parts.receiver_count() > 0 {
            let parts = board.parts().await;
            board.parts.send_replace(parts);
        }
    }
}

/// `/` and its events.
pub(crate) fn routes(board: Arc<Board>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/live/events", get(events))
        .with_state(board)
}

async fn page(State(board): State<Arc<Board>>, Extension(visitor): Extension<Visitor>) -> Response {
    let content = view::whole(&board.parts().await);
    frame::page("Live", Tab::Live, &visitor, &["live.js"], &content).into_response()
}

/// One reader of the events.
struct Reader {
    parts: watch::Receiver<Parts>,
    sent: Parts,
    waiting: VecDeque<Event>,
    until: Instant,
    _place: OwnedSemaphorePermit,
}

async fn events(State(board): State<Arc<Board>>) -> Response {
    let Ok(place) = Arc::clone(&board.readers).try_acquire_owned() else {
        let text = "too many pages are open\n";
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    };
    let reader = Reader {
        parts: board.parts.subscribe(),
        sent: Vec::new(),
        waiting: VecDeque::new(),
        until: Instant::now() + LONGEST,
        _place: place,
    };
    let events = stream::unfold(reader, |mut reader| async move {
        let event = reader.next().await?;
        Some((Ok::<_, Infallible>(event), reader))
    });
    Sse::new(events)
        .keep_alive(KeepAlive::new().interval(ALIVE))
        .into_response()
}

impl Reader {
    /// The next part that is another than before.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some(event);
            }
            let changed = tokio::time::timeout_at(self.until, self.parts.changed()).await;
            // Its time is up, or the process ends.
            changed.ok()?.ok()?;
            let parts = self.parts.borrow_and_update().clone();
            let news = parts.iter().filter(|part| !self.sent.contains(part));
            let events = news.map(|(name, html)| Event::default().event(*name).data(html));
            self.waiting.extend(events);
            self.sent = parts;
        }
    }
}
