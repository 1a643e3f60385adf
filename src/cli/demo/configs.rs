//! The configurations that the demonstration writes.

use super::Demo;
use std::path::Path;
use tagstream::demo::story::topic;

impl Demo {
    /// The pages' configuration, which watch the stage that tells how it does at `stage`.
    pub(super) fn serve_config(&self, port: u16, stage: &str) -> String {
        format!(
            r#"# Written by `tagstream demo`. Every key stands with its default in {defaults}.
[serve]
bind = "127.0.0.1:{port}"

[registry]
url = "{out}/registry"

[tables]
url = "{out}"

[kafka]
brokers = "{brokers}"

[topics]
labels = "{labels}"
dead_letters = "{dead}"

[stages]
addresses = ["{stage}"]

[review]
refresh_s = 5

[inference]
enabled = true

[fetch]
allow_schemes = ["file", "http"]
allow_path_prefixes = ["{out}/pictures", "{out}/broken"]

[log]
format = "text"
"#,
            defaults = "configs/serve.toml",
            out = self.story.out().display(),
            brokers = self.story.brokers(),
            labels = topic::LABELS,
            dead = topic::DEAD_LETTERS,
        )
    }

    /// The stage's configuration; it tells how it does at `http`, or nobody.
    pub(super) fn stage_config(&self, http: &str) -> String {
        format!(
            r#"# Written by `tagstream demo`. Every key stands with its default in {defaults}.
[kafka]
brokers = "{brokers}"
group_id = "demo"

[fetch]
allow_schemes = ["file", "http"]
allow_path_prefixes = ["{out}/pictures", "{out}/broken"]

[model]
path = "{out}/registry"
watch_interval_ms = 250

[output]
url = "{out}"
table = "predictions"
max_file_age_ms = 2000
predictions_topic = "{predictions}"
dead_letter_topic = "{dead}"

[labels]
enabled = true
topic = "{labels}"

[http]
bind = "{http}"

[log]
format = "text"
"#,
            defaults = "configs/stage.toml",
            brokers = self.story.brokers(),
            out = self.story.out().display(),
            predictions = topic::PREDICTIONS,
            dead = topic::DEAD_LETTERS,
            labels = topic::LABELS,
        )
    }

    /// The retraining job's configuration: which pictures it may read, and after how many new
    /// labels it does anything.
    pub(super) fn retrain_config(
        &self,
        max_minutes: f64,
        pictures: &Path,
        new_labels: usize,
    ) -> String {
        format!(
            r#"# Written by `tagstream demo`. Every key stands with its default in {defaults}.
[registry]
url = "{out}/registry"

[labels]
url = "{out}"
min_new_labels = {new_labels}

# The job may read these pictures and nothing else.
[fetch]
allow_schemes = ["file"]
allow_path_prefixes = ["{pictures}"]

[features]
cache = "{out}/features"

[train]
set = ["prompts.train=false", "optimizer.rate=1e-3"]
max_minutes = {max_minutes:?}
work_folder = "{out}/work"

[report]
folder = "{out}"
"#,
            defaults = "configs/retrain.toml",
            out = self.story.out().display(),
            pictures = pictures.display(),
        )
    }
}
