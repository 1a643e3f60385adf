//! The model over HTTP.

use super::{ACTOR, Answered, READER, Served, answered};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::io::Cursor;
use std::time::{Duration, Instant};

/// Time after which a test is stuck; never part of what is asserted.
const STUCK: Duration = Duration::from_secs(60);

fn picture(red: u8) -> Vec<u8> {
    let picture = image::RgbImage::from_pixel(40, 30, image::Rgb([red, 40, 40]));
    let mut png = Vec::new();
    picture
        .write_to(&mut Cursor::new(&mut png), image::ImageFormat::Png)
        .unwrap();
    png
}

pub(super) async fn model(tokens: bool) -> Served {
    let served = Served::start(|config, folder| {
        config.inference.enabled = true;
        config.fetch.max_mib = 1;
        config.decode.helper = env!("CARGO_BIN_EXE_tagstream").into();
        config.fetch.allow_schemes = vec!["file".into(), "data".into()];
        config.fetch.allow_path_prefixes = vec![folder.to_str().unwrap().into()];
        std::fs::write(folder.join("a.png"), picture(250)).unwrap();
        if tokens {
            let path = folder.join("tokens");
            std::fs::write(&path, format!("read ann {READER}\nact bob {ACTOR}\n")).unwrap();
            config.access.token_file = path.to_str().unwrap().into();
        }
    })
    .await;
    let bearer = format!("Bearer {READER}");
    let started = Instant::now();
    while served
        .get("/v2/health/ready", &[("authorization", &bearer)])
        .await
        .status
        != 200
    {
        assert!(started.elapsed() < STUCK, "the model is never ready");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    served
}

async fn send(served: &Served, path: &str, kind: &str, body: impl Into<Vec<u8>>) -> Answered {
    let request = served.client.post(served.url(path)).body(body.into());
    answered(request.header("content-type", kind)).await
}

pub(super) async fn ask(served: &Served, path: &str, body: Value) -> (u16, Value) {
    let answer = send(served, path, "application/json", body.to_string()).await;
    (
        answer.status,
        serde_json::from_str(&answer.body).unwrap_or_default(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_is_tagged_however_it_is_sent() {
    let served = model(false).await;
    let raw = send(&served, "/v1/tag", "image/png", picture(250)).await;
    assert_eq!(raw.status, 200, "{}", raw.body);
    let raw: Value = serde_json::from_str(&raw.body).unwrap();
    assert_eq!((&raw["width"], &raw["height"]), (&json!(40), &json!(30)));
    assert_eq!(raw["tags"][0]["category"], "red", "{raw}");
    let uri = format!("file://{}", served.folder.path().join("a.png").display());
    let base64 = STANDARD.encode(picture(250));
    let data = format!("data:image/png;base64,{base64}");
    for body in [
        json!({"image": base64}),
        json!({"uri": uri}),
        json!({"uri": data}),
    ] {
        let (status, answer) = ask(&served, "/v1/tag", body).await;
        assert_eq!((status, &answer), (200, &raw));
    }
    let (_, embedded) = ask(&served, "/v1/embed", json!({"uri": uri})).await;
    let embedding: Vec<f64> = serde_json::from_value(embedded["embedding"].clone()).unwrap();
    let length = embedding.iter().map(|x| x * x).sum::<f64>();
    assert!(
        embedding.len() == 4 && (length - 1.0).abs() < 1e-4,
        "{embedded}"
    );

    // The same by the protocol of gateways, and many at once.
    let (_, metadata) = ask_get(&served, "/v2/models/tagstream").await;
    assert_eq!(metadata["versions"][0], raw["model_version"]);
    let inputs = json!([{
        "name": "image", "datatype": "BYTES", "shape": [3],
        "data": [base64, uri, STANDARD.encode(picture(0))],
    }]);
    let path = "/v2/models/tagstream/infer";
    let (status, answer) = ask(&served, path, json!({"id": "7", "inputs": inputs})).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(
        (&answer["id"], &answer["model_name"]),
        (&json!("7"), &json!("tagstream"))
    );
    let output = |name: &str| {
        let all = answer["outputs"].as_array().unwrap();
        all.iter()
            .find(|output| output["name"] == name)
            .unwrap()
            .clone()
    };
    assert_eq!(output("scores")["shape"], json!([3, 3]));
    let embeddings = output("embedding");
    assert_eq!(embeddings["shape"], json!([3, 4]));
    for (x, y) in embedding.iter().zip(embeddings["data"].as_array().unwrap()) {
        assert!((x - y.as_f64().unwrap()).abs() < 1e-5, "{embeddings}");
    }
    let tags: Value = serde_json::from_str(output("tags")["data"][1].as_str().unwrap()).unwrap();
    assert_eq!(tags, raw["tags"]);
    let version = raw["model_version"].as_str().unwrap();
    let path = format!("/v2/models/tagstream/versions/{version}/infer");
    let wanted = json!({"inputs": inputs, "outputs": [{"name": "tags"}]});
    let (status, answer) = ask(&served, &path, wanted).await;
    assert_eq!(
        (status, answer["outputs"].as_array().unwrap().len()),
        (200, 1)
    );
}

async fn ask_get(served: &Served, path: &str) -> (u16, Value) {
    let answer = served.get(path, &[]).await;
    (
        answer.status,
        serde_json::from_str(&answer.body).unwrap_or_default(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_answered_is_told_by_kind_and_without_secrets() {
    let served = model(false).await;
    for (path, body, status, kind) in [
        (
            "/v1/tag",
            json!({"uri": "file:///etc/passwd"}),
            403,
            "forbidden_uri",
        ),
        (
            "/v1/tag",
            json!({"uri": "http://127.0.0.1:1/?token=hunter2"}),
            403,
            "forbidden_uri",
        ),
        (
            "/v1/tag",
            json!({"uri": "no address hunter2"}),
            400,
            "bad_uri",
        ),
        ("/v1/tag", json!({"image": "hunter2!"}), 400, "bad_request"),
        (
            "/v1/tag",
            json!({"image": STANDARD.encode("hunter2")}),
            422,
            "unsupported_image",
        ),
        ("/v1/tag", json!({"text": "a cat"}), 400, "bad_request"),
        ("/v1/tag", json!({}), 400, "bad_request"),
        ("/v1/tag", json!({"url": "hunter2"}), 400, "bad_request"),
        ("/v1/tag", json!(["hunter2"]), 400, "bad_request"),
        ("/v1/embed", json!({"text": "a cat"}), 400, "no_text_tower"),
        ("/v1/embed", json!({"text": " "}), 400, "bad_request"),
        (
            "/v2/models/other/infer",
            json!({"inputs": []}),
            404,
            "no_such_model",
        ),
        (
            "/v2/models/tagstream/infer",
            json!({"inputs": []}),
            400,
            "bad_request",
        ),
        (
            "/v2/models/tagstream/versions/0/infer",
            json!({"inputs": []}),
            404,
            "no_such_model",
        ),
    ] {
        let (found, answer) = ask(&served, path, body.clone()).await;
        assert_eq!(found, status, "{path} {body}: {answer}");
        assert_eq!(answer["error"]["kind"], kind, "{path} {body}: {answer}");
        assert!(!answer.to_string().contains("hunter2"), "{answer}");
    }
    let half = picture(9)[..60].to_vec();
    assert_eq!(
        send(&served, "/v1/tag", "image/png", half).await.status,
        422
    );
    let large = json!({"image": STANDARD.encode(vec![0; (1 << 20) + 1])});
    let (status, answer) = ask(&served, "/v1/tag", large).await;
    assert_eq!(
        (status, &answer["error"]["kind"]),
        (413, &json!("too_large"))
    );
    for kind in ["text/plain", "", "application/x-www-form-urlencoded"] {
        let path = "/v2/models/tagstream/infer";
        assert_eq!(send(&served, path, kind, "{}").await.status, 415, "{kind}");
        assert_eq!(
            send(&served, "/v1/tag", kind, "{}").await.status,
            415,
            "{kind}"
        );
    }
    let request = served.client.post(served.url("/v1/tag")).body("{}");
    let request = request.header("content-type", "application/json");
    let foreign = answered(request.header("origin", "https://evil.example")).await;
    assert_eq!(foreign.status, 403, "another site's page");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_read_may_ask_the_model_and_nobody_else() {
    let served = model(true).await;
    let ask = async |token: Option<&str>| {
        let request = served.client.post(served.url("/v1/tag")).body(picture(250));
        let request = request.header("content-type", "image/png");
        let request = match token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        };
        answered(request).await.status
    };
    assert_eq!(ask(None).await, 401);
    assert_eq!(ask(Some("made-up-made-up-made-up")).await, 401);
    assert_eq!(ask(Some(READER)).await, 200);
}
