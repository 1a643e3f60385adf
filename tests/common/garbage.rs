//! Everything that can be wrong with a message, and the kind of dead letter that it must become.
//!
//! [`Yard::start`] puts broken files into a folder and a misbehaving web server onto loopback;
//! [`Yard::items`] lists the messages. To be used with the yard's own [`FetchConfig`] and
//! [`DecodeConfig`].

mod places;

use super::pictures::encoded;
use super::web_server::WebServer;
use image::ImageFormat;
use places::{MAX_MIB, answers, fill};
use tagstream_core::config::{DecodeConfig, FetchConfig};
use tagstream_core::events::DeadLetterKind;
use tagstream_core::events::DeadLetterKind::*;

/// One message that must become a dead letter.
pub(crate) struct Item {
    /// What is wrong with it.
    pub name: String,
    /// The Kafka message's value.
    pub message: Vec<u8>,
    /// The dead letter's kind.
    pub kind: DeadLetterKind,
}

/// The places that the items point to.
pub(crate) struct Yard {
    folder: tempfile::TempDir,
    server: WebServer,
    closed_port: u16,
}

impl Yard {
    /// Fills the folder and starts the server, on the runtime that this is called on.
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fill(folder.path());
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let closed_port = closed.local_addr().unwrap().port();
        drop(closed);
        Yard {
            server: WebServer::start("127.0.0.1", 0, answers()).await,
            folder,
            closed_port,
        }
    }

    /// Rules under which the items are what they are: loopback's first address is allowed, nothing
    /// else that is private.
    pub(crate) fn fetch_config(&self) -> FetchConfig {
        FetchConfig {
            timeout_ms: 2_000,
            connect_timeout_ms: 1_000,
            max_mib: MAX_MIB,
            retries: 2,
            retry_delay_ms: 5,
            max_redirects: 3,
            // What waits for a place that is down is looked at elsewhere.
            outage_wait_ms: 0,
            allow_schemes: ["file", "s3", "http", "https", "data"]
                .map(String::from)
                .to_vec(),
            allow_hosts: [
                "127.0.0.1",
                "127.0.0.2",
                "localhost",
                "169.254.169.254",
                "10.0.0.1",
                "[::1]",
            ]
            .map(String::from)
            .to_vec(),
            allow_path_prefixes: vec![self.inside().to_str().unwrap().into()],
            allow_networks: vec!["127.0.0.1/32".into()],
            ..FetchConfig::default()
        }
    }

    /// As the items expect it.
    pub(crate) fn decode_config(&self) -> DecodeConfig {
        DecodeConfig {
            max_megapixels: 4,
            helper: env!("CARGO_BIN_EXE_tagstream").into(),
            ..DecodeConfig::default()
        }
    }

    fn inside(&self) -> std::path::PathBuf {
        self.folder.path().join("inside")
    }

    fn file(&self, name: &str) -> String {
        format!("file://{}/{name}", self.inside().display())
    }

    /// Messages that must become rows: the same roads, without the flaw.
    pub(crate) fn good(&self) -> Vec<(String, Vec<u8>)> {
        let data = |bytes: &[u8]| {
            use base64::Engine;
            let text = base64::engine::general_purpose::STANDARD.encode(bytes);
            format!("data:image/png;base64,{text}")
        };
        [
            ("good file", self.file("good.jpg")),
            ("good link inside", self.file("link-inside.jpg")),
            ("good web", self.server.url("/good.png")),
            (
                "good after two redirects",
                self.server.url("/redirect-to-good"),
            ),
            ("good after two errors", self.server.url("/flaky.png")),
            ("good after 429", self.server.url("/busy.png")),
            ("good without length", self.server.url("/chunked.png")),
            ("good data", data(&encoded(16, ImageFormat::Png))),
        ]
        .into_iter()
        .map(|(name, uri)| (name.to_string(), message(name, &uri)))
        .collect()
    }

    /// Every flaw.
    pub(crate) fn items(&self) -> Vec<Item> {
        let mut items = Vec::new();
        let mut raw = |name: &str, bytes: &[u8]| {
            items.push(Item {
                name: name.into(),
                message: bytes.into(),
                kind: BadMessage,
            });
        };
        raw("empty message", b"");
        raw("not UTF-8", b"{\"image_id\":\"\xff\xfe\",\"uri\":\"x\"}");
        raw("not JSON", b"image-1,https://example.org/a.jpg");
        raw("half JSON", b"{\"image_id\":\"a\",\"uri\":\"file:///");
        raw("JSON array", b"[\"a\",\"b\"]");
        raw("JSON null", b"null");
        raw("no image_id", b"{\"uri\":\"data:,x\"}");
        raw("no uri", b"{\"image_id\":\"a\"}");
        raw("empty image_id", b"{\"image_id\":\"\",\"uri\":\"data:,x\"}");
        raw("empty uri", b"{\"image_id\":\"a\",\"uri\":\"\"}");
        raw("uri is a number", b"{\"image_id\":\"a\",\"uri\":5}");
        raw(
            "time is no time",
            b"{\"image_id\":\"a\",\"uri\":\"data:,x\",\"event_time\":\"yesterday\"}",
        );
        raw("nested too deep", &[b'['; 4096]);

        let port = self.server.address.port();
        let web = |path: &str| self.server.url(path);
        let file = |name: &str| self.file(name);
        let outside = self.folder.path().join("outside.jpg");
        let uris: Vec<(&str, String, DeadLetterKind)> = vec![
            ("no scheme", "images/a.jpg".into(), BadUri),
            ("unknown scheme", "gopher://example.org/1".into(), BadUri),
            ("script", "javascript:alert(1)".into(), BadUri),
            ("no host", "http://".into(), BadUri),
            ("bad port", "http://127.0.0.1:99999/".into(), BadUri),
            ("no key", "s3://localhost".into(), BadUri),
            ("remote file", "file://server/share/a.jpg".into(), BadUri),
            ("zero byte in a path", file("a%00.jpg"), BadUri),
            ("data without comma", "data:image/png;base64".into(), BadUri),
            ("broken base64", "data:image/png;base64,@@@@".into(), BadUri),
            (
                "scheme not allowed",
                "gs://localhost/a.jpg".into(),
                ForbiddenUri,
            ),
            (
                "host not allowed",
                "https://example.org/a.jpg".into(),
                ForbiddenUri,
            ),
            (
                "bucket not allowed",
                "s3://secrets/a.jpg".into(),
                ForbiddenUri,
            ),
            (
                "user in URI",
                format!("http://me@127.0.0.1:{port}/good.png"),
                ForbiddenUri,
            ),
            (
                "host hidden behind @",
                format!("http://localhost:pw@10.0.0.1:{port}/"),
                ForbiddenUri,
            ),
            (
                "metadata service",
                "http://169.254.169.254/latest/meta-data/".into(),
                ForbiddenUri,
            ),
            (
                "metadata, decimal",
                "http://2852039166/latest/meta-data/".into(),
                ForbiddenUri,
            ),
            (
                "metadata, octal",
                "http://0251.0376.0251.0376/".into(),
                ForbiddenUri,
            ),
            (
                "private, hexadecimal",
                "http://0x0a.0x00.0x00.0x01/".into(),
                ForbiddenUri,
            ),
            (
                "other loopback",
                format!("http://127.0.0.2:{port}/good.png"),
                ForbiddenUri,
            ),
            (
                "loopback, IPv6",
                format!("http://[::1]:{port}/good.png"),
                ForbiddenUri,
            ),
            (
                "outside",
                format!("file://{}", outside.display()),
                ForbiddenUri,
            ),
            ("password file", "file:///etc/passwd".into(), ForbiddenUri),
            ("dots", file("../outside.jpg"), ForbiddenUri),
            ("hidden dots", file("%2e%2e/outside.jpg"), ForbiddenUri),
            (
                "hidden slashes",
                file("x%2f..%2f..%2foutside.jpg"),
                ForbiddenUri,
            ),
            ("link out", file("link-out.jpg"), ForbiddenUri),
            (
                "folder link out",
                file("folder-out/outside.jpg"),
                ForbiddenUri,
            ),
            ("folder", file("folder"), ForbiddenUri),
            ("pipe", file("pipe"), ForbiddenUri),
            ("device", file("zero"), ForbiddenUri),
            (
                "redirect to the metadata service",
                web("/redirect-to-metadata"),
                ForbiddenUri,
            ),
            (
                "redirect to other loopback",
                web("/redirect-to-loopback"),
                ForbiddenUri,
            ),
            (
                "redirect to a forbidden host",
                web("/redirect-to-host"),
                ForbiddenUri,
            ),
            ("redirect to a file", web("/redirect-to-file"), ForbiddenUri),
            ("redirect to data", web("/redirect-to-data"), ForbiddenUri),
            (
                "redirect with a password",
                web("/redirect-with-password"),
                ForbiddenUri,
            ),
            ("no such file", file("no-such.jpg"), NotFound),
            ("dangling link", file("link-nowhere.jpg"), NotFound),
            ("file used as a folder", file("good.jpg/a.jpg"), NotFound),
            ("404", web("/no-such.png"), NotFound),
            ("410", web("/gone.png"), NotFound),
            ("401", web("/unauthorised.png"), AccessDenied),
            ("403", web("/forbidden.png"), AccessDenied),
            ("always 500", web("/broken.png"), FetchFailed),
            ("418", web("/teapot.png"), FetchFailed),
            ("not HTTP", web("/not-http"), FetchFailed),
            ("body ends early", web("/short-body.png"), FetchFailed),
            ("connection closed", web("/closed.png"), FetchFailed),
            (
                "nobody listens",
                format!("http://127.0.0.1:{}/a.png", self.closed_port),
                FetchFailed,
            ),
            ("redirects in a circle", web("/circle"), FetchFailed),
            (
                "redirect to nothing",
                web("/redirect-to-nothing"),
                FetchFailed,
            ),
            ("link to itself", file("link-circle.jpg"), FetchFailed),
            ("server that never answers", web("/silence"), FetchTimeout),
            ("head that never ends", web("/slow-head"), FetchTimeout),
            ("body that never ends", web("/slow-body"), FetchTimeout),
            ("announced too large", web("/announced-huge.png"), TooLarge),
            ("endless", web("/endless.png"), TooLarge),
            ("file too large", file("huge.bin"), TooLarge),
            (
                "data too large",
                format!("data:,{}", "%20".repeat((MAX_MIB << 20) as usize + 1)),
                TooLarge,
            ),
            ("JPEG bomb", file("bomb.jpg"), TooLarge),
            ("PNG bomb", file("bomb.png"), TooLarge),
            ("GIF bomb", file("bomb.gif"), TooLarge),
            ("BMP bomb", file("bomb.bmp"), TooLarge),
            (
                "HTML instead of an image",
                web("/page.jpg"),
                UnsupportedImage,
            ),
            (
                "JSON instead of an image",
                web("/error.jpg"),
                UnsupportedImage,
            ),
            (
                "compressed by the server",
                web("/gzip.png"),
                UnsupportedImage,
            ),
            ("text named .jpg", file("text.jpg"), UnsupportedImage),
            ("SVG", file("drawing.svg"), UnsupportedImage),
            ("PDF", file("paper.pdf"), UnsupportedImage),
            ("AVIF", file("picture.avif"), UnsupportedImage),
            ("zeros", file("zeros.jpg"), UnsupportedImage),
            ("empty file", file("empty.jpg"), BadImage),
            ("empty body", web("/empty.png"), BadImage),
            ("no content", web("/no-content.png"), BadImage),
            ("half a JPEG", file("half.jpg"), BadImage),
            (
                "half a progressive JPEG",
                file("half-progressive.jpg"),
                BadImage,
            ),
            (
                "JPEG without its last bytes",
                file("no-last-bytes.jpg"),
                BadImage,
            ),
            (
                "JPEG with missing rows and an end",
                file("hole.jpg"),
                BadImage,
            ),
            ("JPEG of 0 x 0", file("nothing.jpg"), BadImage),
            ("JPEG of too many scans", file("scans.jpg"), BadImage),
            ("JPEG header alone", file("header.jpg"), BadImage),
            ("half a PNG", file("half.png"), BadImage),
            ("PNG with a wrong checksum", file("checksum.png"), BadImage),
            ("PNG of 0 x 0", file("nothing.png"), BadImage),
            ("half a GIF", file("half.gif"), BadImage),
            ("half a WebP", file("half.webp"), BadImage),
            ("half a BMP", file("half.bmp"), BadImage),
            ("half a TIFF", file("half.tiff"), BadImage),
            (
                "TIFF whose directory points outside",
                file("wild.tiff"),
                BadImage,
            ),
        ];
        items.extend(uris.into_iter().map(|(name, uri, kind)| Item {
            name: name.into(),
            message: message(name, &uri),
            kind,
        }));
        items
    }
}

fn message(image_id: &str, uri: &str) -> Vec<u8> {
    serde_json::to_vec(&serde_json::json!({ "image_id": image_id, "uri": uri })).unwrap()
}
