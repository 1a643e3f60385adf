//! Whatever a command refuses, it prints no value of a property of Kafka or of an object store, and
//! no password of an address.

use crate::child::Launch;
use crate::harness::{World, bootstrap};
use std::path::Path;
use std::process::{Command, Output};

/// Stands in every place where a secret can stand.
const MARK: &str = "hunter2MARK";

/// Properties that librdkafka refuses, alone or as a client, and what is to be said of them.
const REFUSED: [(&[(&str, &str)], &str); 6] = [
    (&[("sasl.pasword", MARK)], "sasl.password"),
    (&[("sasl_password", MARK)], "did you mean `sasl.password`"),
    (
        &[("sasl.oauthbearer.client.secret", MARK)],
        "sasl.oauthbearer.client.secret",
    ),
    (&[("security.protocol", MARK)], "sasl_plaintext"),
    (
        &[("ssl.truststore.location", MARK)],
        "ssl.truststore.location",
    ),
    (
        &[
            ("security.protocol", "ssl"),
            ("ssl.ca.location", "/hunter2MARK"),
        ],
        "ssl.ca.location",
    ),
];

/// A command of this program, without the environment's own configuration.
fn tagstream(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tagstream"));
    command.args(arguments).env_remove("TAGSTREAM_CONFIG");
    command
}

/// Runs it; what it says holds no mark. Returns its exit code and what it said.
fn said(command: &mut Command) -> (Option<i32>, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let text = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let text = text.join("\n");
    let leak = text.lines().find(|line| line.contains("MARK"));
    assert_eq!(leak, None, "{command:?}");
    (status.code(), text)
}

fn tiny_model() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("tests/fixtures/tiny-model").display().to_string()
}

/// A configuration file with these properties.
fn file(folder: &Path, properties: &[(&str, &str)], log_format: &str) -> String {
    let path = folder.join("stage.toml");
    let properties: String = properties
        .iter()
        .map(|(key, value)| format!("\"{key}\" = \"{value}\"\n"))
        .collect();
    let text = format!(
        "[kafka]\nbrokers = \"{}\"\n[kafka.properties]\n{properties}[output]\nurl = {:?}\n\
         [log]\nformat = \"{log_format}\"\nfilter = \"debug\"\n[http]\nbind = \"\"\n",
        bootstrap(),
        folder.join("tables"),
    );
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn a_refused_property_is_named_and_its_value_is_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("list");
    std::fs::write(&list, "https://example.org/a.png\n").unwrap();
    let list = list.display().to_string();
    let (brokers, model) = (bootstrap(), tiny_model());
    for (properties, named) in REFUSED {
        for format in ["json", "text"] {
            let config = file(folder.path(), properties, format);
            let run = ["run", "--config", &config, "--model", &model];
            let (code, text) = said(&mut tagstream(&run));
            assert_eq!(code, Some(2), "{text}");
            assert!(
                text.contains(named) && text.contains("kafka.properties"),
                "{text}"
            );
            let doctor = ["doctor", "--config", &config, "--demo-clip", "/nowhere"];
            for json in [None, Some("--json")] {
                let (code, text) = said(tagstream(&doctor).args(json));
                assert_eq!(code, Some(1), "{text}");
                assert!(text.contains(named), "{text}");
            }
            let (code, text) = said(&mut tagstream(&["config", "print", "--config", &config]));
            assert_eq!(code, Some(0), "{text}");
        }
        let mut produce = tagstream(&["produce", "--brokers", &brokers, "--topic", "nowhere"]);
        for (key, value) in properties {
            produce.args(["--property", &format!("{key}={value}")]);
        }
        let (code, text) = said(produce.arg(&list));
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains(named), "{text}");
    }
    // A value without its name.
    let produce = ["produce", "--brokers", &brokers, "--topic", "nowhere"];
    let (code, text) = said(tagstream(&produce).args(["--property", MARK]).arg(&list));
    assert_eq!(code, Some(2), "{text}");
    // In the list of brokers.
    let place = format!("kafka://u:{MARK}@h.invalid:9092");
    let (code, text) =
        said(tagstream(&["produce", "--brokers", &place, "--topic", "nowhere"]).arg(&list));
    assert_eq!(code, Some(2), "{text}");
    let run = ["run", "--model", &model];
    let (code, text) = said(tagstream(&run).env("TAGSTREAM_KAFKA__BROKERS", &place));
    assert_eq!(code, Some(2), "{text}");
    let labels = folder.path().join("labels.csv");
    std::fs::write(&labels, "image_id,label,state\na,cat,present\n").unwrap();
    let import = [
        "labels",
        "import",
        "--topic",
        "nowhere",
        "--brokers",
        &place,
    ];
    said(tagstream(&import).arg(&labels));
    // From the environment.
    let run = ["run", "--model", &model];
    let variable = "TAGSTREAM_KAFKA__PROPERTIES__SASL_PASWORD";
    let (code, text) = said(tagstream(&run).env(variable, MARK));
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("sasl.password"), "{text}");
}

