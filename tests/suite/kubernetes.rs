//! The manifests in `deploy/kubernetes`, and whatever else the Helm chart makes, against the
//! program that their containers run: every configuration is valid in its environment, every
//! command exists, and what ends a run is told as Kubernetes understands it. `scripts/chart.sh
//! check` holds the manifests against the API's types.

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const CHART: &str = "deploy/helm/tagstream";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The objects of a stream of YAML documents.
fn objects(text: &str) -> Vec<Value> {
    let documents = text.split("\n---\n");
    let said = |document: &&str| {
        let mut lines = document.lines().map(str::trim);
        lines.any(|line| !line.is_empty() && !line.starts_with('#') && line != "---")
    };
    documents
        .filter(said)
        .map(|document| serde_saphyr::from_str(document).unwrap())
        .collect()
}

/// What is committed, for those without Helm.
fn plain() -> Vec<Value> {
    let mut all = Vec::new();
    for file in std::fs::read_dir(root().join("deploy/kubernetes")).unwrap() {
        all.extend(objects(
            &std::fs::read_to_string(file.unwrap().path()).unwrap(),
        ));
    }
    all
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Option<&'a Value> {
    objects.iter().find(|object| object["kind"] == kind)
}

/// The pod templates of stage and retraining.
fn pods(objects: &[Value]) -> BTreeMap<&'static str, &Value> {
    let stage = of_kind(objects, "Deployment").map(|d| ("stage", &d["spec"]["template"]["spec"]));
    let retrain = of_kind(objects, "CronJob").map(|job| {
        let template = &job["spec"]["jobTemplate"]["spec"]["template"];
        ("retrain", &template["spec"])
    });
    stage.into_iter().chain(retrain).collect()
}

/// The variables of a pod's container; of what a Secret holds, a stand-in.
fn environment(pod: &Value) -> Vec<(String, String)> {
    let variables = pod["containers"][0]["env"].as_array().unwrap().iter();
    variables
        .map(|variable| {
            let value = variable["value"].as_str().unwrap_or("of-a-secret");
            (variable["name"].as_str().unwrap().into(), value.into())
        })
        .collect()
}

fn tagstream() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tagstream"));
    for (name, _) in std::env::vars() {
        if name.starts_with("TAGSTREAM_") || name.starts_with("AWS_") {
            command.env_remove(name);
        }
    }
    command
}

/// Checks each configuration as its container will read it; gives what was checked.
fn validated(objects: &[Value], of: &str) -> Vec<&'static str> {
    let folder = tempfile::tempdir().unwrap();
    let data = &of_kind(objects, "ConfigMap").unwrap()["data"];
    let mut checked = Vec::new();
    for (kind, pod) in pods(objects) {
        let text = data[format!("{kind}.toml")].as_str();
        let text = text.unwrap_or_else(|| panic!("{of}: no {kind}.toml"));
        let file = folder.path().join(format!("{kind}.toml"));
        std::fs::write(&file, text).unwrap();
        let output = tagstream()
            .args(["config", "validate", "--kind", kind, "--config"])
            .arg(&file)
            .envs(environment(pod))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{of}, {kind}: {said}\n{text}");
        checked.push(kind);
    }
    checked
}

#[test]
fn the_plain_manifests_hold_valid_configurations() {
    assert_eq!(
        validated(&plain(), "deploy/kubernetes"),
        ["retrain", "stage"]
    );
}

/// With values of every kind: lists, tables, whole and broken numbers, quotes.
#[test]
fn whatever_the_chart_makes_is_a_valid_configuration() {
    let Some(helm) = std::env::var_os("TAGSTREAM_TEST_HELM") else {
        println!("NOT TESTED: no TAGSTREAM_TEST_HELM (scripts/setup.sh test gives it)");
        return;
    };
    let mut charts = 0;
    for values in std::fs::read_dir(root().join(CHART).join("ci")).unwrap() {
        let values = values.unwrap().path();
        let made = Command::new(&helm)
            .args([
                "template",
                "t",
                CHART,
                "--kube-version",
                "1.27.0",
                "--values",
            ])
            .arg(&values)
            .current_dir(root())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "{}: {said}", values.display());
        let objects = objects(&String::from_utf8(made.stdout).unwrap());
        validated(&objects, &values.display().to_string());
        charts += 1;
    }
    assert!(charts >= 4, "{charts}");
}

