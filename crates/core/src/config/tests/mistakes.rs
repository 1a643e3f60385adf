//! Every kind of mistake, with the place and the hint that it must be told with.

use super::*;

settings! {
    /// A section of another configuration.
    Jury {
        /// A key.
        margin: f64 = 0.0,
        /// One with a unit.
        wait_s: u64 = 0,
    }
}

settings! {
    /// A section that both have, with keys of its own here.
    OtherLabels {
        /// A key.
        url: String = String::new(),
    }
}

settings! {
    /// Another configuration, which shares the stage's environment.
    Other {
        /// A section.
        jury: Jury = Jury::default(),
        /// A section that both have.
        labels: OtherLabels = OtherLabels::default(),
        /// A section that both have.
        object_store: ObjectStoreConfig = ObjectStoreConfig::default(),
    }
}

impl Configuration for Other {
    const SHAPE: Shape = Shape {
        file: "other.toml",
        of: "another configuration",
        head: "",
        keys: Other::KEYS,
    };

    fn flaws(&self) -> Vec<Flaw> {
        let empty = self.labels.url.is_empty();
        empty
            .then(|| Flaw::new("labels.url", "is empty"))
            .into_iter()
            .collect()
    }
}

const BOTH: [Shape; 2] = [StageConfig::SHAPE, Other::SHAPE];
/// Stands wherever a secret could, and must be in no message.
const MARK: &str = "hunter2";

