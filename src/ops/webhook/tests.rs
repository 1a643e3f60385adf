//! A server of our own that answers as it is told and remembers what it was sent.

use super::*;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tagstream_core::config::Secret;
use tagstream_core::events::{News, NotifiedModel};
use tokio::net::TcpListener;

#[derive(Clone, Default)]
struct Seen {
    answers: Arc<Mutex<VecDeque<Response>>>,
    requests: Arc<Mutex<Vec<(HeaderMap, String)>>>,
}

async fn hook(State(seen): State<Seen>, headers: HeaderMap, body: String) -> Response {
    seen.requests.lock().unwrap().push((headers, body));
    let next = seen.answers.lock().unwrap().pop_front();
    next.unwrap_or_else(|| StatusCode::OK.into_response())
}

/// Answers in this order, then with 200.
async fn server(answers: Vec<Response>) -> (SocketAddr, Seen) {
    let seen = Seen::default();
    seen.answers.lock().unwrap().extend(answers);
    let routes = Router::new().fallback(hook).with_state(seen.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, routes).await });
    (address, seen)
}

fn config(address: impl std::fmt::Display) -> NotifyConfig {
    NotifyConfig {
        webhook: Secret::from(format!("http://{address}/services/hunter2?token=hunter3")),
        authorization: Secret::from("Bearer hunter4-long".to_owned()),
        ..NotifyConfig::default()
    }
}

fn news() -> Notification {
    Notification {
        format_version: Notification::FORMAT_VERSION,
        id: "one".into(),
        event: News::Promoted,
        time: chrono::DateTime::UNIX_EPOCH,
        command: "retrain".into(),
        host: "h".into(),
        build: "0.2.0".into(),
        text: "promoted: version 3".into(),
        why: "mAP 30.00 -> 46.00".into(),
        model: Some(NotifiedModel {
            registry: "s3://media/models".into(),
            version: 3,
            id: Some("trm-ml-1".into()),
        }),
        exit_code: None,
    }
}

fn without_secrets(error: &CallError) -> String {
    let said = format!("{error} {error:?}");
    assert!(!said.contains("hunter"), "{said}");
    error.to_string()
}

#[tokio::test]
async fn news_is_posted_with_the_credentials() {
    let (address, seen) = server(vec![]).await;
    let webhook = Webhook::new(&config(address)).unwrap().unwrap();
    assert!(!format!("{webhook:?}").contains("hunter"), "{webhook:?}");
    webhook.send(&news()).await.unwrap();
    let requests = seen.requests.lock().unwrap();
    let [(headers, body)] = &requests[..] else {
        panic!("{} requests", requests.len());
    };
    assert_eq!(headers["authorization"], "Bearer hunter4-long");
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(serde_json::from_str::<Notification>(body).unwrap(), news());
}

#[tokio::test]
async fn a_server_that_cannot_now_is_asked_again_and_told_the_same() {
    let busy = (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "0")]).into_response();
    let away = StatusCode::SERVICE_UNAVAILABLE.into_response();
    let (address, seen) = server(vec![busy, away]).await;
    let webhook = Webhook::new(&config(address)).unwrap().unwrap();
    webhook.send(&news()).await.unwrap();
    let requests = seen.requests.lock().unwrap();
    let bodies: Vec<&str> = requests.iter().map(|(_, body)| body.as_str()).collect();
    assert_eq!(bodies, [bodies[0]; 3]);
}

#[tokio::test]
async fn tries_end_and_a_refusal_is_final() {
    let away = || StatusCode::BAD_GATEWAY.into_response();
    let (address, seen) = server(vec![away(), away(), away()]).await;
    let twice = NotifyConfig {
        retries: 1,
        ..config(address)
    };
    let webhook = Webhook::new(&twice).unwrap().unwrap();
    let error = webhook.send(&news()).await.unwrap_err();
    assert!(without_secrets(&error).contains("502"), "{error}");
    assert_eq!(seen.requests.lock().unwrap().len(), 2);

    let echo = "no such hook: /services/hunter2?token=hunter3, Bearer hunter4-long";
    let gone = (StatusCode::NOT_FOUND, echo).into_response();
    let moved = (StatusCode::FOUND, [("location", "http://127.0.0.1:1/x")]).into_response();
    let (address, seen) = server(vec![gone, moved]).await;
    let webhook = Webhook::new(&config(address)).unwrap().unwrap();
    for status in ["404", "302"] {
        let error = webhook.send(&news()).await.unwrap_err();
        assert!(without_secrets(&error).contains(status), "{error}");
    }
    assert_eq!(seen.requests.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_server_that_is_not_there_or_says_nothing_ends_within_the_deadline() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = free.local_addr().unwrap();
    let short = NotifyConfig {
        timeout_ms: 200,
        ..config(silent)
    };
    let webhook = Webhook::new(&short).unwrap().unwrap();
    let error = webhook.send(&news()).await.unwrap_err();
    assert!(without_secrets(&error).contains("within 200 ms"), "{error}");
    drop(free);
    let nobody = NotifyConfig {
        retries: 0,
        ..config(silent)
    };
    let webhook = Webhook::new(&nobody).unwrap().unwrap();
    let error = webhook.send(&news()).await.unwrap_err();
    assert!(
        without_secrets(&error).contains("cannot be reached"),
        "{error}"
    );
}

#[tokio::test]
async fn a_failure_is_counted_and_nobody_is_told_without_an_address() {
    assert!(Webhook::new(&NotifyConfig::default()).unwrap().is_none());
    let gone = StatusCode::GONE.into_response();
    let (address, _) = server(vec![gone]).await;
    let webhook = Webhook::new(&config(address)).unwrap().unwrap();
    let recorder = crate::ops::metrics::recorder();
    let handle = recorder.handle();
    let _counting = metrics::set_default_local_recorder(&recorder);
    webhook.tell(&news()).await;
    webhook.tell(&news()).await;
    let told = handle.render();
    for result in ["failed", "sent"] {
        let line =
            format!("tagstream_notifications_total{{event=\"promoted\",result=\"{result}\"}} 1");
        assert!(told.contains(&line), "{told}");
    }
}
