//! The retraining job's configuration: a TOML file, then `TAGSTREAM_*` environment variables.
//!
//! Every key stands, commented with its default, in `configs/retrain.toml`; a test proves it.

use super::judge::JudgeConfig;
use tagstream_core::config::{
    ConfigError, Configuration, DecodeConfig, FetchConfig, Flaw, LogConfig, NotifyConfig,
    ObjectStoreConfig, Provider, Secret, Shape, address_flaw, authorization_flaw, is_web_address,
    settings,
};
use tagstream_train::eval::tags::TagsConfig;
use tagstream_train::groups::{GroupConfig, GroupPattern};
use tagstream_train::trm::config::{Method, MethodConfig};

settings! {
    /// `tagstream retrain --config`: everything the job can be told.
    RetrainConfig {
        /// Where models are kept.
        registry: RegistryConfig = RegistryConfig::default(),
        /// Where labels are read.
        labels: LabelSourceConfig = LabelSourceConfig::default(),
        /// How images are fetched, and from where they may be: as in stage.toml.
        fetch: FetchConfig = FetchConfig::default(),
        /// How images are decoded: as in stage.toml.
        decode: DecodeConfig = DecodeConfig::default(),
        /// The encoder's features.
        features: FeaturesConfig = FeaturesConfig::default(),
        /// How a candidate is trained.
        train: TrainConfig = TrainConfig::default(),
        /// Which images are relatives. Relatives are on one side wherever what was left out
        /// decides, and an image keeps its group for ever.
        groups: GroupConfig = GroupConfig::default(),
        /// From which probability on a category becomes a tag. Without `precision` and `per_image`
        /// thresholds aim at the best F1.
        tags: TagsConfig = TagsConfig::default(),
        /// What the judge asks for.
        judge: JudgeConfig = JudgeConfig::default(),
        /// One run at a time for each registry.
        lease: LeaseConfig = LeaseConfig::default(),
        /// What the report shows, and where it goes besides the registry.
        report: ReportConfig = ReportConfig::default(),
        /// Credentials and options of object stores, by URL scheme: as in stage.toml; where a key
        /// is missing the usual environment variables count.
        object_store: ObjectStoreConfig = ObjectStoreConfig::default(),
        /// How log lines look, and which are written.
        log: LogConfig = LogConfig::default(),
        /// Who is told of the verdict.
        notify: NotifyConfig = NotifyConfig::default(),
        /// A tracking server that keeps a record of every run.
        mlflow: MlflowConfig = MlflowConfig::default(),
    }
}

settings! {
    /// Where models are kept.
    RegistryConfig {
        /// The registry: a folder or an object store (`s3://bucket/prefix`). Required.
        url: String = String::new(),
    }
}

settings! {
    /// Where labels are read.
    LabelSourceConfig {
        /// Where the stage keeps its tables (its `output.url`). Required.
        url: String = String::new(),
        /// The label table, below `url`.
        table: String = "labels".into(),
        /// The predictions table: images are fetched from where they were tagged, else from the
        /// address that label events tell; empty: from the latter alone.
        predictions_table: String = "predictions".into(),
        /// Fewer new or changed labels than this since the last run: nothing to do (exit code 99).
        min_new_labels: usize = 100,
        /// A category that the model does not know is added once this many images are known to
        /// have it; 0: never.
        new_category_min_present: usize = 10,
        /// While labels tell of no presence and the model that serves has never seen a label: it
        /// adapts to this many pictures of the predictions table, drawn evenly. What comes of it is
        /// offered, not promoted. 0: there is nothing to do then.
        unlabelled: usize = 2_000,
    }
}

settings! {
    /// The encoder's features.
    FeaturesConfig {
        /// Folder of the cache; empty: below the user's cache folder.
        cache: String = String::new(),
        /// Bound of the cache on disk, GiB.
        cache_limit_gib: u64 = 20,
        /// Bound of features in memory, MiB; what is more is read from the cache batch by batch.
        memory_mib: u64 = 2048,
        /// `cpu`, `cuda`, `tensorrt` or `auto`.
        provider: Provider = Provider::Cpu,
        /// Encoder sessions on a CPU; 0: one a core.
        workers: usize = 0,
    }
}

