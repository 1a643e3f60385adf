//! Questions chosen from the tables, answers sent to the topic, and what is known between.

use super::desk::{Answer, Desk, Order, Question, Shown};
use super::known::Known;
use super::places::Places;
use crate::labelling::store::{TableError, read_labels};
use crate::labelling::suggest::{GlobalView, SuggestOptions, suggest};
use crate::labelling::{PublishError, Publisher};
use crate::serve::config::ServeConfig;
use crate::serve::models::Catalogue;
use chrono::Utc;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tagstream_core::events::{LabelEvent, LabelState};
use tagstream_core::process::blocking;
use tagstream_core::storage::store::TableStore;
use tagstream_model::bundle::Bundle;
use tagstream_model::registry::Cache;

/// An answer that is not acknowledged within this time was not taken.
const ACKNOWLEDGED: u64 = 10_000;
/// With fewer questions left, new ones are chosen.
const FEW: usize = 15;
/// But not more often than this.
const PAUSE: Duration = Duration::from_secs(10);
/// Questions this old are chosen anew.
const OLD: Duration = Duration::from_secs(900);

/// Everything that the review page needs.
pub(crate) struct Labeller {
    store: TableStore,
    predictions: String,
    labels: String,
    count: usize,
    measure: f64,
    refresh: Duration,
    catalogue: Arc<Catalogue>,
    publisher: Publisher,
    desk: Mutex<Desk>,
    known: Mutex<Known>,
    choosing: Mutex<HashMap<Order, Choosing>>,
    labels_read: Mutex<Option<Instant>>,
}

/// How the choosing of an order's questions goes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Choosing {
    /// Whether it is being done now.
    pub now: bool,
    /// When it was last done.
    pub done: Option<Instant>,
    /// What went wrong.
    pub trouble: Option<String>,
}

/// Questions about one category, put before somebody.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Grid {
    /// Categories that are asked about, and how often.
    pub categories: BTreeMap<String, usize>,
    /// The category that this is about.
    pub chosen: String,
    /// A question for each picture.
    pub questions: Vec<Question>,
}

/// Why questions cannot be chosen.
#[derive(Debug, thiserror::Error)]
enum ChooseError {
    #[error(transparent)]
    Table(#[from] TableError),
    #[error("the model that serves cannot be had: {0}")]
    Model(String),
}

/// Runs what reads whole tables on a thread where no page waits for it.
fn aside(work: impl Future<Output = ()> + Send + 'static) {
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || runtime.block_on(work));
}