#[test]
fn what_librdkafka_logs_of_right_properties_has_no_values() {
    let mut world = World::new("properties", 1);
    world.config.output.url = world.folder.path().join("tables").to_str().unwrap().into();
    world.config.object_store.s3.clear();
    world.config.log.filter = "debug,librdkafka=trace".into();
    let right = [
        ("debug", "all"),
        ("sasl.username", MARK),
        ("sasl.password", MARK),
        // Not marked: what is no mechanism is refused before librdkafka hears of it.
        ("sasl.mechanism", "PLAIN"),
        ("client.rack", MARK),
        ("ssl.key.password", MARK),
        ("ssl.ca.location", MARK),
        ("client.software.name", MARK),
    ];
    let right = right.map(|(key, value)| (key.to_owned(), value.to_owned().into()));
    world.config.kafka.properties = right.into();
    world.produce(0, 10);
    let mut stage = world.launch("properties", &Launch::default());
    assert!(stage.wait().success(), "{}", stage.log());
    let log = stage.log();
    assert!(log.contains("librdkafka"), "nothing was logged");
    assert_eq!(log.lines().find(|line| line.contains("MARK")), None);
}

#[test]
fn the_credentials_in_a_place_are_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let config = file(folder.path(), &[], "json");
    let place = format!("s3://AKIA:{MARK}@bucket/prefix");
    let signed = format!("https://u:{MARK}@h.invalid/a.png?sig={MARK}");
    let model = tiny_model();
    for (code, arguments) in [
        (2, &["labels", "stats", "--store", &place][..]),
        (2, &["registry", "--registry", &place, "list"]),
        (2, &["run", "--config", &config, "--model", &place]),
        (
            1,
            &[
                "doctor",
                "--config",
                &config,
                "--demo-clip",
                "/nowhere",
                "--model",
                &place,
            ],
        ),
        (1, &["tag", "--model", &model, &signed]),
        (
            1,
            &["tag", "--model", &model, &format!("view-source:{signed}")],
        ),
        (
            1,
            &["tag", "--model", &model, &format!(" data:image/png,{MARK}")],
        ),
        (1, &["tag", "--model", &place, &signed]),
        (
            1,
            &["tag", "--model", &model, "data:text/plain,MARKMARKMARK"],
        ),
        (
            2,
            &[
                "labels",
                "stats",
                "--store",
                &format!("az://{MARK}@account.h/p?sig={MARK}"),
            ],
        ),
    ] {
        let (found, text) = said(&mut tagstream(arguments));
        assert_eq!(found, Some(code), "{text}");
    }
    let run = ["run", "--config", &config, "--model", &model];
    let (code, text) = said(tagstream(&run).env("TAGSTREAM_OUTPUT__URL", &place));
    assert_eq!(code, Some(2), "{text}");
    for (option, value) in [
        ("ALLOW_HTTP", MARK),
        ("ENDPOINT", MARK),
        ("CHECKSUM_ALGORITHM", MARK),
    ] {
        let mut run = tagstream(&run);
        run.env("TAGSTREAM_OUTPUT__URL", "s3://bucket/prefix");
        run.env(format!("TAGSTREAM_OBJECT_STORE__S3__{option}"), value);
        said(run.env("AWS_REGION", "us-east-1"));
    }
}