settings! {
    /// How a candidate is trained.
    TrainConfig {
        /// `trm-ml`, `trm-ml-base`, `positive-coop`, `dualcoop` or `linear-probe`.
        method: Method = Method::TrmMl,
        /// Changes to the method's settings, for example `["optimizer.epochs=6"]`.
        set: Vec<String> = Vec::new(),
        /// Seed of everything random.
        seed: u64 = 0,
        /// Training ends after the epoch in which this time has passed, minutes.
        max_minutes: f64 = 60.0,
        /// Start from the champion's weights instead of from the towers.
        warm_start: bool = true,
        /// Where checkpoints are kept between runs; empty: below the user's cache folder.
        work_folder: String = String::new(),
    }
}

settings! {
    /// One run at a time for each registry.
    LeaseConfig {
        /// A run that shows no life for this long may be taken over, seconds.
        time_to_live_s: u64 = 120,
        /// How long to wait for another run to end before giving up (exit code 75), seconds.
        wait_s: u64 = 0,
    }
}

settings! {
    /// What the report shows, and where it goes besides the registry.
    ReportConfig {
        /// Folder for `report.html` and `report.json`; empty: only in the registry, beside the
        /// version.
        folder: String = String::new(),
        /// Example pictures.
        examples: usize = 12,
    }
}

settings! {
    /// A tracking server that keeps a record of every run: its settings, what it measured, its
    /// losses.
    MlflowConfig {
        /// Address of the MLflow server, as `http://mlflow:5000`; empty: none.
        url: String = String::new(),
        /// Experiment that the runs belong to; made if it is not there.
        experiment: String = "tagstream".into(),
        /// What requests say in `Authorization`, as `Bearer ...` or `Basic ...`; empty: nothing.
        authorization: Secret = Secret::default(),
        /// Time for one request, all tries together.
        timeout_ms: u64 = 10_000,
        /// Tries after the first, when the server is away or says that it cannot now.
        retries: u32 = 3,
    }
}

impl MlflowConfig {
    fn flaws(&self) -> Vec<Flaw> {
        let mut flaws = Vec::new();
        if !self.url.is_empty() {
            if !is_web_address(&self.url) {
                let reason = "is no `http` or `https` address, as `http://mlflow:5000`";
                flaws.push(Flaw::new("mlflow.url", reason));
            } else if self.url.contains('@') {
                let reason = "holds a user name or a password; they belong into \
                              `mlflow.authorization`";
                flaws.push(Flaw::new("mlflow.url", reason));
            }
            if self.experiment.trim().is_empty() {
                flaws.push(Flaw::new("mlflow.experiment", "is empty: name one"));
            }
        }
        flaws.extend(authorization_flaw(
            "mlflow.authorization",
            &self.authorization,
        ));
        if self.timeout_ms == 0 {
            flaws.push(Flaw::new("mlflow.timeout_ms", "must be at least 1"));
        }
        flaws
    }
}

impl Configuration for RetrainConfig {
    const SHAPE: Shape = Shape {
        file: "retrain.toml",
        of: "Configuration of tagstream's retraining job (tagstream retrain)",
        head: "The retraining job's configuration (`tagstream retrain --config`): every key with \
            its default. Variables that name keys of stage.toml or serve.toml alone are left to \
            those, so that all can be given one environment; one that names no key of any is an \
            error.",
        keys: RetrainConfig::KEYS,
    };