#[test]
fn the_stage_is_given_longer_than_it_takes_to_end() {
    let objects = plain();
    let data = &of_kind(&objects, "ConfigMap").unwrap()["data"];
    let stage: toml::Table = data["stage.toml"].as_str().unwrap().parse().unwrap();
    let drain = stage["shutdown"]["drain_timeout_ms"].as_integer().unwrap();
    let grace = pods(&objects)["stage"]["terminationGracePeriodSeconds"].as_i64();
    assert!(grace.unwrap() * 1000 > drain, "{grace:?} s, {drain} ms");
}

/// The program refuses a command or flag that it does not know before it looks at `--help`'s.
#[test]
fn every_command_is_one_of_the_program() {
    let objects = plain();
    let words = |line: &str| {
        let (_, words) = line.split_once("tagstream ").unwrap();
        let words = words.split([';', '&']).next().unwrap();
        words.split_whitespace().map(str::to_owned).collect()
    };
    let stage = pods(&objects)["stage"]["containers"][0]["args"].clone();
    let mut commands: Vec<Vec<String>> = vec![serde_json::from_value(stage).unwrap()];
    let mut scripts = vec![script(&objects)];
    for unit in ["tagstream.service", "tagstream-retrain.service"] {
        scripts.push(std::fs::read_to_string(root().join("deploy/systemd").join(unit)).unwrap());
    }
    for line in scripts.iter().flat_map(|script| script.lines()) {
        let is_command = line.contains("/bin/tagstream ") || line.starts_with("tagstream ");
        if is_command {
            commands.push(words(line));
        }
    }
    assert_eq!(commands.len(), 5, "{commands:?}");
    for mut words in commands {
        words.push("--help".into());
        let output = tagstream().args(&words).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {said}");
    }
}

/// What the CronJob's container runs.
fn script(objects: &[Value]) -> String {
    let script = &pods(objects)["retrain"]["containers"][0]["args"][0];
    script.as_str().unwrap().to_owned()
}

/// A folder with a `tagstream` that does this.
fn pretender(does: &str) -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let file: PathBuf = folder.path().join("tagstream");
    std::fs::write(&file, format!("#!/bin/sh\n{does}\n")).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

fn shell(script: &str, program: &Path) -> Command {
    let path = std::env::var("PATH").unwrap();
    let mut shell = Command::new("/bin/sh");
    shell
        .args(["-c", script])
        .env("PATH", format!("{}:{path}", program.display()));
    shell
}

/// The podFailurePolicy acts on codes, and Kubernetes knows one success.
#[test]
fn exit_codes_of_a_retraining_reach_kubernetes() {
    let objects = plain();
    let job = &of_kind(&objects, "CronJob").unwrap()["spec"]["jobTemplate"]["spec"];
    let rules = job["podFailurePolicy"]["rules"].as_array().unwrap();
    let action = |code: i32| {
        let rule = rules.iter().find(|rule| {
            let values = rule["onExitCodes"]["values"].as_array();
            values.is_some_and(|values| values.contains(&code.into()))
        });
        rule.map(|rule| rule["action"].as_str().unwrap())
    };
    let script = script(&objects);
    for (code, told, expected) in [
        (0, 0, None),
        (99, 0, None),
        (75, 75, Some("Count")),
        (1, 1, Some("FailJob")),
        (2, 2, Some("FailJob")),
        (3, 3, Some("FailJob")),
        (137, 137, None),
    ] {
        let program = pretender(&format!("exit {code}"));
        let output: Output = shell(&script, program.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(told), "{output:?}");
        assert_eq!(action(told), expected, "{told}");
    }
}

/// A shell that is process 1 does not hand signals on unless it is told to.
#[test]
fn a_retraining_hears_that_its_pod_is_to_end() {
    use std::io::{BufRead, BufReader};
    let program = pretender(
        "trap 'echo heard; exit 75' TERM\necho runs\nwhile :; do sleep 1 & wait $!; done",
    );
    let mut running = shell(&script(&plain()), program.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(running.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "runs");
    let told = Command::new("kill")
        .args(["-TERM", &running.id().to_string()])
        .status()
        .unwrap();
    assert!(told.success());
    assert_eq!(said.next().unwrap().unwrap(), "heard");
    assert_eq!(running.wait().unwrap().code(), Some(75));
}
