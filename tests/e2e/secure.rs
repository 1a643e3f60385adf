//! Every command on the listeners of a real broker that want TLS and a login, told by one
//! configuration: client certificates, SCRAM, PLAIN, and tokens of a local server.

use crate::harness::{World, create_topic, is_real_broker, not_tested, unique};
use crate::servers::bootstrap;
use crate::topics::{repository, text};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tagstream_core::config::StageConfig;

/// `scripts/kafka.sh start --secure` makes these; `TAGSTREAM_TEST_KAFKA_TLS` is its folder `tls`.
fn keys() -> Option<PathBuf> {
    match std::env::var_os("TAGSTREAM_TEST_KAFKA_TLS") {
        Some(folder) if is_real_broker() => Some(PathBuf::from(folder)),
        _ => None,
    }
}

fn listener(above: u16) -> String {
    let plain = bootstrap();
    let (host, port) = plain.rsplit_once(':').unwrap();
    format!("{host}:{}", port.parse::<u16>().unwrap() + above)
}

/// The world on a listener: `properties` say how to log in.
fn on(config: &mut StageConfig, above: u16, properties: &[(&str, &str)]) {
    config.kafka.brokers = listener(above);
    config.kafka.properties = properties
        .iter()
        .map(|(key, value)| (key.to_string(), value.to_string().into()))
        .collect();
}

/// The configuration as a file with the properties in it.
fn file(world: &World) -> PathBuf {
    let path = world.folder.path().join("secure.toml");
    let mut text = toml::to_string(&world.config).unwrap();
    for (key, value) in &world.config.object_store.s3 {
        let hidden = format!("{key} = \"***\"");
        assert!(text.contains(&hidden), "{key} is not in\n{text}");
        text = text.replace(&hidden, &format!("{key} = {:?}", value.expose()));
    }
    for (key, value) in &world.config.kafka.properties {
        let hidden = format!("\"{key}\" = \"***\"");
        assert!(text.contains(&hidden), "{key} is not in\n{text}");
        text = text.replace(&hidden, &format!("\"{key}\" = {:?}", value.expose()));
    }
    std::fs::write(&path, text).unwrap();
    path
}

fn command(arguments: &[&str], config: &Path) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_tagstream"))
        .args(arguments)
        .arg("--config")
        .arg(config)
        .output()
        .unwrap();
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(!said.contains("tagstream-secret"), "{arguments:?}: {said}");
    output
}

/// Everything that speaks to a broker, on the world's listener.
fn every_command_works(world: &mut World, of: &str) {
    let labels = unique("secure-labels");
    create_topic(&labels, 1);
    world.config.labels.topic.clone_from(&labels);
    let config = file(world);
    let pictures = world.folder.path().join("pictures");
    std::fs::create_dir_all(&pictures).unwrap();
    std::fs::copy(world.picture(1), pictures.join("one.png")).unwrap();
    let csv = world.folder.path().join("labels.csv");
    std::fs::write(&csv, "image_id,label,state\none,cat,present\n").unwrap();
    let topic = world.config.source.images_topic.clone();
    let (pictures, csv) = (pictures.to_str().unwrap(), csv.to_str().unwrap());
    let runs = |arguments: &[&str]| {
        let output = command(arguments, &config);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{of}: {arguments:?}: {out}{err}");
        out + &err
    };
    runs(&["produce", "--topic", &topic, pictures]);
    assert!(runs(&["source", "check"]).contains("1 images"), "{of}");
    runs(&["labels", "import", csv, "--topic", &labels]);
    world.start(&format!("secure-{of}"), "").finish();
    assert_eq!(world.rows().len(), 1, "{of}");
    let url = world.config.output.url.clone();
    runs(&[
        "labels",
        "suggest",
        "--store",
        &url,
        "--topic",
        &labels,
        "--measure",
        "0",
    ]);
    runs(&["dead-letters", "list"]);
    runs(&["dead-letters", "replay"]);
    runs(&["table", "expire", "--older-than", "90d", "--dry-run"]);
    let doctor = text(&command(&["doctor"], &config).stdout);
    let line = doctor
        .lines()
        .find(|line| line.contains("  broker  "))
        .unwrap();
    assert!(line.starts_with("ok"), "{of}: {doctor}");
}

