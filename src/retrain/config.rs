//! The retraining job's configuration: a TOML file, then `TAGSTREAM_*` environment variables.
//!
//! Every key stands, commented with its default, in `configs/retrain.toml`; a test proves it.

use super::judge::JudgeConfig;
use serde::{Deserialize, Serialize};
use tagstream_core::config::{
    ConfigError, DecodeConfig, FetchConfig, LogConfig, ObjectStoreConfig, Provider,
};
use tagstream_train::settings;
use tagstream_train::trm::config::{Method, MethodConfig};

/// `tagstream retrain --config`: everything the job can be told.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetrainConfig {
    /// Where models are kept.
    pub registry: RegistryConfig,
    /// Where labels are read.
    pub labels: LabelSourceConfig,
    /// How images are fetched.
    pub fetch: FetchConfig,
    /// How images are decoded.
    pub decode: DecodeConfig,
    /// The encoder's features.
    pub features: FeaturesConfig,
    /// Training.
    pub train: TrainConfig,
    /// Calibration.
    pub calibration: CalibrationConfig,
    /// The judge.
    pub judge: JudgeConfig,
    /// One run at a time.
    pub lease: LeaseConfig,
    /// The report.
    pub report: ReportConfig,
    /// Credentials and options of object stores.
    pub object_store: ObjectStoreConfig,
    /// Logs.
    pub log: LogConfig,
}

settings! {
    /// Where models are kept.
    RegistryConfig {
        /// The registry: a folder or an object store (`s3://bucket/prefix`).
        url: String = String::new(),
    }
}

settings! {
    /// Where labels are read.
    LabelSourceConfig {
        /// Where the stage keeps its tables (its `output.url`).
        url: String = String::new(),
        /// The label table, below `url`.
        table: String = "labels".into(),
        /// The predictions table, for addresses that label events do not tell; empty: none.
        predictions_table: String = "predictions".into(),
        /// Fewer new or changed labels than this since the last run: nothing to do (exit code 99).
        min_new_labels: usize = 100,
        /// A category that the model does not know is added once this many images are known to have
        /// it; 0: never.
        new_category_min_present: usize = 10,
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
    /// Training.
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

/// What a category's threshold aims at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CalibrationTarget {
    /// The best F1.
    F1,
    /// At least `precision`.
    Precision,
}

settings! {
    /// Calibration, on the held-out part: the judge's measure depends on the order of scores only,
    /// which calibration does not change.
    CalibrationConfig {
        /// `f1` or `precision`.
        target: CalibrationTarget = CalibrationTarget::F1,
        /// The precision aimed at, where that is the target.
        precision: f64 = 0.9,
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
    /// The report.
    ReportConfig {
        /// Folder for `report.html` and `report.json`; empty: only in the registry, beside the
        /// version.
        folder: String = String::new(),
        /// Example pictures.
        examples: usize = 12,
    }
}

impl RetrainConfig {
    /// Checks what types cannot.
    ///
    /// # Errors
    /// [`ConfigError::BadValue`] names the first key that cannot be right.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let bad = |key: &str, reason: &str| {
            Err(ConfigError::BadValue {
                key: key.into(),
                reason: reason.into(),
            })
        };
        if self.registry.url.is_empty() {
            return bad(
                "registry.url",
                "is empty: name the registry (a folder or s3://...)",
            );
        }
        if self.labels.url.is_empty() {
            return bad(
                "labels.url",
                "is empty: name where the stage keeps its tables",
            );
        }
        let share = self.judge.held_out_share;
        if !(share > 0.0 && share < 1.0) {
            return bad("judge.held_out_share", "must lie between 0 and 1");
        }
        for (key, confidence) in [
            ("judge.confidence", self.judge.confidence),
            ("judge.category_confidence", self.judge.category_confidence),
        ] {
            if !(0.5..1.0).contains(&confidence) {
                return bad(key, "must be at least 0.5 and less than 1");
            }
        }
        if self.judge.resamples < 100 {
            return bad("judge.resamples", "must be at least 100");
        }
        if self.train.max_minutes.is_nan() || self.train.max_minutes <= 0.0 {
            return bad("train.max_minutes", "must be positive");
        }
        if self.lease.time_to_live_s == 0 {
            return bad("lease.time_to_live_s", "must be at least 1");
        }
        self.method().map(drop)
    }

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
    use figment::Figment;
    use figment::providers::{Format, Serialized, Toml};
    use std::collections::BTreeSet;

    const FILE: &str = include_str!("../../configs/retrain.toml");

    /// The file with every commented key put into force.
    fn in_force() -> String {
        let lines = FILE.lines().map(|line| match line.strip_prefix("# ") {
            Some(rest)
                if rest
                    .split_once(" = ")
                    .is_some_and(|(k, _)| !k.contains(' ')) =>
            {
                rest
            }
            _ => line,
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_shipped_file_states_every_key_with_its_default() {
        let figment = Figment::from(Serialized::defaults(RetrainConfig::default()))
            .merge(Toml::string(&in_force()));
        let read: RetrainConfig = figment.extract().unwrap();
        assert_eq!(read, RetrainConfig::default());
        let stated: toml::Table = in_force().parse().unwrap();
        let all = serde_json::to_value(RetrainConfig::default()).unwrap();
        // These sections are the stage's own and stand in configs/stage.toml.
        let shared = ["fetch", "decode", "object_store", "log"];
        for (section, keys) in all.as_object().unwrap() {
            if shared.contains(&section.as_str()) {
                continue;
            }
            let wanted: BTreeSet<&String> = keys.as_object().unwrap().keys().collect();
            let found: BTreeSet<&String> = stated[section].as_table().unwrap().keys().collect();
            assert_eq!(found, wanted, "[{section}]");
        }
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
