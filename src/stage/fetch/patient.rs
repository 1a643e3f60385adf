//! A fetch that waits for what is not the message's fault.

use super::error::Failure;
use super::fault::{self, Fault, Symptom, judge};
use super::outage::{NoPass, Pass, Place, Tried};
use super::policy::CheckedUri;
use super::seats::{Seat, Seats};
use super::shortage::Shortage;
use super::{FailedRound, FetchError, Fetched, Fetcher, FetcherInner, Resource};
use crate::stage::budget::Budget;
use crate::stage::row_maker::Leave;
use std::sync::Arc;
use std::time::Duration;
use tagstream_core::events::PartitionId;
use tagstream_core::redact::{cover, redact};
use tokio::time::Instant;

/// Longest check of whether a place answers.
const CHECK: Duration = Duration::from_secs(5);
/// Pause before an image is tried again whose place answers others; it doubles.
const AGAIN: Duration = Duration::from_millis(250);

/// Who waits for an image, and how.
#[derive(Debug, Clone)]
pub struct Waiter<'a> {
    /// The partition of its message.
    pub partition: &'a PartitionId,
    /// Seats to be had.
    pub seats: &'a Seats,
    /// Tells it to leave.
    pub leave: &'a Leave,
    /// How long to wait for what this process lacks; `None`: as long as it takes.
    pub own_wait: Option<Duration>,
}

/// One fetch under way.
struct Attempt<'a> {
    shared: &'a FetcherInner,
    uri: &'a str,
    source: CheckedUri,
    place: Option<Arc<Place>>,
    waiter: &'a Waiter<'a>,
    trouble: Tried,
    /// Failures for which the place answered others.
    others_answered: u8,
    lacked: Patience<'a>,
}

/// What a failure comes to.
type Next = Result<(), FetchError>;

impl Fetcher {
    /// Fetches `uri`, and waits for a place that is down within `fetch.outage_wait_ms`, and for
    /// what this process lacks. The seat is to be held until the image is decoded.
    ///
    /// # Errors
    /// [`FetchError::Left`] if asked to leave, [`FetchError::Own`] if this process lacked
    /// something for longer than the waiter waits; else the message's fault.
    pub async fn fetch_patiently(
        &self,
        uri: &str,
        budget: &Budget,
        waiter: &Waiter<'_>,
    ) -> Result<(Fetched, Seat), FetchError> {
        let shared = &self.shared;
        let source = shared.policy.source(uri);
        let source = source.map_err(|e| shared.named(uri, 1, e))?;
        let place = shared.place_name(&source);
        let mut attempt = Attempt {
            shared,
            uri,
            place: place.map(|(name, listed)| shared.outages.place(&name, listed)),
            source,
            waiter,
            trouble: Tried::default(),
            others_answered: 0,
            lacked: self.patience(uri, waiter),
        };
        loop {
            if let Some(done) = attempt.once(budget).await? {
                return Ok(done);
            }
        }
    }

    /// Patience with what this process lacks beside what it takes to fetch.
    pub fn patience<'a>(&'a self, uri: &'a str, waiter: &'a Waiter<'a>) -> Patience<'a> {
        Patience {
            shared: &self.shared,
            uri,
            waiter,
            shortage: None,
            since: None,
        }
    }
}

/// Patience with what this process lacks; it ends with the waiter's.
pub struct Patience<'a> {
    shared: &'a FetcherInner,
    uri: &'a str,
    waiter: &'a Waiter<'a>,
    shortage: Option<Shortage>,
    /// When something was lacking first.
    since: Option<Instant>,
}

impl Patience<'_> {
    /// Waits before the next attempt.
    ///
    /// # Errors
    /// [`FetchError::Left`] if asked to leave, [`FetchError::Own`] after the waiter's time.
    pub async fn pause(&mut self, resource: Resource, reason: &str) -> Next {
        if self
            .shortage
            .as_ref()
            .is_none_or(|s| s.resource != resource)
        {
            self.shortage = None;
        }
        let shortages = &self.shared.outages.shortages;
        let shortage = self
            .shortage
            .get_or_insert_with(|| shortages.meet(resource, reason));
        let since = *self.since.get_or_insert(shortage.since);
        let uri = || redact(self.uri);
        if self
            .waiter
            .own_wait
            .is_some_and(|most| since.elapsed() >= most)
        {
            return Err(FetchError::Own {
                uri: uri(),
                resource,
                reason: reason.to_owned(),
            });
        }
        match shortage.pause(self.waiter.leave).await {
            true => Ok(()),
            false => Err(FetchError::Left { uri: uri() }),
        }
    }

    /// It is over.
    fn end(&mut self) {
        self.shortage = None;
    }
}