#[test]
fn every_command_takes_one_configuration_on_listeners_with_tls_and_logins() {
    let Some(keys) = keys() else {
        return not_tested("listeners with TLS: start scripts/kafka.sh with --secure");
    };
    let path = |name: &str| keys.join(name).to_str().unwrap().to_owned();
    let (ca, certificate, key) = (path("ca.crt"), path("client.crt"), path("client.key"));
    let mut world = World::new("mtls", 1);
    let properties = [
        ("security.protocol", "ssl"),
        ("ssl.ca.location", &ca),
        ("ssl.certificate.location", &certificate),
        ("ssl.key.location", &key),
    ];
    on(&mut world.config, 200, &properties);
    every_command_works(&mut world, "mtls");
    for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN"] {
        let mut world = World::new("sasl", 1);
        let properties = [
            ("security.protocol", "sasl_ssl"),
            ("ssl.ca.location", &ca),
            ("sasl.mechanism", mechanism),
            ("sasl.username", "tagstream"),
            ("sasl.password", "tagstream-secret"),
        ];
        on(&mut world.config, 201, &properties);
        every_command_works(&mut world, mechanism);
    }
}

/// A token server: tokens that nobody signed, which the test's broker takes.
fn serve_tokens(asked: Arc<AtomicUsize>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = Vec::new();
            let mut part = [0; 4096];
            while !request.ends_with(b"grant_type=client_credentials&scope=pictures") {
                match stream.read(&mut part) {
                    Ok(n @ 1..) => request.extend_from_slice(&part[..n]),
                    _ => break,
                }
            }
            let request = String::from_utf8_lossy(&request).to_lowercase();
            // tagstream:tagstream-secret
            let known = request.contains("basic dgfnc3ryzwftonrhz3n0cmvhbs1zzwnyzxq=");
            let now = chrono::Utc::now().timestamp();
            let part = |json: String| URL_SAFE_NO_PAD.encode(json);
            let head = part(r#"{"alg":"none"}"#.into());
            let claims = format!(r#"{{"sub":"tagstream","iat":{now},"exp":{}}}"#, now + 300);
            let token = format!("{head}.{}.", part(claims));
            let body = format!(r#"{{"access_token":"{token}","expires_in":300}}"#);
            let (status, body) = match known {
                true => ("200 OK", body),
                false => ("401 Unauthorized", String::new()),
            };
            asked.fetch_add(1, Ordering::SeqCst);
            let answer = format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
                 Connection: close\r\n\r\n{body}",
                body.len()
            );
            // Whoever asked may be gone.
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    format!("http://{address}/token")
}

#[test]
fn tokens_of_a_server_log_every_command_in_and_a_wrong_secret_is_said_to_be() {
    let Some(keys) = keys() else {
        return not_tested("OIDC: start scripts/kafka.sh with --secure");
    };
    let asked = Arc::new(AtomicUsize::new(0));
    let endpoint = serve_tokens(Arc::clone(&asked));
    let ca = keys.join("ca.crt").to_str().unwrap().to_owned();
    let with = |secret: &'static str| {
        [
            ("security.protocol", "sasl_ssl".to_owned()),
            ("ssl.ca.location", ca.clone()),
            ("sasl.mechanism", "OAUTHBEARER".to_owned()),
            ("sasl.oauthbearer.method", "oidc".to_owned()),
            ("sasl.oauthbearer.token.endpoint.url", endpoint.clone()),
            ("sasl.oauthbearer.client.id", "tagstream".to_owned()),
            ("sasl.oauthbearer.client.secret", secret.to_owned()),
            ("sasl.oauthbearer.scope", "pictures".to_owned()),
        ]
    };
    let borrowed = |all: &[(&'static str, String)]| -> Vec<(&'static str, String)> { all.to_vec() };
    let mut world = World::new("oidc", 1);
    let properties = borrowed(&with("tagstream-secret"));
    let properties: Vec<(&str, &str)> = properties.iter().map(|(k, v)| (*k, v.as_str())).collect();
    on(&mut world.config, 201, &properties);
    every_command_works(&mut world, "oidc");
    assert!(asked.load(Ordering::SeqCst) > 5);

    let wrong = borrowed(&with("not-the-secret"));
    let wrong: Vec<(&str, &str)> = wrong.iter().map(|(k, v)| (*k, v.as_str())).collect();
    on(&mut world.config, 201, &wrong);
    let doctor = command(&["doctor"], &file(&world));
    let said = text(&doctor.stdout) + &text(&doctor.stderr);
    assert!(
        said.contains("401") && !said.contains("not-the-secret"),
        "{said}"
    );
}

/// A real broker sees the token and refuses it, as only Amazon's can check it; without keys of AWS
/// there is none, and that is said.
#[test]
fn tokens_of_aws_reach_the_broker_and_missing_keys_are_named() {
    let Some(keys) = keys() else {
        return not_tested("AWS_MSK_IAM: start scripts/kafka.sh with --secure");
    };
    let mut world = World::new("msk", 1);
    let ca = keys.join("ca.crt").to_str().unwrap().to_owned();
    let properties = [
        ("security.protocol", "sasl_ssl"),
        ("ssl.ca.location", ca.as_str()),
        ("sasl.mechanism", "AWS_MSK_IAM"),
        ("sasl.aws.region", "eu-west-1"),
    ];
    on(&mut world.config, 201, &properties);
    let config = file(&world);
    let doctor = |with: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tagstream"));
        command.args(["doctor", "--config"]).arg(&config);
        for variable in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"] {
            command.env_remove(variable);
        }
        command.env("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1");
        command.env("HOME", world.folder.path());
        let output = command.envs(with.iter().copied()).output().unwrap();
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(said.contains("AWS_MSK_IAM (tokens"), "{said}");
        let line = said.lines().find(|line| line.contains("  broker  "));
        assert!(!said.contains("hunter2"), "{said}");
        line.unwrap().to_owned()
    };
    let said = doctor(&[]);
    assert!(said.contains("no credentials of AWS"), "{said}");
    let said = doctor(&[
        ("AWS_ACCESS_KEY_ID", "AKIDhunter2"),
        ("AWS_SECRET_ACCESS_KEY", "hunter2"),
    ]);
    let refused = said.contains("login") || said.contains("uthentication");
    assert!(refused && !said.contains("no credentials"), "{said}");
}

