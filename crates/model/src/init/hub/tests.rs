use super::*;
use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use axum::routing::get;
use std::sync::{Arc, Mutex};

const FILES: [(&str, &str); 4] = [
    ("config.json", "{}"),
    ("tokenizer.json", "{\"a\":1}"),
    ("model.safetensors", "weights"),
    ("README.md", "not fetched"),
];

#[derive(Default)]
struct Seen {
    paths: Vec<String>,
    authorization: Option<String>,
    wrong_hash: bool,
}

/// A hub on the loopback interface with one repository.
async fn serve() -> (Hub, tempfile::TempDir, Arc<Mutex<Seen>>) {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let api = |State(seen): State<Arc<Mutex<Seen>>>, headers: HeaderMap| async move {
        let mut seen = seen.lock().unwrap();
        seen.authorization = headers
            .get("authorization")
            .map(|v| v.to_str().unwrap().to_owned());
        let siblings: Vec<_> = FILES
            .iter()
            .map(|(name, content)| {
                let hash: String = digest::sha256(content);
                let hash = if seen.wrong_hash {
                    "00".to_owned()
                } else {
                    hash
                };
                match name.ends_with("safetensors") {
                    true => serde_json::json!({"rfilename": name, "lfs": {"sha256": hash}}),
                    false => serde_json::json!({"rfilename": name}),
                }
            })
            .collect();
        axum::Json(serde_json::json!({"sha": "abc123", "siblings": siblings}))
    };
    let file = |State(seen): State<Arc<Mutex<Seen>>>,
                axum::extract::Path(name): axum::extract::Path<String>| async move {
        seen.lock().unwrap().paths.push(name.clone());
        let found = FILES.iter().find(|(file, _)| *file == name);
        found
            .map(|(_, content)| content.into_response())
            .ok_or(axum::http::StatusCode::NOT_FOUND)
    };
    let app = Router::new()
        .route("/api/models/acme/clip/revision/main", get(api))
        .route("/acme/clip/resolve/abc123/{file}", get(file))
        .with_state(seen.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub {
        endpoint,
        cache: cache.path().to_path_buf(),
        offline: false,
        token: Some(Secret::from("hush".to_owned())),
    };
    (hub, cache, seen)
}

#[tokio::test]
async fn what_a_layout_needs_is_fetched_once_and_then_found_offline() {
    let (mut hub, _cache, seen) = serve().await;
    let mut heard = Vec::new();
    let folder = hub
        .fetch("acme/clip", &mut |file, done, total| {
            heard.push((file.to_owned(), done, total))
        })
        .await
        .unwrap();
    assert!(folder.ends_with("models--acme--clip/snapshots/abc123"));
    for (name, content) in &FILES[..3] {
        assert_eq!(
            std::fs::read_to_string(folder.join(name)).unwrap(),
            *content
        );
    }
    assert!(!folder.join("README.md").exists());
    assert!(heard.contains(&("model.safetensors".to_owned(), 7, Some(7))));
    assert_eq!(
        seen.lock().unwrap().authorization.as_deref(),
        Some("Bearer hush")
    );
    assert_eq!(seen.lock().unwrap().paths.len(), 3);
    assert_eq!(
        hub.fetch("acme/clip", &mut |_, _, _| ()).await.unwrap(),
        folder
    );
    assert_eq!(seen.lock().unwrap().paths.len(), 3);
    hub.offline = true;
    hub.endpoint = "http://127.0.0.1:1".to_owned();
    assert_eq!(
        hub.fetch("acme/clip", &mut |_, _, _| ()).await.unwrap(),
        folder
    );
    let error = hub
        .fetch("acme/other", &mut |_, _, _| ())
        .await
        .unwrap_err();
    assert!(matches!(error, HubError::Offline { .. }), "{error}");
}

#[tokio::test]
async fn a_damaged_file_is_not_kept() {
    let (hub, cache, seen) = serve().await;
    seen.lock().unwrap().wrong_hash = true;
    let error = hub.fetch("acme/clip", &mut |_, _, _| ()).await.unwrap_err();
    assert!(
        matches!(&error, HubError::Damaged { file, .. } if file == "model.safetensors"),
        "{error}"
    );
    let snapshot = cache.path().join("models--acme--clip/snapshots/abc123");
    let names: Vec<_> = std::fs::read_dir(snapshot)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(
        names.iter().all(|name| name.ends_with(".json")),
        "{names:?}"
    );
}

#[tokio::test]
async fn refusals_and_odd_names_are_told() {
    let (hub, _cache, _) = serve().await;
    let fetch = async |name: &str| hub.fetch(name, &mut |_, _, _| ()).await.unwrap_err();
    assert!(
        fetch("acme/none")
            .await
            .to_string()
            .contains("no such repository")
    );
    for name in [
        "acme", "a/b/c", "../b", "a/..", "a/b@../c", "a/b@", "/b", "a/b?x",
    ] {
        assert!(matches!(fetch(name).await, HubError::Name(_)), "{name}");
    }
    let gone = Hub {
        endpoint: "http://127.0.0.1:1".to_owned(),
        ..hub.clone()
    };
    let error = gone
        .fetch("acme/clip", &mut |_, _, _| ())
        .await
        .unwrap_err();
    assert!(matches!(error, HubError::Http { .. }), "{error}");
}

/// A mirror may be named with an account, and the client's own words repeat its address.
#[tokio::test]
async fn a_mirror_s_password_is_not_told() {
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub {
        endpoint: "http://u:hush@127.0.0.1:1".to_owned(),
        cache: cache.path().to_path_buf(),
        offline: false,
        token: None,
    };
    let error = hub.fetch("acme/clip", &mut |_, _, _| ()).await;
    let error = error.unwrap_err();
    let said = format!("{error} {error:?}");
    assert!(!said.contains("hush"), "{said}");
    assert!(said.contains("127.0.0.1:1/api/models/acme/clip"), "{said}");
}

/// A hub with one repository of these files (each holds its own name) at one revision, written as
/// it stands in the address.
async fn hub_of(revision: &str, files: &'static [&'static str]) -> (Hub, tempfile::TempDir) {
    let siblings: Vec<_> = files
        .iter()
        .map(|name| serde_json::json!({"rfilename": name}))
        .collect();
    let info = serde_json::json!({"sha": "abc123", "siblings": siblings});
    let file = move |axum::extract::Path(name): axum::extract::Path<String>| async move {
        match files.contains(&name.as_str()) {
            true => Ok(name),
            false => Err(axum::http::StatusCode::NOT_FOUND),
        }
    };
    let app = Router::new()
        .route(
            &format!("/api/models/acme/clip/revision/{revision}"),
            get(|| async { axum::Json(info) }),
        )
        .route("/acme/clip/resolve/abc123/{*file}", get(file));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub {
        endpoint,
        cache: cache.path().to_path_buf(),
        offline: false,
        token: None,
    };
    (hub, cache)
}

