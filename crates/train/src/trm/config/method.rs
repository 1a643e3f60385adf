//! The methods.

use crate::trm::settings::MethodError;
use std::str::FromStr;
use tagstream_core::config::choice;

choice! {
    /// What can be trained, from nothing to everything.
    Method {
        /// Text features alone; labels set the scale only.
        ZeroShot = "zero-shot",
        /// A linear classifier on the standardised global feature.
        LinearProbe = "linear-probe",
        /// Text-pixel matching with positive and negative prompts (Sun et al., 2022).
        Dualcoop = "dualcoop",
        /// Text-pixel matching with positive prompts and free negative embeddings (Rawlekar et
        /// al., 2025).
        PositiveCoop = "positive-coop",
        /// The ingredients that the TRM-ML paper names.
        TrmMlBase = "trm-ml-base",
        /// Our default: those, a global branch, soft targets and a memory.
        TrmMl = "trm-ml",
    }
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
