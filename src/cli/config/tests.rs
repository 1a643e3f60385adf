use super::*;

const MARK: &str = "hunter2";

#[test]
fn what_is_printed_shows_no_password_of_an_address() {
    let mut config: toml::Table = format!(
        "[kafka]\nbrokers = \"user:{MARK}@host:9092\"\n\
         [output]\nurl = \"s3://AKIA:{MARK}@bucket/p\"\n\
         [model]\npath = \"s3://AKIA:{MARK}@bucket/models@7\"\n\
         [registry]\nurl = \"gs://{MARK}@bucket/p\"\n\
         [labels]\nurl = \"https://u:{MARK}@h/p?sig={MARK}\"\n"
    )
    .parse()
    .unwrap();
    redact_addresses(&mut config);
    let text = config.to_string();
    assert!(
        !text.contains(MARK) && text.contains("bucket/models@7"),
        "{text}"
    );
}

#[test]
fn usual_addresses_are_printed_as_they_are() {
    for address in [
        "localhost:9092",
        "a:9092,b:9092",
        "/srv/tables",
        "tables",
        "s3://bucket/prefix",
        "s3://bucket/models@7",
        "/srv/models@current",
        "",
    ] {
        assert_eq!(shown(address), address);
    }
}

#[test]
fn properties_are_checked_by_their_names_and_values_stay_hidden() {
    let mut config = StageConfig::default();
    for name in ["sasl.pasword", "security.protocol"] {
        let value = String::from(MARK).into();
        config.kafka.properties.insert(name.into(), value);
    }
    let flaws: Vec<Flaw> = checks::STAGE
        .iter()
        .flat_map(|check| check(&config))
        .collect();
    let told: Vec<String> = flaws
        .iter()
        .map(|flaw| format!("`{}` {}", flaw.key, flaw.reason))
        .collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told[0].contains("did you mean `sasl.password`?"),
        "{told:?}"
    );
    assert!(told.iter().all(|told| !told.contains(MARK)), "{told:?}");
    assert!(
        told[1].starts_with("`kafka.properties.security.protocol` "),
        "{told:?}"
    );
}