impl FetcherInner {
    /// What the outage of a source is an outage of, and whether the configuration knows it.
    fn place_name(&self, source: &CheckedUri) -> Option<(String, bool)> {
        match source {
            CheckedUri::Data(_) => None,
            CheckedUri::File(path) => {
                let folder = self.policy.folder(path)?;
                Some((format!("file://{}", folder.display()), true))
            }
            CheckedUri::Object { store, bucket, .. } => {
                Some((format!("{}://{bucket}", store.scheme()), true))
            }
            CheckedUri::Web(url) => {
                let host = url.host_str()?;
                let (scheme, port) = (url.scheme(), url.port_or_known_default()?);
                let listed = self.policy.lists_hosts();
                Some((format!("{scheme}://{host}:{port}"), listed))
            }
        }
    }

    /// Whether what lies at an address that was answered before is answered now.
    async fn answers(&self, uri: &str) -> bool {
        let Ok(source) = self.policy.source(uri) else {
            return false;
        };
        let asked = async {
            match &source {
                CheckedUri::Data(_) => true,
                CheckedUri::File(path) => tokio::fs::metadata(path).await.is_ok(),
                CheckedUri::Object { store, bucket, key } => {
                    self.objects.answers(*store, bucket, key).await
                }
                CheckedUri::Web(url) => self.web.answers(url).await,
            }
        };
        tokio::time::timeout(CHECK.min(self.timeout), asked)
            .await
            .unwrap_or(false)
    }

    /// Whether `place` is alive, by an answer that somebody got since `began`, or by asking it for
    /// what it has given before.
    async fn is_alive(&self, place: &Place, uri: &str, began: Instant) -> bool {
        if place.answered_since(began) {
            return true;
        }
        let failed_at = Instant::now();
        let mut check = place.check.lock().await;
        if place.answered_since(began) {
            return true;
        }
        if let Some((at, alive)) = *check
            && at >= failed_at
        {
            return alive;
        }
        if place.failed_since(began) {
            return false;
        }
        let Some(address) = place.answered_address(uri) else {
            return false;
        };
        let at = Instant::now();
        let alive = self.answers(&address).await;
        *check = Some((at, alive));
        if alive {
            place.answered(None);
        }
        alive
    }
}