/// Addresses as messages have them: in dead letters and the log there is nothing of them that may
/// be a secret.
#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_say_nothing_that_an_address_hides() {
    let mut world = World::new("addresses", 1);
    world.config.output.url = world.folder.path().join("tables").to_str().unwrap().into();
    let schemes = ["file", "s3", "gs", "az", "http", "https", "data"];
    world.config.fetch.allow_schemes = schemes.map(String::from).into();
    world.config.fetch.allow_buckets = vec!["*".into()];
    world.config.fetch.retries = 0;
    world.config.fetch.outage_wait_ms = 0;
    world.config.fetch.timeout_ms = 500;
    let forms = [
        " https://u:MARK@h.invalid/x?sig=MARK",
        "\nhttps://u:MARK@h.invalid/x?sig=MARK#MARK",
        "\u{feff}https://u:MARK@h.invalid/x?sig=MARK",
        "htps://u:MARK@h.invalid/x?sig=MARK",
        "https:u:MARK@h.invalid?sig=MARK",
        "//u:MARK@h.invalid/x?sig=MARK",
        "h.invalid/x?sig=MARK",
        "s3://AKIA:MARK@bucket/x?X-Amz-Signature=MARK",
        "https://h.invalid:bad/x?sig=MARK",
        "https://h.invalid/x;token=MARK?sig=MARK",
        "https://h.invalid/x%3Fsig%3DMARK",
        "https://thumb.invalid/https://u:MARK@h.invalid/x",
        " data:image/png;base64,MARKMARKMARK",
        "data:image/png;base64,MARK MARK",
        "view-source:https://u:MARK@h/x?s=MARK",
        "HTTPS://u%3AMARK%40h.invalid/x",
        "https://[::1/x?sig=MARK",
        "\"https://u:MARK@h.invalid/x?sig=MARK\"",
        "https:\\\\u:MARK@h.invalid\\x?sig=MARK",
        "s3://AKIA/MARK:MARK@bucket//x",
        "MARK",
        "data:,MARKMARK",
        "DATA:image/png;base64,TUFSS01BUks=",
        "data:text/plain;charset=MARK,hello",
        "blob:https://u:MARK@h.invalid/x",
        "jar:file:///MARK!/x?sig=MARK",
        "git+ssh://u:MARK@h.invalid/x",
        "kafka://u:MARK@h.invalid:9092/x",
        "s3://bucket?X-Amz-Security-Token=MARK",
        "abfss://container@account.invalid/x?sig=MARK",
        "az://MARK@account/x?sv=1&sig=MARK",
        "gs://bucket/x#MARK",
        "file:///nowhere/x?token=MARK",
        "file://u:MARK@localhost/x",
        "<https://u:MARK@h.invalid/x>",
        "https://h.invalid\u{2044}x?sig=MARK",
        "https://h.invalid/x\u{0000}?sig=MARK",
        "\u{202e}https://u:MARK@h.invalid/x",
        "mailto:MARK@h.invalid",
        "javascript:MARK",
        "urn:MARK",
    ];
    let message = |value: serde_json::Value| (0, Some(value.to_string()));
    let of_address = |uri: &str| message(serde_json::json!({"image_id": "a", "uri": uri}));
    world.produce_raw(forms.map(of_address));
    let other = [
        serde_json::json!({"image_id": "a", "uri": "s3://b/k", "attributes": "https://u:MARK@h"}),
        serde_json::json!({"image_id": "a", "uri": "s3://b/k", "event_time": "https://u:MARK@h"}),
        serde_json::json!({"image_id": "a", "uri": {"MARK": 1}}),
        serde_json::json!("https://u:MARK@h"),
    ];
    let all = forms.len() + other.len();
    world.produce_raw(other.map(message));
    world.config.log.filter = "debug".into();
    let mut stage = world.launch("addresses", &Launch::default());
    assert!(stage.wait().success(), "{}", stage.log());
    let letters = world.read_topic(&world.config.output.dead_letter_topic);
    assert_eq!(letters.len(), all);
    for (_, value, headers) in letters {
        let said = &headers["error.message"];
        assert!(!said.contains("MARK"), "{value}: {said}");
    }
    assert_eq!(stage.log().lines().find(|line| line.contains("MARK")), None);
}
