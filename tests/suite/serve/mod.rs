//! The pages, asked over HTTP as browsers, proxies and attackers ask.

mod access;
mod forms;
mod label_studio;
mod model;
mod models;

use std::net::SocketAddr;
use std::path::Path;
use tagstream::serve::Pages;
use tagstream::serve::config::ServeConfig;
use tagstream_core::config::{Configuration, ObjectStoreConfig};
use tagstream_model::registry::{Action, Decision, Registration, Registry};
use tempfile::TempDir;

const READER: &str = "reader-reader-reader-reader";
const ACTOR: &str = "actor-actor-actor-actor-actor";

/// Pages over a registry with two versions, the first of which serves.
struct Served {
    pages: Pages,
    registry: Registry,
    client: reqwest::Client,
    folder: TempDir,
}

/// An answer, read to its end.
struct Answered {
    status: u16,
    headers: reqwest::header::HeaderMap,
    body: String,
}

impl Served {
    async fn start(change: impl FnOnce(&mut ServeConfig, &Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = folder.path().join("registry").to_str().unwrap().to_owned();
        let options = ObjectStoreConfig::default();
        let registry = Registry::open_or_create(&url, &options).await.unwrap();
        let bundle = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-model");
        for why in ["the first", "<script>alert(1)</script>\" onload=\"x"] {
            let registration = Registration {
                bundle: &bundle,
                attachments: &[],
                who: "tester",
                why,
                run: None,
            };
            registry.register(&registration).await.unwrap();
        }
        let decision = Decision::by_hand(Action::Promoted, 1, "tester", "begin");
        registry.decide(decision).await.unwrap();
        let mut config = ServeConfig::default();
        config.serve.bind = "127.0.0.1:0".into();
        config.registry.url = url;
        change(&mut config, folder.path());
        config.validate().unwrap();
        let client = tagstream::tls::http_client().redirect(reqwest::redirect::Policy::none());
        Served {
            pages: Pages::start(&config).await.unwrap(),
            registry,
            client: client.build().unwrap(),
            folder,
        }
    }

    /// With a file of tokens.
    async fn with_tokens() -> Self {
        Self::start(|config, folder| {
            let path = folder.join("tokens");
            std::fs::write(&path, format!("read ann {READER}\nact bob {ACTOR}\n")).unwrap();
            config.access.token_file = path.to_str().unwrap().into();
        })
        .await
    }

    fn address(&self) -> SocketAddr {
        self.pages.address()
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answered {
        answered(with(self.client.get(self.url(path)), headers)).await
    }

    async fn post(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        fields: &[(&str, &str)],
    ) -> Answered {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(fields);
        let request = self.client.post(self.url(path)).body(form.finish());
        let kind = ("content-type", "application/x-www-form-urlencoded");
        answered(with(request, &[&[kind], headers].concat())).await
    }

    /// The token that a page's forms carry for whoever sends `headers`.
    async fn form_token(&self, path: &str, headers: &[(&str, &str)]) -> String {
        let body = self.get(path, headers).await.body;
        let (_, rest) = body
            .split_once("name=\"form_token\" value=\"")
            .expect(&body);
        rest.split('"').next().unwrap().to_owned()
    }

    /// The cookie of a session begun with `token`.
    async fn log_in(&self, token: &str) -> String {
        let form_token = self.form_token("/login", &[]).await;
        let fields = [("form_token", form_token.as_str()), ("token", token)];
        let answer = self.post("/login", &[], &fields).await;
        assert_eq!(answer.status, 303, "{}", answer.body);
        let cookie = answer.headers["set-cookie"].to_str().unwrap().to_owned();
        assert!(
            cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"),
            "{cookie}"
        );
        cookie.split(';').next().unwrap().to_owned()
    }

    /// The version that serves.
    async fn serving(&self) -> u64 {
        self.registry
            .pointer()
            .await
            .unwrap()
            .unwrap()
            .version
            .unwrap()
    }

    /// Tries to promote version 2.
    async fn promote(&self, headers: &[(&str, &str)], form_token: &str) -> Answered {
        let fields = [
            ("form_token", form_token),
            ("action", "promote"),
            ("version", "2"),
            ("generation", "1"),
            ("why", "a test"),
        ];
        self.post("/models/decide", headers, &fields).await
    }
}

fn with(request: reqwest::RequestBuilder, headers: &[(&str, &str)]) -> reqwest::RequestBuilder {
    headers.iter().fold(request, |request, (name, value)| {
        request.header(*name, *value)
    })
}

async fn answered(request: reqwest::RequestBuilder) -> Answered {
    let answer = request.send().await.unwrap();
    Answered {
        status: answer.status().as_u16(),
        headers: answer.headers().clone(),
        body: answer.text().await.unwrap(),
    }
}