impl Attempt<'_> {
    /// One round of attempts, once the place may be asked; `None`: once more.
    async fn once(&mut self, budget: &Budget) -> Result<Option<(Fetched, Seat)>, FetchError> {
        let place = self.place.clone();
        let pass = match &place {
            None => None,
            Some(place) => {
                let pass = place.pass(self.trouble, self.waiter.leave).await;
                Some(pass.map_err(|refused| self.refused(place, refused))?)
            }
        };
        self.trouble.tried_last = pass.as_ref().is_some_and(|p| p.is_trial);
        let seat = self.seat().await?;
        let retries = match self.trouble.tried_last {
            true => 0,
            false => self.shared.retries,
        };
        let round = self
            .shared
            .round(&self.source, budget, retries, false)
            .await;
        match round {
            Ok(fetched) => {
                if let Some(place) = &place {
                    place.answered(Some(self.uri));
                }
                if let Some(pass) = pass {
                    pass.done();
                }
                Ok(Some((fetched, seat)))
            }
            Err(failed) => {
                drop(seat);
                self.failed(failed, pass).await.map(|()| None)
            }
        }
    }

    fn refused(&self, place: &Place, refused: NoPass) -> FetchError {
        let uri = redact(self.uri);
        match refused {
            NoPass::Left => FetchError::Left { uri },
            NoPass::GivenUp { lasted, reason } => FetchError::Outage {
                uri,
                place: place.name.clone(),
                lasted,
                reason,
            },
        }
    }

    /// Waits for a seat. Whoever waits for a place of which nothing good is known may leave.
    async fn seat(&self) -> Result<Seat, FetchError> {
        let taken = self
            .waiter
            .seats
            .take(self.waiter.partition, self.place.as_ref());
        tokio::pin!(taken);
        tokio::select! {
            seat = &mut taken => return Ok(seat),
            () = self.waiter.leave.asked() => {}
        }
        if self.place.as_ref().is_some_and(|p| p.is_doubtful()) {
            return Err(self.left());
        }
        Ok(taken.await)
    }

    fn left(&self) -> FetchError {
        FetchError::Left {
            uri: redact(self.uri),
        }
    }

    async fn failed(&mut self, failed: FailedRound, pass: Option<Pass<'_>>) -> Next {
        let FailedRound {
            failure,
            attempts,
            last_began,
        } = failed;
        let named = |failure| Err(self.shared.named(self.uri, attempts, failure));
        let Failure::Source {
            mut symptom,
            reason,
            after,
        } = failure
        else {
            if let (Failure::TooLarge, Some(place)) = (&failure, &self.place) {
                place.answered(None);
            }
            return named(failure);
        };
        if symptom == Symptom::NameFailed && !self.shared.names.others_resolve(self.host()).await {
            symptom = Symptom::NoResolver;
        }
        let again = |symptom| Failure::Source {
            symptom,
            reason: reason.clone(),
            after,
        };
        let shown = cover(reason.clone(), self.uri);
        let most = match (judge(&symptom).fault, &self.place) {
            (Fault::Own(resource), _) => {
                drop(pass);
                return self.lacked.pause(resource, &shown).await;
            }
            (Fault::Message, place) => {
                if let Some(place) = place {
                    place.answered(None);
                }
                return named(again(symptom));
            }
            (_, None) => return named(again(symptom)),
            (Fault::FarSideIfKnown, Some(place)) if !place.is_known() => {
                return named(again(symptom));
            }
            (Fault::FarSideIfKnown, _) => u8::MAX,
            (Fault::FarSide { others_answered }, _) => others_answered,
        };
        if self.shared.outages.wait.is_zero() {
            return named(again(symptom));
        }
        self.lacked.end();
        match self.far_side(last_began, most, after, &shown, pass).await? {
            true => Ok(()),
            false => named(again(symptom)),
        }
    }

    fn host(&self) -> &str {
        match &self.source {
            CheckedUri::Web(url) => url.host_str().unwrap_or_default(),
            _ => "",
        }
    }

    /// The far side's failure: whether to try again, once the place may be asked.
    async fn far_side(
        &mut self,
        began: Instant,
        most: u8,
        after: Option<Duration>,
        reason: &str,
        pass: Option<Pass<'_>>,
    ) -> Result<bool, FetchError> {
        let Some(place) = self.place.clone() else {
            return Ok(false);
        };
        let since = *self.trouble.since.get_or_insert(began);
        let is_trial = pass.as_ref().is_some_and(|p| p.is_trial);
        // Who asks for fewer requests is not asked whether it is there.
        let busy = most == fault::BUSY_ANSWERS;
        let alive = match busy {
            true => place.answered_since(began),
            false => self.shared.is_alive(&place, self.uri, began).await,
        };
        if alive {
            self.others_answered += 1;
            if self.others_answered >= most {
                place.answered(None);
                return Ok(false);
            }
        } else {
            self.others_answered = 0;
        }
        if !alive || busy {
            place.failed(is_trial, after, reason);
            if let Some(pass) = pass {
                pass.done();
            }
        } else {
            drop(pass);
        }
        let lasted = since.elapsed();
        if lasted >= place.wait() {
            let reason = reason.to_owned();
            return Err(self.refused(&place, NoPass::GivenUp { lasted, reason }));
        }
        if alive && !busy {
            let pause = AGAIN.saturating_mul(1 << self.others_answered.min(5));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.waiter.leave.asked() => return Err(self.left()),
            }
        }
        Ok(true)
    }
}
