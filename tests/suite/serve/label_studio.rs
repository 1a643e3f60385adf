//! Label Studio's ML backend, and who may speak for Label Studio.

use super::model::{ask, model};
use super::{ACTOR, READER, Served, answered};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

const PATHS: [(&str, &str); 5] = [
    ("GET", "/label-studio/health"),
    ("GET", "/label-studio/versions"),
    ("POST", "/label-studio/setup"),
    ("POST", "/label-studio/predict"),
    ("POST", "/label-studio/webhook"),
];

/// The request of that path that Label Studio itself has sent.
fn request(path: &str) -> Value {
    let text = include_str!("../../fixtures/label-studio/requests.jsonl");
    let mut all = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    all.find(|request| request["path"] == path).unwrap()["body"].clone()
}

async fn status(served: &Served, (method, path): (&str, &str), headers: &[(&str, &str)]) -> u16 {
    let request = match method {
        "GET" => served.client.get(served.url(path)),
        _ => served.client.post(served.url(path)).body("{}"),
    };
    answered(super::with(request, headers)).await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn its_tasks_are_predicted_in_one_request() {
    let served = model(false).await;
    let health = served.get("/label-studio/health", &[]).await;
    assert_eq!(health.status, 200);
    let health: Value = serde_json::from_str(&health.body).unwrap();
    assert_eq!(health["status"], "UP");
    let (status, setup) = ask(&served, "/label-studio/setup", request("/setup")).await;
    assert_eq!((status, &setup["controls"]), (200, &json!(2)), "{setup}");
    let versions = served.get("/label-studio/versions", &[]).await;
    let versions: Value = serde_json::from_str(&versions.body).unwrap();
    assert_eq!(versions["versions"][0], setup["model_version"]);

    let file = format!("file://{}", served.folder.path().join("a.png").display());
    let mut asked = request("/predict");
    let config = asked["label_config"]
        .as_str()
        .unwrap()
        .replace("owl", "red");
    asked["label_config"] = config.into();
    asked["tasks"][0]["data"]["image"] = file.clone().into();
    let uploaded = json!({"id": 9, "data": {"image": "/data/upload/1/3f2a9c1b-a.png"}});
    let bare = json!({"id": 10, "data": {"text": "hunter2"}});
    asked["tasks"]
        .as_array_mut()
        .unwrap()
        .extend([uploaded, bare]);
    let (status, answer) = ask(&served, "/label-studio/predict", asked.clone()).await;
    assert_eq!(status, 200, "{answer}");
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.len(), 4, "one for each task, in their order");
    let result = &results[0]["result"][0];
    assert_eq!(result["from_name"], "present");
    assert_eq!(result["value"]["choices"], json!(["red"]));
    assert_eq!(results[0]["model_version"], setup["model_version"]);
    assert!(results[0]["score"].as_f64().unwrap() > 0.0);
    assert!(
        results[1..].iter().all(|result| *result == json!([])),
        "{answer}"
    );
    let errors: Vec<(&Value, &str)> = answer["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| (&error["task"], error["kind"].as_str().unwrap()))
        .collect();
    let (second, ninth, tenth) = (json!(4), json!(9), json!(10));
    let wanted = [
        (&second, "forbidden_uri"),
        (&ninth, "bad_task"),
        (&tenth, "bad_task"),
    ];
    assert_eq!(errors, wanted);
    assert!(!answer.to_string().contains("hunter2"), "{answer}");

    // Rectangles where the project draws some. All of this picture is red: no region of it is more
    // so than the rest, so there is none to draw, and the tag's score is told all the same.
    asked["label_config"] = r#"<View><Image name="i" value="$image"/><RectangleLabels name="b"
        toName="i"><Label value="red"/></RectangleLabels></View>"#
        .into();
    let (_, answer) = ask(&served, "/label-studio/predict", asked).await;
    assert_eq!(answer["results"][0]["result"], json!([]), "{answer}");
    assert!(answer["results"][0]["score"].as_f64().unwrap() > 0.5);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_no_token_is_not_label_studio() {
    let served = model(true).await;
    let basic = |token: &str| format!("Basic {}", STANDARD.encode(format!("anybody:{token}")));
    let json = ("content-type", "application/json");
    for path in PATHS {
        for wrong in [
            None,
            Some("Bearer made-up-made-up-made-up".to_owned()),
            Some(basic("made-up-made-up-made-up")),
            Some(format!("Basic {}", STANDARD.encode(READER))),
            Some(format!("Basic {READER}")),
            Some(format!("Token {ACTOR}")),
            Some(String::new()),
        ] {
            let mut headers = vec![json];
            headers.extend(wrong.as_deref().map(|wrong| ("authorization", wrong)));
            assert_eq!(
                status(&served, path, &headers).await,
                401,
                "{path:?} {wrong:?}"
            );
        }
    }
    let (reader, actor) = (basic(READER), basic(ACTOR));
    for path in &PATHS[..2] {
        let as_reader = [("authorization", reader.as_str())];
        assert_eq!(status(&served, *path, &as_reader).await, 200, "{path:?}");
    }
    let as_reader = [json, ("authorization", reader.as_str())];
    assert_eq!(
        status(&served, PATHS[3], &as_reader).await,
        400,
        "it may ask"
    );
    assert_eq!(
        status(&served, PATHS[4], &as_reader).await,
        403,
        "it may not label"
    );
    // No state is configured: nobody's labels are taken.
    let as_actor = [json, ("authorization", actor.as_str())];
    assert_eq!(status(&served, PATHS[4], &as_actor).await, 404);
    // A browser keeps passwords and sends them unasked: elsewhere they count for nothing.
    for path in ["/", "/models", "/v2", "/label-studio"] {
        let answer = served.get(path, &[("authorization", &actor)]).await;
        assert_eq!(answer.status, 401, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_of_label_studio_is_refused() {
    let served = Served::start(|config, folder| {
        config.label_studio.state = folder.join("studio").to_str().unwrap().into();
        config.topics.labels = "labels".into();
        // Nobody listens: nothing of this test gets as far.
        config.kafka.brokers = "127.0.0.1:1".into();
    })
    .await;
    let send = async |path: &str, headers: &[(&str, &str)], body: Vec<u8>| {
        let request = served.client.post(served.url(path)).body(body);
        answered(super::with(request, headers)).await
    };
    let path = "/label-studio/webhook";
    let json = ("content-type", "application/json");
    for kind in [
        "text/plain",
        "",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
    ] {
        let answer = send(path, &[("content-type", kind)], b"{}".to_vec()).await;
        assert_eq!(answer.status, 415, "{kind}");
    }
    let foreign = [json, ("origin", "https://evil.example")];
    assert_eq!(send(path, &foreign, b"{}".to_vec()).await.status, 403);
    let foreign = [json, ("sec-fetch-site", "cross-site")];
    assert_eq!(send(path, &foreign, b"{}".to_vec()).await.status, 403);
    let large = vec![b' '; (16 << 20) + 1];
    assert_eq!(send(path, &[json], large).await.status, 413);
    let deep = format!("{{\"action\":{}", "[".repeat(200_000)).into_bytes();
    for (body, status) in [
        (&b""[..], 400),
        (b"{\"action\": \"hunter2", 400),
        (b"\xff\xfe", 400),
        (&deep, 400),
        (b"[]", 422),
        (b"{}", 422),
        (b"{\"action\": 7}", 422),
        (
            b"{\"action\": \"ANNOTATION_CREATED\", \"project\": \"hunter2\"}",
            422,
        ),
        (
            b"{\"action\": \"ANNOTATIONS_DELETED\", \"project\": {}, \"annotations\": [1]}",
            422,
        ),
    ] {
        let answer = send(path, &[json], body.to_vec()).await;
        assert_eq!(answer.status, status, "{}", answer.body);
        assert!(!answer.body.contains("hunter2"), "{}", answer.body);
    }
    assert!(
        !served.folder.path().join("studio").exists(),
        "nothing is remembered"
    );
    // There is no model here.
    for (method, path) in &PATHS[..4] {
        assert_eq!(
            status(&served, (method, path), &[json]).await,
            404,
            "{path}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_no_model_can_answer_is_refused() {
    let served = model(false).await;
    let path = "/label-studio/predict";
    let config = "<View><Image name='i' value='$image'/></View>";
    let many: Vec<Value> = (0..1_001).map(|id| json!({"id": id, "data": {}})).collect();
    for (body, status) in [
        (json!({}), 400),
        (json!([]), 400),
        (json!({"tasks": []}), 400),
        (json!({"tasks": "hunter2", "label_config": config}), 400),
        (json!({"tasks": ["hunter2"], "label_config": config}), 400),
        (json!({"tasks": many, "label_config": config}), 400),
        (json!({"tasks": [{"data": {}}]}), 400),
        (
            json!({"tasks": [{"data": {}}], "label_config": "<View>"}),
            422,
        ),
        (
            json!({"tasks": [{"data": {}}], "label_config": "<!DOCTYPE a [<!ENTITY b 'c'>]>"}),
            422,
        ),
        (
            json!({"tasks": [{"data": {}}], "label_config": "<View>&hunter;</View>"}),
            422,
        ),
    ] {
        let (found, answer) = ask(&served, path, body).await;
        assert_eq!(found, status, "{answer}");
        assert!(!answer.to_string().contains("hunter2"), "{answer}");
    }
    let large = json!({"tasks": [], "label_config": "x".repeat(4 << 20)});
    assert_eq!(ask(&served, path, large).await.0, 413);
    let nothing = json!({"tasks": [{"id": 1}, {"id": 2, "data": 7}], "label_config": config});
    let (status, answer) = ask(&served, path, nothing).await;
    assert_eq!(
        (status, &answer["results"]),
        (200, &json!([[], []])),
        "{answer}"
    );
}
