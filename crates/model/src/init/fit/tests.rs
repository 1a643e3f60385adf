use super::*;

const CROP: (Fit, Filter) = (Fit::CenterCrop, Filter::Bicubic);
const SQUASH: (Fit, Filter) = (Fit::Squash, Filter::Bicubic);

fn said() -> Said<'static> {
    Said {
        path: Path::new("m/preprocessor_config.json"),
    }
}

#[test]
fn hugging_faces_files_are_read_in_all_their_forms() {
    let sides = r#""size":{"height":224,"width":224}"#;
    for (json, expected) in [
        (
            r#"{"size":{"shortest_edge":224},"crop_size":{"height":224,"width":224}}"#,
            CROP,
        ),
        (
            r#"{"size":224,"crop_size":224,"do_center_crop":true,"resample":3}"#,
            CROP,
        ),
        (
            r#"{"size":224,"resample":2}"#,
            (Fit::CenterCrop, Filter::Bilinear),
        ),
        (
            r#"{"size":224,"interpolation":"bilinear"}"#,
            (Fit::CenterCrop, Filter::Bilinear),
        ),
        (r#"{"do_resize":true}"#, CROP),
        (r#"{"size":224,"default_to_square":true}"#, SQUASH),
        (
            r#"{"feature_extractor_type":"CLIPFeatureExtractor","size":224}"#,
            CROP,
        ),
        (
            r#"{"image_processor_type":"CLIPImageProcessorFast","do_resize":true}"#,
            CROP,
        ),
        (
            r#"{"image_processor_type":"SiglipImageProcessor","size":224}"#,
            SQUASH,
        ),
        (
            r#"{"image_processor_type":"SiglipImageProcessor","do_resize":true}"#,
            SQUASH,
        ),
        (
            r#"{"image_processor":{"size":{"shortest_edge":32}},"processor_class":"CLIPProcess"}"#,
            CROP,
        ),
        (&format!(r#"{{{sides},"do_center_crop":false}}"#), SQUASH),
        // What is resized to a square is not changed by cropping that square.
        (&format!(r#"{{{sides},"crop_size":224}}"#), SQUASH),
        (
            r#"{"image_processor_type":"ViTImageProcessor","resample":2,"size":224}"#,
            (Fit::Squash, Filter::Bilinear),
        ),
    ] {
        let found = said().hugging_face(json).unwrap();
        assert_eq!(found, Some(expected), "{json}");
    }
    // A processor of before names its class only.
    let bare = r#"{"processor_class":"CLIPProcessor"}"#;
    assert_eq!(said().hugging_face(bare).unwrap(), None);
}

#[test]
fn what_is_not_done_is_refused_by_file_and_key() {
    for (json, key) in [
        (
            r#"{"size":256,"crop_size":224}"#,
            "crop_size is 224x224 of 256x256",
        ),
        (
            r#"{"size":{"height":256,"width":256},"crop_size":{"height":224,"width":224}}"#,
            "crop_size is 224x224 of 256x256",
        ),
        (
            r#"{"size":224,"do_center_crop":false}"#,
            "do_center_crop is false",
        ),
        (r#"{"size":{"longest_edge":224}}"#, "size is"),
        (
            r#"{"size":{"shortest_edge":224,"longest_edge":500}}"#,
            "size is",
        ),
        (r#"{"size":"224"}"#, "size is"),
        (
            r#"{"image_processor_type":"BlipImageProcessor"}"#,
            "size is missing",
        ),
        (r#"{"do_resize":false}"#, "do_resize is false"),
        (r#"{"do_resize":7}"#, "do_resize is 7"),
        (r#"{"size":224,"resample":1}"#, "resample is 1"),
        (r#"{"image_processor":3}"#, "image_processor is 3"),
        ("[]", "invalid type"),
    ] {
        let error = said().hugging_face(json).unwrap_err().to_string();
        let named = error.contains(key) && error.contains("m/preprocessor_config.json");
        assert!(named, "{json}: {error}");
    }
}

#[test]
fn open_clips_file_is_read_with_its_defaults() {
    let of = |preprocess: &str| {
        let json = format!(r#"{{"model_cfg":{{}},"preprocess_cfg":{preprocess}}}"#);
        said().open_clip(&json)
    };
    assert_eq!(of(r#"{"mean":[0,0,0]}"#).unwrap(), CROP);
    assert_eq!(of("null").unwrap(), CROP);
    assert_eq!(said().open_clip("{}").unwrap(), CROP);
    let squash = r#"{"resize_mode":"squash","interpolation":"bilinear"}"#;
    assert_eq!(of(squash).unwrap(), (Fit::Squash, Filter::Bilinear));
    for (json, key) in [
        (r#"{"resize_mode":"longest"}"#, "resize_mode is \"longest\""),
        (
            r#"{"interpolation":"lanczos"}"#,
            "interpolation is \"lanczos\"",
        ),
    ] {
        let error = of(json).unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
    }
}
