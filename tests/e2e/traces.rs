//! Traces, as a collector gets them: OTLP in Protobuf over HTTP, from the real program.

use crate::child::Launch;
use crate::harness::World;
use crate::topics::{Sent, send};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use prost::Message;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

/// What we read of the protocol, written down from its definition and not taken from a library.
mod wire {
    use prost::Message;

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Request {
        #[prost(message, repeated, tag = "1")]
        pub of_resources: Vec<OfResource>,
    }
    #[derive(Clone, PartialEq, Message)]
    pub(super) struct OfResource {
        #[prost(message, optional, tag = "1")]
        pub resource: Option<Resource>,
        #[prost(message, repeated, tag = "2")]
        pub of_scopes: Vec<OfScope>,
    }
    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Resource {
        #[prost(message, repeated, tag = "1")]
        pub attributes: Vec<Attribute>,
    }
    #[derive(Clone, PartialEq, Message)]
    pub(super) struct OfScope {
        #[prost(message, repeated, tag = "2")]
        pub spans: Vec<Span>,
    }
    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Span {
        #[prost(bytes = "vec", tag = "1")]
        pub trace: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        pub id: Vec<u8>,
        #[prost(string, tag = "3")]
        pub state: String,
        #[prost(bytes = "vec", tag = "4")]
        pub parent: Vec<u8>,
        #[prost(string, tag = "5")]
        pub name: String,
        #[prost(fixed64, tag = "7")]
        pub start: u64,
        #[prost(fixed64, tag = "8")]
        pub end: u64,
        #[prost(message, repeated, tag = "9")]
        pub attributes: Vec<Attribute>,
        #[prost(message, repeated, tag = "11")]
        pub events: Vec<Event>,
        #[prost(message, optional, tag = "15")]
        pub status: Option<Status>,
    }
    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Event {
        #[prost(string, tag = "2")]
        pub name: String,
    }
    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Status {
        #[prost(string, tag = "2")]
        pub message: String,
        #[prost(int32, tag = "3")]
        pub code: i32,
    }
    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Attribute {
        #[prost(string, tag = "1")]
        pub key: String,
        #[prost(message, optional, tag = "2")]
        pub value: Option<Value>,
    }
    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Value {
        #[prost(string, optional, tag = "1")]
        pub text: Option<String>,
        #[prost(int64, optional, tag = "3")]
        pub number: Option<i64>,
    }
}

#[derive(Clone, Default)]
struct Collected {
    requests: Arc<Mutex<Vec<(HeaderMap, wire::Request)>>>,
}

async fn take(State(into): State<Collected>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let Ok(request) = wire::Request::decode(body) else {
        return StatusCode::BAD_REQUEST;
    };
    into.requests.lock().unwrap().push((headers, request));
    StatusCode::OK
}

