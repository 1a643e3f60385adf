//! Settings, their changes and their limits.

use super::*;

#[test]
fn every_preset_is_valid_and_named() {
    for method in Method::ALL {
        MethodConfig::preset(method).validate().unwrap();
        assert_eq!(method.name().parse::<Method>().unwrap(), method);
        assert_eq!(
            serde_json::to_value(method).unwrap(),
            serde_json::Value::String(method.name().into())
        );
    }
    assert!(
        "clip"
            .parse::<Method>()
            .unwrap_err()
            .to_string()
            .contains("trm-ml-base")
    );
}

#[test]
fn settings_change_by_path() {
    let mut config = MethodConfig::preset(Method::TrmMl);
    config.set("distillation.weight=0").unwrap();
    config.set("prompts.negative=prompt").unwrap();
    config.set("prompts.template = an image of").unwrap();
    config.set("loss.asymmetric.margin=0.05").unwrap();
    config.set("calibrated_start=false").unwrap();
    assert_eq!(config.distillation.weight, 0.0);
    assert_eq!(config.prompts.negative, NegativeMode::Prompt);
    assert_eq!(config.prompts.template, "an image of");
    assert_eq!(config.loss.asymmetric.margin, 0.05);
    assert!(!config.calibrated_start);
}

#[test]
fn a_wrong_change_is_refused_and_changes_nothing() {
    let mut config = MethodConfig::default();
    let before = config.clone();
    for (change, word) in [
        ("epochs", "key=value"),
        ("optimizer.epoch=3", "epochs"),
        ("optimizer.epochs=many", "optimizer.epochs"),
        ("optimizer=3", "group"),
        ("optimizer.feature_dropout=1", "[0, 1)"),
        ("prompts.negative=nothing", "prompts.negative"),
    ] {
        let error = config.set(change).unwrap_err().to_string();
        assert!(error.contains(word), "{change}: {error}");
    }
    assert_eq!(config, before);
}
