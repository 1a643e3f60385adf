//! The span of one image.

use super::{HeaderList, TraceStep};
use crate::stage::source::SourceMessage;
use bytes::Bytes;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator as _};
use opentelemetry::trace::{Span as _, SpanKind, Status, TraceContextExt as _, Tracer as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, Span};
use std::borrow::Cow;
use std::sync::{Arc, Mutex};
use tagstream_core::events::DeadLetterKind;

/// Most bytes of a text that comes from a message.
const MOST_TEXT: usize = 512;

/// The span of an image; nothing where it is not sampled. One that ends without a word is of an
/// image that was left for the next reader.
#[derive(Debug, Clone, Default)]
pub struct ImageTrace(Option<Arc<Mutex<Open>>>);

#[derive(Debug)]
struct Open(Span);

impl Drop for Open {
    fn drop(&mut self) {
        // Nothing happens where the span has ended.
        self.0.set_attribute(outcome("left"));
        self.0.end();
    }
}

fn outcome(what: &'static str) -> KeyValue {
    KeyValue::new("tagstream.outcome", what)
}

/// The beginning of a text, cut between two characters.
fn beginning(text: &str) -> String {
    text[..text.floor_char_boundary(MOST_TEXT)].to_owned()
}

struct Headers<'a>(&'a HeaderList);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        let named = |(name, _): &&(String, Option<Bytes>)| name.eq_ignore_ascii_case(key);
        let value = self.0.iter().rev().find(named)?.1.as_deref()?;
        std::str::from_utf8(value).ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name.as_str()).collect()
    }
}

struct Written(HeaderList);

impl Injector for Written {
    fn set(&mut self, key: &str, value: String) {
        self.0.retain(|(name, _)| !name.eq_ignore_ascii_case(key));
        // An empty `tracestate` says nothing.
        if !value.is_empty() {
            self.0.push((key.to_owned(), Some(value.into())));
        }
    }
}

impl ImageTrace {
    /// Begins the span of a message's record, below the span that the message names.
    pub(super) fn begin(tracer: &SdkTracer, message: &SourceMessage, record: u32) -> Self {
        let propagator = TraceContextPropagator::new();
        let parent = propagator.extract_with_context(&Context::new(), &Headers(&message.headers));
        let (topic, number) = (&message.partition.topic, message.partition.partition);
        let attributes = [
            KeyValue::new("messaging.system", "kafka"),
            KeyValue::new("messaging.operation.type", "process"),
            KeyValue::new("messaging.operation.name", "tag"),
            KeyValue::new("messaging.destination.name", topic.to_string()),
            KeyValue::new("messaging.destination.partition.id", number.to_string()),
            KeyValue::new("messaging.kafka.offset", message.offset.0),
            KeyValue::new("tagstream.record", i64::from(record)),
        ];
        let span = tracer
            .span_builder(format!("tag {topic}"))
            .with_kind(SpanKind::Consumer)
            .with_attributes(attributes);
        let span = tracer.build_with_context(span, &parent);
        match span.is_recording() {
            true => ImageTrace(Some(Arc::new(Mutex::new(Open(span))))),
            false => ImageTrace::default(),
        }
    }

    fn with(&self, act: impl FnOnce(&mut Span)) {
        if let Some(open) = &self.0 {
            act(&mut open.lock().expect("no panic while locked").0);
        }
    }

    /// Notes what the image is called.
    pub fn named(&self, image_id: &str) {
        self.with(|span| {
            span.set_attribute(KeyValue::new("tagstream.image.id", beginning(image_id)));
        });
    }

    /// Notes that a step is done.
    pub fn reached(&self, step: TraceStep) {
        self.with(|span| span.add_event(step.as_str(), Vec::new()));
    }

    /// Ends it: the image is a dead letter.
    pub fn refused(&self, kind: DeadLetterKind, reason: &str) {
        self.with(|span| {
            span.set_attribute(outcome("dead_letter"));
            span.set_attribute(KeyValue::new("error.type", kind.as_str()));
            span.set_status(Status::error(beginning(reason)));
            span.end();
        });
    }

    /// Ends it: its row is in this file.
    pub fn committed(&self, file: &str, model: &str) {
        self.with(|span| {
            span.set_attribute(outcome("committed"));
            span.set_attribute(KeyValue::new("tagstream.file", file.to_owned()));
            span.set_attribute(KeyValue::new("tagstream.model.version", model.to_owned()));
            span.set_status(Status::Ok);
            span.end();
        });
    }

    /// Ends it: its row is in another writer's file.
    pub fn overtaken(&self) {
        self.with(|span| {
            span.set_attribute(outcome("overtaken"));
            span.end();
        });
    }

    /// The headers of the image's messages: those of the message that asked for it, with this span
    /// as the parent of whatever follows.
    pub fn headers<'a>(&self, of_message: &'a HeaderList) -> Cow<'a, HeaderList> {
        let mut headers = Cow::Borrowed(of_message);
        self.with(|span| {
            let here = Context::new().with_remote_span_context(span.span_context().clone());
            let mut written = Written(of_message.clone());
            TraceContextPropagator::new().inject_context(&here, &mut written);
            headers = Cow::Owned(written.0);
        });
        headers
    }
}