impl Collected {
    async fn start() -> (Self, SocketAddr) {
        let collected = Collected::default();
        let app = Router::new()
            .route("/v1/traces", post(take))
            .with_state(collected.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        (collected, address)
    }

    fn spans(&self) -> Vec<wire::Span> {
        let requests = self.requests.lock().unwrap();
        let of_resources = requests.iter().flat_map(|(_, one)| &one.of_resources);
        let of_scopes = of_resources.flat_map(|one| &one.of_scopes);
        of_scopes.flat_map(|one| one.spans.clone()).collect()
    }
}

fn says(attributes: &[wire::Attribute], key: &str) -> String {
    let found = attributes.iter().find(|one| one.key == key);
    let value = found.and_then(|one| one.value.clone()).unwrap_or_default();
    let number = value.number.map(|number| number.to_string());
    value.text.or(number).unwrap_or_default()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

fn parent(trace: &str, sampled: bool) -> BTreeMap<String, String> {
    let flags = if sampled { "01" } else { "00" };
    BTreeMap::from([
        ("traceparent".into(), format!("00-{trace}-{PARENT}-{flags}")),
        ("tracestate".into(), "shop=7".into()),
        ("site".into(), "north".into()),
    ])
}

/// A world whose stage tells this collector, and five messages: one that continues a trace, one
/// whose trace is not sampled, one without a trace, one that is no reference and one whose picture
/// is not there.
fn traced(name: &str, collector: &str, ratio: f64) -> World {
    let mut world = World::new(name, 1);
    world.config.trace.endpoint = collector.to_owned();
    world.config.trace.sample_ratio = ratio;
    world.config.trace.timeout_ms = 20_000;
    let reference = |id: &str, picture: &str| {
        let uri = format!("file://{}/{picture}", world.folder.path().display());
        serde_json::json!({"image_id": id, "uri": uri, "attributes": {"shelf": "3"}}).to_string()
    };
    let other = TRACE.replace('4', "5");
    let messages = [
        (reference("continued", "0.png"), parent(TRACE, true)),
        (reference("unsampled", "1.png"), parent(&other, false)),
        (reference("alone", "2.png"), BTreeMap::new()),
        ("{".to_owned(), parent(TRACE, true)),
        (reference("absent", "none.png"), parent(TRACE, true)),
    ];
    for (value, headers) in &messages {
        send(
            &world.config.source.images_topic,
            &[Sent {
                key: None,
                value: value.as_bytes(),
                headers,
            }],
        );
    }
    world
}

const LOGIN: Launch<'static> = Launch {
    model: None,
    failpoints: "",
    for_ever: false,
    http: false,
    memory_kib: 0,
    group: None,
    environment: &[("TAGSTREAM_TRACE__AUTHORIZATION", "Bearer hunter2-long")],
};

async fn run(world: &World, launch: &'static Launch<'static>) -> (Option<i32>, String) {
    let mut stage = world.launch("traced", launch);
    tokio::task::spawn_blocking(move || (stage.wait().code(), stage.log()))
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_span_goes_from_the_message_to_its_file_or_its_dead_letter() {
    let (collected, address) = Collected::start().await;
    let world = traced("traced", &format!("http://{address}"), 1.0);
    let (code, log) = run(&world, &LOGIN).await;
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("hunter2"), "{log}");
    {
        let requests = collected.requests.lock().unwrap();
        let (headers, request) = requests.first().expect("spans were sent");
        assert_eq!(headers["authorization"], "Bearer hunter2-long");
        let resource = request.of_resources[0].resource.clone().unwrap();
        assert_eq!(says(&resource.attributes, "service.name"), "tagstream");
    }
    let spans: BTreeMap<String, wire::Span> = collected
        .spans()
        .into_iter()
        .map(|span| (says(&span.attributes, "messaging.kafka.offset"), span))
        .collect();
    let offsets: Vec<&str> = spans.keys().map(String::as_str).collect();
    assert_eq!(
        offsets,
        ["0", "2", "3", "4"],
        "all but what is not sampled {log}"
    );

    let continued = &spans["0"];
    assert_eq!(
        (hex(&continued.trace), hex(&continued.parent)),
        (TRACE.into(), PARENT.into())
    );
    assert_eq!(continued.state, "shop=7");
    assert!(continued.end >= continued.start);
    let named = |key: &str| says(&continued.attributes, key);
    assert_eq!(named("tagstream.image.id"), "continued");
    assert_eq!(named("tagstream.outcome"), "committed");
    let file = named("tagstream.file");
    assert!(
        world.files().keys().any(|name| *name == file),
        "{file}: {:?}",
        world.files().keys()
    );
    let steps: Vec<&str> = continued.events.iter().map(|one| &*one.name).collect();
    assert_eq!(steps, ["fetched", "decoded", "inferred"]);

    let alone = &spans["2"];
    assert!(alone.parent.is_empty() && alone.trace.len() == 16);
    assert_ne!(hex(&alone.trace), TRACE);
    for (offset, kind) in [("3", "bad_message"), ("4", "not_found")] {
        let span = &spans[offset];
        let status = span.status.clone().unwrap();
        assert_eq!(hex(&span.parent), PARENT);
        assert_eq!(status.code, 2, "an error");
        assert!(!status.message.is_empty());
        assert_eq!(says(&span.attributes, "error.type"), kind);
        assert_eq!(says(&span.attributes, "tagstream.outcome"), "dead_letter");
    }
    predictions_go_on(&world, &spans);
}

/// What the predictions' headers say: the image's span is the parent of what follows; what is not
/// sampled goes on as it came.
fn predictions_go_on(world: &World, spans: &BTreeMap<String, wire::Span>) {
    let told = world.read_topic(&world.config.output.predictions_topic);
    let told: BTreeMap<String, _> = told
        .into_iter()
        .map(|(key, value, headers)| (key.unwrap(), (value, headers)))
        .collect();
    let of = |id: &str| told[id].1.clone();
    let ours = format!("00-{TRACE}-{}-01", hex(&spans["0"].id));
    let (value, continued) = &told["continued"];
    assert_eq!(continued["traceparent"], ours);
    assert_eq!(
        (&*continued["tracestate"], &*continued["site"]),
        ("shop=7", "north")
    );
    assert!(value.contains("\"shelf\":\"3\""), "{value}");
    let other = parent(&TRACE.replace('4', "5"), false);
    assert_eq!(of("unsampled"), other);
    let (trace, id) = (hex(&spans["2"].trace), hex(&spans["2"].id));
    assert_eq!(of("alone")["traceparent"], format!("00-{trace}-{id}-01"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_sender_wants_traced_is_sampled() {
    let (collected, address) = Collected::start().await;
    let world = traced("sampled", &format!("http://{address}/v1/traces"), 0.0);
    let (code, log) = run(&world, &LOGIN).await;
    assert_eq!(code, Some(0), "{log}");
    let spans = collected.spans().into_iter();
    let offsets = spans.map(|span| says(&span.attributes, "messaging.kafka.offset"));
    let mut offsets: Vec<String> = offsets.collect();
    offsets.sort();
    assert_eq!(offsets, ["0", "3", "4"], "those that a sender wants");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_stops_nothing_and_is_told_of_once() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let mut world = traced("away", &format!("http://{address}"), 1.0);
    world.config.trace.timeout_ms = 300;
    let (code, log) = run(&world, &LOGIN).await;
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(log.matches("traces cannot be sent").count(), 1, "{log}");
    assert_eq!(world.rows().len(), 3);
}
