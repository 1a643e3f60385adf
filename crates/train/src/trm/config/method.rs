//! The methods.

use crate::trm::settings::MethodError;
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// What can be trained, from nothing to everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Text features alone; labels set the scale only.
    ZeroShot,
    /// A linear classifier on the standardised global feature.
    LinearProbe,
    /// Text-pixel matching with positive and negative prompts (Sun et al., 2022).
    Dualcoop,
    /// Text-pixel matching with positive prompts and free negative embeddings (Rawlekar et al.,
    /// 2025).
    PositiveCoop,
    /// The ingredients that the TRM-ML paper names.
    TrmMlBase,
    /// Our default: those, a global branch, soft targets and a memory.
    TrmMl,
}

impl Method {
    /// Every method, in the order of the ablation ladder.
    pub const ALL: [Method; 6] = [
        Method::ZeroShot,
        Method::LinearProbe,
        Method::Dualcoop,
        Method::PositiveCoop,
        Method::TrmMlBase,
        Method::TrmMl,
    ];

    /// The name used on the command line and in bundles.
    pub fn name(self) -> &'static str {
        match self {
            Method::ZeroShot => "zero-shot",
            Method::LinearProbe => "linear-probe",
            Method::Dualcoop => "dualcoop",
            Method::PositiveCoop => "positive-coop",
            Method::TrmMlBase => "trm-ml-base",
            Method::TrmMl => "trm-ml",
        }
    }
}

impl FromStr for Method {
    type Err = MethodError;

    fn from_str(name: &str) -> Result<Self, MethodError> {
        Method::ALL
            .into_iter()
            .find(|method| method.name() == name)
            .ok_or_else(|| MethodError::UnknownMethod(name.to_owned()))
    }
}