#[tokio::test]
async fn what_a_pull_request_proposes_is_fetched_by_its_name() {
    let files = &[
        "open_clip_config.json",
        "tokenizer.json",
        "open_clip_pytorch_model.safetensors",
        "open_clip_pytorch_model.bin",
    ];
    let (mut hub, cache) = hub_of("refs%2Fpr%2F7", files).await;
    let fetched = hub.fetch("acme/clip@refs/pr/7", &mut |_, _, _| ()).await;
    let folder = fetched.unwrap();
    assert!(folder.join("open_clip_pytorch_model.safetensors").is_file());
    assert!(!folder.join("open_clip_pytorch_model.bin").exists());
    // Where the hub's own tools keep it.
    let reference = cache.path().join("models--acme--clip/refs/refs/pr/7");
    assert_eq!(std::fs::read_to_string(reference).unwrap(), "abc123");
    hub.offline = true;
    let again = hub.fetch("acme/clip@refs/pr/7", &mut |_, _, _| ()).await;
    assert_eq!(again.unwrap(), folder);
}

#[tokio::test]
async fn pieces_and_folders_of_a_repository_are_fetched() {
    let files = &[
        "modules.json",
        "0_CLIPModel/config.json",
        "0_CLIPModel/vocab.json",
        "0_CLIPModel/merges.txt",
        "0_CLIPModel/pytorch_model.bin.index.json",
        "0_CLIPModel/pytorch_model-00001-of-00002.bin",
        "0_CLIPModel/pytorch_model-00002-of-00002.bin",
        "../0_CLIPModel/tokenizer.json",
        "0_CLIPModel/../../tokenizer.json",
    ];
    let (hub, cache) = hub_of("main", files).await;
    let folder = hub.fetch("acme/clip", &mut |_, _, _| ()).await.unwrap();
    for name in &files[1..7] {
        let content = std::fs::read_to_string(folder.join(name)).unwrap();
        assert_eq!(content, *name);
    }
    let outside = cache
        .path()
        .join("models--acme--clip/snapshots/tokenizer.json");
    assert!(!outside.exists() && !folder.join("tokenizer.json").exists());
}

#[tokio::test]
async fn a_repository_of_something_else_is_told_what_would_do() {
    let adapter: &[&str] = &["adapter_config.json", "adapter_model.safetensors"];
    let export: &[&str] = &["config.json", "tokenizer.json", "onnx/vision_model.onnx"];
    let readme: &[&str] = &["README.md"];
    for (files, word) in [
        (adapter, "merge_and_unload"),
        (export, "ONNX export (onnx/vision_model.onnx)"),
        (readme, "needs open_clip_config.json"),
    ] {
        let (hub, _cache) = hub_of("main", files).await;
        let error = hub.fetch("acme/clip", &mut |_, _, _| ()).await.unwrap_err();
        let said = error.to_string();
        assert!(said.contains(word) && said.contains(files[0]), "{said}");
    }
}