/// The mistakes in a file and in variables, as they are printed, without the file's folder.
fn told<T: Configuration + std::fmt::Debug>(text: &str, variables: &[(&str, &str)]) -> String {
    let error = read_these::<T>(text, variables, &BOTH).unwrap_err();
    for told in [error.to_string(), format!("{error:?}")] {
        assert!(!told.contains(MARK), "{told}");
    }
    let lines = error.to_string();
    let lines = lines.lines().map(|line| match line.find("stage.toml") {
        Some(at) if line.starts_with('/') => &line[at..],
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn keys_and_sections_that_the_stage_does_not_have() {
    for (text, wanted) in [
        (
            "[fetch]\ntimeout = 5\n",
            "stage.toml:2:1: `fetch.timeout` is no key of stage.toml; did you mean \
             `fetch.timeout_ms`?",
        ),
        (
            "\n  fetch.timeout = 5\n",
            "stage.toml:2:9: `fetch.timeout` is no key of stage.toml; did you mean \
             `fetch.timeout_ms`?",
        ),
        (
            "[labels]\nurl = \"tables\"\n",
            "stage.toml:2:1: `labels.url` is a key of other.toml, not of stage.toml",
        ),
        (
            "[jury]\nmargin = 1\n",
            "stage.toml:1:2: `jury` is a section of other.toml, not of stage.toml",
        ),
        (
            "[labels]\nwait = 1\n",
            "stage.toml:2:1: `labels.wait` is no key of stage.toml; other.toml has `jury.wait_s`",
        ),
        (
            "[ftech]\nretries = 1\n",
            "stage.toml:1:2: `ftech` is no section of stage.toml; did you mean `fetch`?",
        ),
        (
            "max_redirects = 5\n",
            "stage.toml:1:1: `max_redirects` is no section of stage.toml; did you mean \
             `fetch.max_redirects`?",
        ),
        (
            "[decode]\nmax_redirects = 5\n",
            "stage.toml:2:1: `decode.max_redirects` is no key of stage.toml; did you mean \
             `fetch.max_redirects`?",
        ),
        (
            "[memory]\ncolour = 1\n",
            "stage.toml:2:1: `memory.colour` is no key of stage.toml; the keys of [memory] are \
             budget_mib",
        ),
    ] {
        assert_eq!(told::<StageConfig>(text, &[]), wanted, "{text}");
    }
}

#[test]
fn values_of_another_type_and_addresses_of_no_kind() {
    for (text, wanted) in [
        (
            "[fetch]\nretries = 3\ntimeout_ms = \"soon\"\n",
            "stage.toml:3:14: `fetch.timeout_ms` is a string, but must be a whole number of at \
             least 0",
        ),
        (
            "[model]\nprovider = \"cpuu\"\n",
            "stage.toml:2:12: `model.provider` is \"cpuu\", but must be one of \"cpu\", \"cuda\", \
             \"tensorrt\", \"auto\"; did you mean \"cpu\"?",
        ),
        (
            "fetch = 5\n",
            "stage.toml:1:9: `fetch` is a whole number, but must be a section with keys of its own",
        ),
        (
            "[fetch]\nallow_hosts = [\"a\", 5]\n",
            "stage.toml:2:15: `fetch.allow_hosts` has a whole number in its list, but must be a \
             list of strings, as [\"a\", \"b\"]",
        ),
        (
            "[model]\ndevice = 4294967296\n",
            "stage.toml:2:10: `model.device` is a whole number, but must be a whole number from 0 \
             to 4294967295",
        ),
        (
            "[output]\nurl = \"azure:/c/p\"\n",
            "stage.toml:2:1: `output.url` begins with `azure:`, which is a scheme only with two \
             slashes: `azure://`",
        ),
    ] {
        assert_eq!(told::<StageConfig>(text, &[]), wanted, "{text}");
    }
}

#[test]
fn secrets_in_tables_whose_names_are_not_ours() {
    for (text, wanted) in [
        (
            "[object_store.s3]\n# comment\nacces_key_id = \"hunter2\"\n",
            "stage.toml:3:1: `object_store.s3.acces_key_id` is no option of S3; did you mean \
             `object_store.s3.access_key_id`?",
        ),
        (
            "object_store.s3 = { allow_http = \"true\", regon = \"hunter2\" }\n",
            "stage.toml:1:42: `object_store.s3.regon` is no option of S3; did you mean \
             `object_store.s3.region`?",
        ),
        (
            "[kafka.properties]\nsasl.password = \"hunter2\"\n",
            "stage.toml:2:1: `kafka.properties.sasl` is a table, because the dots are not in \
             quotes: write \"name.with.dots\" = \"...\"",
        ),
        (
            "[kafka.properties]\n\"sasl.password\" = 4711\n",
            "stage.toml:2:19: `kafka.properties.sasl.password` is a whole number, but must be a \
             string (in quotes)",
        ),
        (
            "[kafka.properties]\n\"sasl.password\" = [\"hunter2\"]\n",
            "stage.toml:2:19: `kafka.properties.sasl.password` is a list, but must be a string (in \
             quotes)",
        ),
        (
            "[object_store.s3]\nsecret_access_key = true\n",
            "stage.toml:2:21: `object_store.s3.secret_access_key` is true or false, but must be a \
             string (in quotes)",
        ),
    ] {
        assert_eq!(told::<StageConfig>(text, &[]), wanted, "{text}");
    }
    // What a variable holds is a string, whatever it looks like; it is not told either.
    for value in ["12345", "true", "[\"hunter2\"]"] {
        let variables = [("TAGSTREAM_KAFKA__PROPERTIES__SASL_PASSWORD", value)];
        let config = read_these::<StageConfig>("", &variables, &BOTH)
            .unwrap()
            .config;
        assert_eq!(config.kafka.properties["sasl.password"].expose(), value);
        let shown = toml::to_string(&config).unwrap() + &format!("{config:?}");
        assert!(!shown.contains(value) || value == "true", "{shown}");
    }
    let whole = [(
        "TAGSTREAM_KAFKA__PROPERTIES",
        "{ \"sasl.password\" = 4711 }",
    )];
    let told = told::<StageConfig>("", &whole);
    assert!(
        told.contains("must be a table") && !told.contains("4711"),
        "{told}"
    );
}

#[test]
fn a_file_of_another_configuration() {
    for (text, wanted) in [
        (
            "[labels]\nurl = \"\"\n",
            "stage.toml:2:1: `labels.url` is empty",
        ),
        ("", "stage.toml: `labels.url` is empty"),
        (
            "[jury]\nwait = 1\n",
            "stage.toml:2:1: `jury.wait` is no key of other.toml; did you mean `jury.wait_s`?",
        ),
        (
            "[fetch]\nretries = 1\n",
            "stage.toml:1:2: `fetch` is a section of stage.toml, not of other.toml",
        ),
        (
            "[object_store]\naz = { acount_key = \"hunter2\" }\n",
            "stage.toml:2:8: `object_store.az.acount_key` is no option of Azure Blob Storage; did \
             you mean `object_store.az.account_key`?",
        ),
    ] {
        assert_eq!(told::<Other>(text, &[]), wanted, "{text}");
    }
}

#[test]
fn variables_are_named_with_the_nearest_right_one() {
    for (name, value, wanted) in [
        (
            "TAGSTREAM_FETCH__TIMEOUT",
            "7",
            "names no key of stage.toml or other.toml; did you mean TAGSTREAM_FETCH__TIMEOUT_MS?",
        ),
        (
            "TAGSTREAM_JURY__MARGINS",
            "7",
            "names no key of stage.toml or other.toml; did you mean TAGSTREAM_JURY__MARGIN?",
        ),
        (
            "TAGSTREAM_COLOUR__OF",
            "hunter2",
            "names no key of stage.toml or other.toml: correct or unset it",
        ),
        (
            "TAGSTREAM_FETCH__TIMEOUT_MS",
            "soon",
            "`fetch.timeout_ms` must be a whole number of at least 0",
        ),
        (
            "TAGSTREAM_OBJECT_STORE__S3__REGON",
            "hunter2",
            "`object_store.s3.regon` is no option of S3; did you mean \
             `TAGSTREAM_OBJECT_STORE__S3__REGION`?",
        ),
        (
            "TAGSTREAM_OBJECT_STORE__S3",
            "hunter2",
            "`object_store.s3` must be a table, as { name = \"value\" }",
        ),
        (
            "TAGSTREAM_MODEL__MAX_BATCH",
            "0",
            "`model.max_batch` must be at least 1",
        ),
    ] {
        let wanted = format!("environment variable {name}: {wanted}");
        assert_eq!(told::<StageConfig>("", &[(name, value)]), wanted);
    }
}

#[test]
fn what_is_the_others_alone_is_left_to_it() {
    let variables = [
        ("TAGSTREAM_JURY__MARGIN", "0.5"),
        ("TAGSTREAM_LABELS__URL", "/tables"),
        ("TAGSTREAM_LABELS__ENABLED", "true"),
        ("TAGSTREAM_OBJECT_STORE__S3__REGION", "here"),
    ];
    let stage = read_these::<StageConfig>("", &variables, &BOTH)
        .unwrap()
        .config;
    assert!(stage.labels.enabled);
    let other = read_these::<Other>("", &variables, &BOTH).unwrap().config;
    assert_eq!((other.jury.margin, &*other.labels.url), (0.5, "/tables"));
    for s3 in [&stage.object_store.s3, &other.object_store.s3] {
        assert_eq!(s3["region"].expose(), "here");
    }
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_the_file() {
    let text = "[fetch]\ntimeout = 5\nretries = \"three\"\n[http]\nport = 1\n";
    let told = told::<StageConfig>(text, &[("TAGSTREAM_MODEL__PATHS", "x")]);
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.len(), 4, "{told}");
    for (line, place) in lines
        .iter()
        .zip(["toml:2:1", "toml:3:11", "toml:5:1", "variable"])
    {
        assert!(line.contains(place), "{told}");
    }
}

#[test]
fn what_is_not_toml_is_told_with_its_place_and_without_its_text() {
    for text in [
        "[kafka]\n[object_store.s3]\nsecret_access_key = hunter2\n",
        "\n\nsecret_access_key = \"hunter2\nregion = \"x\"\n",
        "\n\n\"hunter2\" \"hunter2\"\n",
    ] {
        let told = told::<StageConfig>(text, &[]);
        assert!(told.starts_with("stage.toml:3:"), "{told}");
        assert!(told.contains("is not TOML"), "{told}");
    }
    let twice = told::<StageConfig>("[fetch]\nretries = 1\nretries = 2\n", &[]);
    assert!(
        twice.starts_with("stage.toml:3:1: is not TOML: duplicate key"),
        "{twice}"
    );
}
