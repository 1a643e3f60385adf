//! docker-compose.yml against the program that its services run: every command exists, every
//! configuration and environment is valid, and what a service waits for is there. Whether the
//! containers come up is another question, which needs a container engine.

use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(Deserialize)]
struct Compose {
    services: BTreeMap<String, Service>,
}

#[derive(Deserialize)]
struct Service {
    image: String,
    #[serde(default)]
    entrypoint: Vec<String>,
    #[serde(default)]
    command: Vec<String>,
    #[serde(default)]
    environment: BTreeMap<String, Value>,
    #[serde(default)]
    volumes: Vec<String>,
    #[serde(default)]
    depends_on: BTreeMap<String, Dependency>,
    healthcheck: Option<Value>,
    restart: Option<String>,
}

#[derive(Deserialize)]
struct Dependency {
    condition: String,
}

fn compose() -> Compose {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker-compose.yml");
    serde_saphyr::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

impl Compose {
    /// The services that run our program.
    fn ours(&self) -> impl Iterator<Item = (&String, &Service)> {
        let is_ours = |(_, service): &(&String, &Service)| service.image == "tagstream";
        self.services.iter().filter(is_ours)
    }
}

impl Service {
    /// Where the repository, or `elsewhere`, has what the container finds at `path`.
    fn on_host(&self, path: &str, elsewhere: &Path) -> PathBuf {
        let mounted = self.volumes.iter().find_map(|volume| {
            let (host, container) = volume.split_once(':').unwrap();
            let rest = path.strip_prefix(container.trim_end_matches(":ro"))?;
            let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join(host);
            let folder = if repository.exists() {
                repository
            } else {
                elsewhere.into()
            };
            Some(folder.join(rest.trim_start_matches('/')))
        });
        mounted.unwrap_or_else(|| panic!("nothing is mounted at {path}"))
    }

    fn environment(&self, pictures: &Path) -> Vec<(&String, String)> {
        let text = |value: &Value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let pictures = pictures.to_str().unwrap();
        let here = |value: String| value.replace("\"/pictures\"", &format!("{pictures:?}"));
        self.environment
            .iter()
            .map(|(name, value)| (name, here(text(value))))
            .collect()
    }
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

#[test]
fn every_configuration_is_valid_in_its_service() {
    let pictures = tempfile::tempdir().unwrap();
    let compose = compose();
    let mut checked = Vec::new();
    for (name, service) in compose.ours() {
        let Some(at) = service.command.iter().position(|word| word == "--config") else {
            continue;
        };
        let kind = match service.command[0].as_str() {
            "run" => "stage",
            other => other,
        };
        let file = service.on_host(&service.command[at + 1], pictures.path());
        let output = tagstream()
            .args(["config", "validate", "--kind", kind, "--config"])
            .arg(file)
            .envs(service.environment(pictures.path()))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {said}");
        checked.push(name.as_str());
    }
    assert_eq!(checked, ["retrain", "stage"]);
}

/// The program refuses a command or flag that it does not know before it looks at `--help`'s.
#[test]
fn every_command_is_one_of_the_program() {
    for (name, service) in compose().ours() {
        let mut commands: Vec<Vec<String>> = Vec::new();
        if service.entrypoint.is_empty() {
            commands.push(service.command.clone());
        } else {
            let script = service.command[0].replace("\\\n", " ");
            for line in script.lines().filter(|line| line.contains("tagstream ")) {
                let (_, words) = line.split_once("tagstream ").unwrap();
                let words = words.split(['>', ';']).next().unwrap();
                let words = words.split_whitespace();
                commands.push(
                    words
                        .map(|word| word.trim_matches('"').to_owned())
                        .collect(),
                );
            }
        }
        assert!(!commands.is_empty(), "{name} runs nothing");
        for mut words in commands {
            words.push("--help".into());
            let output = tagstream().args(&words).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{name}: {words:?}: {said}");
        }
    }
}

#[test]
fn what_a_service_waits_for_is_there_and_can_be_waited_for() {
    let compose = compose();
    for (name, service) in &compose.services {
        for (other, dependency) in &service.depends_on {
            let waited = compose.services.get(other);
            let waited =
                waited.unwrap_or_else(|| panic!("{name} waits for {other}, which is none"));
            match dependency.condition.as_str() {
                "service_healthy" => assert!(waited.healthcheck.is_some(), "{other} of {name}"),
                "service_completed_successfully" => {
                    assert_ne!(
                        waited.restart.as_deref(),
                        Some("always"),
                        "{other} of {name}"
                    );
                }
                "service_started" => {}
                condition => panic!("{name} waits until {other} is {condition}"),
            }
        }
    }
    for name in ["stage", "retrain"] {
        for first in ["topics", "model"] {
            let condition = &compose.services[name].depends_on[first].condition;
            assert_eq!(
                condition, "service_completed_successfully",
                "{name}: {first}"
            );
        }
    }
}