    fn flaws(&self) -> Vec<Flaw> {
        let mut flaws = Vec::new();
        let places = [
            (
                "registry.url",
                &self.registry.url,
                "name the registry (a folder or s3://...)",
            ),
            (
                "labels.url",
                &self.labels.url,
                "name where the stage keeps its tables",
            ),
        ];
        for (key, address, what) in places {
            match address.as_str() {
                "" => flaws.push(Flaw::new(key, format!("is empty: {what}"))),
                address => flaws.extend(address_flaw(key, address)),
            }
        }
        flaws.extend(self.decode.flaws());
        let mut refuse = |wrong: bool, key: &str, reason: &str| {
            if wrong {
                flaws.push(Flaw::new(key, reason));
            }
        };
        let judge = &self.judge;
        let share = judge.held_out_share;
        let within = share > 0.0 && share < 1.0;
        refuse(!within, "judge.held_out_share", "must lie between 0 and 1");
        for (key, confidence) in [
            ("judge.confidence", judge.confidence),
            ("judge.category_confidence", judge.category_confidence),
        ] {
            let within = (0.5..1.0).contains(&confidence);
            refuse(!within, key, "must be at least 0.5 and less than 1");
        }
        refuse(
            judge.folds == 0 || judge.folds > 20,
            "judge.folds",
            "must be 1 (a share is held out) to 20",
        );
        refuse(
            judge.resamples < 100,
            "judge.resamples",
            "must be at least 100",
        );
        let minutes = self.train.max_minutes;
        let positive = !minutes.is_nan() && minutes > 0.0;
        refuse(!positive, "train.max_minutes", "must be positive");
        let time_to_live = self.lease.time_to_live_s;
        refuse(
            time_to_live == 0,
            "lease.time_to_live_s",
            "must be at least 1",
        );
        if let Err(ConfigError::BadValue { key, reason }) = self.method() {
            refuse(true, &key, &reason);
        }
        if let Err(error) = GroupPattern::new(&self.groups.pattern) {
            refuse(true, "groups.pattern", &error.to_string());
        }
        flaws.extend(self.tags.flaws());
        flaws.extend(self.fetch.flaws());
        flaws.extend(self.notify.flaws());
        flaws.extend(self.mlflow.flaws());
        flaws
    }
}

impl RetrainConfig {
    /// The method's settings, changes included.
    ///
    /// # Errors
    /// [`ConfigError::BadValue`] names the change that cannot be.
    pub fn method(&self) -> Result<MethodConfig, ConfigError> {
        let bad = |error: tagstream_train::trm::config::MethodError| ConfigError::BadValue {
            key: "train.set".into(),
            reason: error.to_string(),
        };
        let mut method = MethodConfig::preset(self.train.method);
        for change in &self.train.set {
            method.set(change).map_err(bad)?;
        }
        method.validate().map_err(bad)?;
        Ok(method)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tagstream_core::config::reference;

    #[test]
    fn the_reference_states_every_key_with_its_default() {
        let keys = reference::<RetrainConfig>();
        let keys = keys.lines().map(|line| match line.strip_prefix('#') {
            Some(key) if !key.is_empty() && !key.starts_with([' ', ':']) => key,
            _ => line,
        });
        let stated: toml::Table = keys.collect::<Vec<_>>().join("\n").parse().unwrap();
        let all = toml::Table::try_from(RetrainConfig::default()).unwrap();
        assert_eq!(stated, all);
    }

    #[test]
    fn what_cannot_be_is_named() {
        let mut config = RetrainConfig::default();
        assert!(
            config
                .validate()
                .unwrap_err()
                .to_string()
                .contains("registry.url")
        );
        config.registry.url = "r".into();
        config.labels.url = "t".into();
        config.validate().unwrap();
        config.train.set = vec!["optimizer.epoch=3".into()];
        assert!(
            config
                .validate()
                .unwrap_err()
                .to_string()
                .contains("train.set")
        );
        config.train.set = vec!["optimizer.epochs=3".into()];
        assert_eq!(config.method().unwrap().optimizer.epochs, 3);
        config.judge.held_out_share = 1.0;
        assert!(
            config
                .validate()
                .unwrap_err()
                .to_string()
                .contains("held_out_share")
        );
    }
}
