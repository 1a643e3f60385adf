//! docker-compose.yml against the program that its services run: every command exists, every
//! configuration and environment is valid, and what a service waits for is there. Whether the
//! containers come up is another question, which needs a container engine.

mod authorities;

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
            // A file may be mounted by itself.
            let rest = rest.trim_start_matches('/');
            Some(match rest.is_empty() {
                true => folder,
                false => folder.join(rest),
            })
        });
        mounted.unwrap_or_else(|| panic!("nothing is mounted at {path}"))
    }

    /// The commands of the program that it runs, without the program's name.
    fn commands(&self) -> Vec<Vec<String>> {
        if self.entrypoint.is_empty() {
            return vec![self.command.clone()];
        }
        let script = self.command[0].replace("\\\n", " ");
        let lines = script
            .lines()
            .filter_map(|line| line.split_once("tagstream "));
        let words = lines.map(|(_, words)| words.split(['>', ';']).next().unwrap());
        let bare = |word: &str| word.trim_matches('"').to_owned();
        words
            .map(|words| words.split_whitespace().map(bare).collect())
            .collect()
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
        let commands = service.commands().into_iter();
        let with_file = commands.filter_map(|words| {
            let at = words.iter().position(|word| word == "--config")?;
            Some((words[0].clone(), words[at + 1].clone()))
        });
        let with_file: Vec<_> = with_file.collect();
        let [(command, file)] = &with_file[..] else {
            assert!(with_file.is_empty(), "{name} reads several");
            continue;
        };
        let kind = match command.as_str() {
            "run" => "stage",
            other => other,
        };
        let file = service.on_host(file, pictures.path());
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
    assert_eq!(checked, ["retrain", "serve", "stage"]);
}

/// The program refuses a command or flag that it does not know before it looks at `--help`'s.
#[test]
fn every_command_is_one_of_the_program() {
    for (name, service) in compose().ours() {
        let commands = service.commands();
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

/// Those of others read files of this repository: what is mounted there is here, and says what it
/// should.
#[test]
fn what_is_mounted_from_here_is_here() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let compose = compose();
    let mut files = 0;
    for (name, service) in &compose.services {
        for volume in &service.volumes {
            let (host, _) = volume.split_once(':').unwrap();
            // People make that one.
            if !host.starts_with("./") || host == "./pictures" {
                continue;
            }
            assert!(repository.join(host).exists(), "{host} of {name}");
            files += 1;
        }
    }
    assert!(files >= 8, "{files}");
    let read = |path: &str| std::fs::read_to_string(repository.join(path)).unwrap();
    let prometheus: Value =
        serde_saphyr::from_str(&read("deploy/prometheus/prometheus.yml")).unwrap();
    let targets = &prometheus["scrape_configs"][0]["static_configs"][0]["targets"];
    assert_eq!(targets[0], "stage:9464");
    let rules = prometheus["rule_files"][0].as_str().unwrap();
    assert_eq!(
        compose.services["prometheus"].on_host(rules, repository),
        repository.join("deploy/prometheus/rules.yml")
    );
    let sources = read("deploy/grafana/provisioning/datasources/prometheus.yml");
    let sources: Value = serde_saphyr::from_str(&sources).unwrap();
    assert_eq!(sources["datasources"][0]["url"], "http://prometheus:9090");
    let boards = read("deploy/grafana/provisioning/dashboards/tagstream.yml");
    let boards: Value = serde_saphyr::from_str(&boards).unwrap();
    let folder = boards["providers"][0]["options"]["path"].as_str().unwrap();
    let board =
        compose.services["grafana"].on_host(&format!("{folder}/tagstream.json"), repository);
    let board: Value = serde_json::from_str(&std::fs::read_to_string(board).unwrap()).unwrap();
    assert_eq!(board["uid"], "tagstream");
}