impl Labeller {
    /// Sets up a producer; asks nobody yet.
    ///
    /// # Errors
    /// [`PublishError`] if librdkafka takes no such client.
    pub(crate) fn new(
        config: &ServeConfig,
        store: TableStore,
        catalogue: Arc<Catalogue>,
    ) -> Result<Arc<Self>, PublishError> {
        let mut kafka = config.kafka.clone();
        kafka.message_timeout_ms = kafka.message_timeout_ms.min(ACKNOWLEDGED);
        Ok(Arc::new(Labeller {
            store,
            predictions: config.tables.predictions.clone(),
            labels: config.tables.labels.clone(),
            count: config.review.count,
            measure: config.review.measure,
            refresh: Duration::from_secs(config.review.refresh_s),
            catalogue,
            publisher: Publisher::new(&kafka, &config.topics.labels)?,
            desk: Mutex::new(Desk::new(Duration::from_secs(config.review.hold_s))),
            known: Mutex::default(),
            choosing: Mutex::default(),
            labels_read: Mutex::default(),
        }))
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// What is known so far.
    pub(crate) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// How the choosing of questions goes.
    pub(crate) fn choosing(&self, order: Order) -> Choosing {
        let all = self.choosing.lock().unwrap_or_else(|e| e.into_inner());
        all.get(&order).cloned().unwrap_or_default()
    }

    /// What `seat` is asked. Chooses new questions in the background where few are left.
    pub(crate) fn show(self: &Arc<Self>, seat: &str, order: Order) -> Option<Shown> {
        let shown = self.desk().show(seat, order, Instant::now());
        self.refresh_labels();
        self.choose_if_few(order, shown.is_none());
        shown
    }

    /// Chooses new questions in the background, if few are left, or none for somebody.
    fn choose_if_few(self: &Arc<Self>, order: Order, none: bool) {
        let left = self.desk().left(order);
        let mut all = self.choosing.lock().unwrap_or_else(|e| e.into_inner());
        let choosing = all.entry(order).or_default();
        let age = choosing.done.map(|done| done.elapsed());
        let few = left < FEW || none;
        let wanted = age.is_none_or(|age| age > OLD || few && age > PAUSE);
        if wanted && !choosing.now {
            choosing.now = true;
            aside(Arc::clone(self).choose(order));
        }
    }

    /// Reads the label table in the background, if it was not read for long.
    fn refresh_labels(self: &Arc<Self>) {
        let mut read = self.labels_read.lock().unwrap_or_else(|e| e.into_inner());
        if read.is_none_or(|read| read.elapsed() > self.refresh) {
            *read = Some(Instant::now());
            let labeller = Arc::clone(self);
            aside(async move {
                if let Err(error) = labeller.read_labels().await {
                    tracing::warn!("the label table cannot be read: {error}");
                }
            });
        }
    }

    async fn read_labels(&self) -> Result<(), TableError> {
        let table = read_labels(&self.store, &self.labels).await?;
        self.known().read(table);
        Ok(())
    }

    async fn choose(self: Arc<Self>, order: Order) {
        let chosen = self.chosen(order).await;
        let trouble = match chosen {
            Ok(questions) => {
                self.desk().refill(order, questions);
                None
            }
            Err(error) => Some(error.to_string()),
        };
        let mut all = self.choosing.lock().unwrap_or_else(|e| e.into_inner());
        let done = Some(Instant::now());
        let now = false;
        all.insert(order, Choosing { now, done, trouble });
    }

    async fn chosen(&self, order: Order) -> Result<Vec<Question>, ChooseError> {
        if !self.known().is_read() {
            self.read_labels().await?;
        }
        let labels = self.known().table().clone();
        let options = SuggestOptions {
            count: self.count,
            measure: match order {
                Order::Mixed => self.measure,
                Order::Measuring => 1.0,
                Order::Value | Order::Disagreement => 0.0,
            },
            view: match order {
                Order::Disagreement => Some(self.view().await?),
                _ => None,
            },
            ..SuggestOptions::default()
        };
        let suggestions = suggest(&self.store, &self.predictions, &labels, &options).await?;
        let places = Places::of(&self.store, &self.predictions, &suggestions).await?;
        let places = &places;
        let questions = suggestions.into_iter().flat_map(|suggestion| {
            let (image_id, uri) = (suggestion.image_id, suggestion.uri);
            suggestion
                .ask
                .into_iter()
                .map(move |(category, score)| Question {
                    place: places.place(&image_id, &category),
                    image_id: image_id.clone(),
                    uri: uri.clone(),
                    category,
                    score,
                    purpose: suggestion.purpose,
                })
        });
        Ok(questions.collect())
    }

    /// The second view of the model that serves.
    async fn view(&self) -> Result<GlobalView, ChooseError> {
        let failed = |error: String| ChooseError::Model(error);
        let listing = self
            .catalogue
            .listing()
            .await
            .map_err(|e| failed(e.to_string()))?;
        let serving = listing
            .serving()
            .ok_or_else(|| failed("none serves".into()))?;
        let registry = self
            .catalogue
            .registry()
            .await
            .map_err(|e| failed(e.to_string()))?;
        let folder = registry
            .materialise(serving, &Cache::default_location())
            .await;
        let folder = folder.map_err(|e| failed(e.to_string()))?;
        let opened = blocking::run(move || GlobalView::of(&Bundle::open(folder)?)).await;
        let opened = opened.map_err(|e| failed(e.to_string()))?;
        opened.map_err(|e| failed(e.to_string()))
    }

    /// Sends what `seat` says to the question that they are shown, and notes it once the broker
    /// has it. Whatever is not shown to them any more is left alone.
    ///
    /// # Errors
    /// [`PublishError`]; nothing is noted then.
    pub(crate) async fn answer(
        &self,
        seat: &str,
        (image_id, category): (&str, &str),
        answer: Answer,
        annotator: &str,
    ) -> Result<(), PublishError> {
        let event = {
            let mut desk = self.desk();
            let Some(question) = desk.shown(seat, image_id, Some(category)) else {
                return Ok(());
            };
            match answer {
                Answer::Passed => None,
                Answer::Known(state) => {
                    Some(question.answered(Some(state), annotator, desk.time(Utc::now())))
                }
            }
        };
        if let Some(event) = event {
            self.send(event).await?;
        }
        let mut desk = self.desk();
        if desk.shown(seat, image_id, Some(category)).is_some() {
            desk.take(seat, answer);
        }
        Ok(())
    }

    /// Says that a category is in the picture that `seat` is shown, whatever was asked.
    ///
    /// # Errors
    /// [`PublishError`]; nothing is noted then.
    pub(crate) async fn add(
        &self,
        seat: &str,
        (image_id, category): (&str, &str),
        annotator: &str,
    ) -> Result<bool, PublishError> {
        let (question, event) = {
            let mut desk = self.desk();
            let Some(mut question) = desk.shown(seat, image_id, None) else {
                return Ok(false);
            };
            question.category = category.to_owned();
            question.place = None;
            let time = desk.time(Utc::now());
            let event = question.answered(Some(LabelState::Present), annotator, time);
            (question, event)
        };
        self.send(event).await?;
        self.desk().added(seat, question);
        Ok(true)
    }

    /// Takes back what `seat` said last.
    ///
    /// # Errors
    /// [`PublishError`]; nothing is taken back then.
    pub(crate) async fn undo(&self, seat: &str, annotator: &str) -> Result<bool, PublishError> {
        let event = {
            let mut desk = self.desk();
            let Some(question) = desk.last_answer(seat) else {
                return Ok(false);
            };
            question.answered(None, annotator, desk.time(Utc::now()))
        };
        self.send(event).await?;
        self.desk().undo(seat);
        Ok(true)
    }

    async fn send(&self, event: LabelEvent) -> Result<(), PublishError> {
        self.publisher.publish(std::slice::from_ref(&event)).await?;
        self.known().answer(event);
        Ok(())
    }

    /// Shows `seat` the question before.
    pub(crate) fn back(&self, seat: &str) {
        self.desk().back(seat);
    }

    /// Puts questions about one category before `seat`: the one that is asked for, else that with
    /// most. Gives what else could be asked for, and chooses new questions where few are left.
    pub(crate) fn show_grid(
        self: &Arc<Self>,
        seat: &str,
        order: Order,
        (category, most): (&str, usize),
    ) -> Grid {
        let (categories, chosen, questions) = {
            let mut desk = self.desk();
            let categories = desk.open_categories(order);
            let most_asked = categories.iter().max_by_key(|(_, count)| **count);
            let chosen = match category {
                "" => most_asked.map(|(name, _)| name.clone()).unwrap_or_default(),
                category => category.to_owned(),
            };
            let questions = desk.show_grid(seat, order, (&chosen, most), Instant::now());
            (categories, chosen, questions)
        };
        self.refresh_labels();
        self.choose_if_few(order, questions.is_empty());
        Grid {
            categories,
            chosen,
            questions,
        }
    }

    /// Sends what `seat` says to the pictures of its grid, and notes it once the broker has it.
    /// Pictures that are not before them any more are left alone. Gives how many answers were sent.
    ///
    /// # Errors
    /// [`PublishError`]; nothing is noted then.
    pub(crate) async fn answer_grid(
        &self,
        seat: &str,
        answers: &[(String, Answer)],
        annotator: &str,
    ) -> Result<usize, PublishError> {
        let (said, events) = {
            let mut desk = self.desk();
            let said = answers.iter();
            let said = said.filter_map(|(image, a)| Some((desk.of_grid(seat, image)?, *a)));
            let said: Vec<(Question, Answer)> = said.collect();
            let events = said.iter().filter_map(|(question, answer)| match answer {
                Answer::Passed => None,
                Answer::Known(state) => {
                    Some(question.answered(Some(*state), annotator, desk.time(Utc::now())))
                }
            });
            let events: Vec<LabelEvent> = events.collect();
            (said, events)
        };
        self.publisher.publish(&events).await?;
        let sent = events.len();
        events
            .into_iter()
            .for_each(|event| self.known().answer(event));
        self.desk().take_grid(seat, said);
        Ok(sent)
    }

    /// Frees what is held for `seat`.
    pub(crate) fn leave(&self, seat: &str) {
        self.desk().leave(seat);
    }
}