/// What this build does not have is named; no broker is asked.
#[test]
fn a_login_that_is_not_built_in_is_refused_by_its_name() {
    let mut world = World::new("logins", 1);
    for (properties, named) in [
        (
            &[("security.protocol", "sasl_ssl")][..],
            "GSSAPI (Kerberos)",
        ),
        (
            &[
                ("security.protocol", "sasl_ssl"),
                ("sasl.mechanism", "GSSAPI"),
            ],
            "GSSAPI (Kerberos)",
        ),
        (&[("sasl.mechanism", "AWS_MSK_IAM")], "sasl_ssl"),
        (
            &[
                ("security.protocol", "sasl_ssl"),
                ("sasl.mechanism", "AWS_MSK_IAM"),
                ("sasl.aws.region", "nowhere"),
            ],
            "such as eu-west-1",
        ),
        (&[("sasl.aws.region", "eu-west-1")], "AWS_MSK_IAM"),
        (
            &[("sasl.oauthbearer.method", "oidc")],
            "sasl.oauthbearer.token.endpoint.url",
        ),
    ] {
        on(&mut world.config, 0, properties);
        let model = repository().join("tests/fixtures/tiny-model");
        let run = ["run", "--model", model.to_str().unwrap()];
        for arguments in [&["source", "check"][..], &["dead-letters", "list"], &run] {
            let output = command(arguments, &file(&world));
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
            assert!(said.contains(named), "{arguments:?}: {said}");
        }
    }
    let doctor = text(&command(&["doctor"], &file(&world)).stdout);
    assert!(
        doctor.contains("SCRAM-SHA-512") && doctor.contains("not in this build"),
        "{doctor}"
    );
}

/// KIP-848: the broker itself gives out partitions, and takes them from who is gone.
#[test]
fn groups_of_the_new_protocol_share_partitions_and_lose_and_double_nothing() {
    if !is_real_broker() {
        return not_tested("groups of KIP-848: an embedded broker has none");
    }
    let mut world = World::new("kip848", 4);
    let protocol = ("group.protocol".to_owned(), "consumer".to_owned().into());
    world.config.kafka.properties = [protocol].into();
    let first = world.produce(0, 200);
    let launch = crate::child::Launch {
        for_ever: true,
        ..Default::default()
    };
    let mut one = world.launch("one", &launch);
    one.says("file committed", 1);
    let mut two = world.launch("two", &launch);
    two.says("partition assigned", 1);
    let second = world.produce(200, 200);
    one.signal("KILL");
    one.dies();
    let last = world.start("last", "");
    two.signal("TERM");
    assert!(two.wait().success(), "{}", two.log());
    last.finish();
    world.assert_exactly_once(&[100; 4], 400 - first - second);
}
