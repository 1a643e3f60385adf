//! What preprocessor files say about pixel values: `preprocessor_config.json`, the
//! `processor_config.json` of transformers 5, and OpenCLIP's `preprocess_cfg`.
//!
//! Every known key is honoured here, is geometry (how the picture gets its size, read elsewhere),
//! or is refused where it asks for something that is not done: none changes a picture unseen.

use super::config_error::{VisionConfigError, unsupported};
use serde_json::{Map, Value};

/// CLIP's own pixel statistics, the default where a configuration gives none.
pub const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// See [`CLIP_MEAN`].
pub const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// Mean and standard deviation of pixels in [0, 1], RGB.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct PixelStatistics {
    pub mean: [f32; 3],
    pub std: [f32; 3],
}

impl PixelStatistics {
    /// CLIP's own, the default where a file says nothing.
    pub(super) const CLIP: Self = Self {
        mean: CLIP_MEAN,
        std: CLIP_STD,
    };
}

/// A preprocessor file beside Hugging Face's `config.json`.
#[derive(Debug, Clone, Copy)]
pub struct PreprocessorFile<'a> {
    /// Its name, for people.
    pub name: &'a str,
    /// Its content.
    pub json: &'a str,
}

/// Keys that say how a picture gets its size and shape, or how arrays are handed on.
const GEOMETRY: [&str; 9] = [
    "do_resize",
    "size",
    "resample",
    "do_center_crop",
    "crop_size",
    "default_to_square",
    "input_data_format",
    "data_format",
    "interpolation",
];

/// Keys that do something to a picture which is not done here, with the values that do nothing.
const REFUSED: [(&str, &str); 8] = [
    ("do_pad", "pictures are not padded"),
    ("pad_size", "pictures are not padded"),
    ("do_flip_channel_order", "pixels are RGB, not BGR"),
    ("do_thumbnail", "pictures are resized once"),
    ("do_align_long_axis", "pictures are not turned"),
    ("do_crop_margin", "margins are not cut"),
    ("do_image_splitting", "one picture is one input"),
    (
        "rescale_offset",
        "pixels are not shifted before the mean is taken off",
    ),
];

/// Reads the files that Hugging Face's libraries write, the later over the earlier where both speak
/// of pixel values.
///
/// # Errors
/// Names the key that cannot be honoured; two files that contradict each other are one, too.
pub(super) fn hugging_face(
    files: &[PreprocessorFile<'_>],
) -> Result<PixelStatistics, VisionConfigError> {
    let mut found: Option<(&str, PixelStatistics)> = None;
    for file in files {
        let json: Value = serde_json::from_str(file.json)?;
        // A processor is an image processor and a tokenizer; only the first is of interest.
        let values = json.get("image_processor").unwrap_or(&json);
        let Some(values) = values.as_object() else {
            return Err(unsupported(file.name, values, "a JSON object"));
        };
        let whole = json.get("image_processor").is_some();
        if !whole && !values.keys().any(|key| is_about_pictures(key)) {
            continue;
        }
        let statistics = statistics(values)?;
        match found {
            Some((other, earlier)) if earlier != statistics => {
                let hint = "the two files beside the weights contradict each other: correct one, \
                            or remove it";
                let value = format!("{statistics:?}, and {other} says {earlier:?}");
                return Err(unsupported(file.name, value, hint));
            }
            _ => found = Some((file.name, statistics)),
        }
    }
    Ok(found.map_or(PixelStatistics::CLIP, |(_, statistics)| statistics))
}

fn is_about_pictures(key: &str) -> bool {
    key.starts_with("do_") || key.starts_with("image_") || key.starts_with("rescale_")
}

fn statistics(values: &Map<String, Value>) -> Result<PixelStatistics, VisionConfigError> {
    for (key, value) in values {
        let off = value.is_null() || value == &Value::Bool(false) || is_zero(value);
        let refused = REFUSED.iter().find(|(name, _)| name == key);
        match refused {
            Some((_, hint)) if !off => return Err(unsupported(key, value, hint)),
            Some(_) => continue,
            None => {}
        }
        let known = GEOMETRY.contains(&key.as_str())
            || ["do_rescale", "do_normalize", "do_convert_rgb"].contains(&key.as_str());
        if key.starts_with("do_") && !known && !off {
            return Err(unsupported(key, value, "a step that is not known here"));
        }
    }
    let switch = |key: &str| match values.get(key) {
        None | Some(Value::Null) => Ok(true),
        Some(Value::Bool(on)) => Ok(*on),
        Some(other) => Err(unsupported(key, other, "true or false")),
    };
    let (mean, std) = match switch("do_normalize")? {
        true => (
            three(values, "image_mean", CLIP_MEAN)?,
            three(values, "image_std", CLIP_STD)?,
        ),
        false => ([0.0; 3], [1.0; 3]),
    };
    if std.iter().any(|std| !(std.is_finite() && *std > 0.0)) {
        let hint = "standard deviations above 0";
        return Err(unsupported("image_std", format!("{std:?}"), hint));
    }
    let factor = match (switch("do_rescale")?, values.get("rescale_factor")) {
        (false, _) => 1.0,
        (true, None | Some(Value::Null)) => return Ok(PixelStatistics { mean, std }),
        (true, Some(factor)) => match factor.as_f64() {
            Some(number) if number.is_finite() && number > 0.0 => number,
            _ => return Err(unsupported("rescale_factor", factor, "a number above 0")),
        },
    };
    // (x f - mean) / std is (x / 255 - mean / 255 f) / (std / 255 f).
    let times_255 = factor * 255.0;
    if (times_255 - 1.0).abs() < 1e-6 {
        return Ok(PixelStatistics { mean, std });
    }
    let scaled = |of: [f32; 3]| of.map(|x| (f64::from(x) / times_255) as f32);
    Ok(PixelStatistics {
        mean: scaled(mean),
        std: scaled(std),
    })
}

fn is_zero(value: &Value) -> bool {
    value.as_f64() == Some(0.0)
}

/// Three numbers, or one for all three.
fn three(
    values: &Map<String, Value>,
    key: &str,
    default: [f32; 3],
) -> Result<[f32; 3], VisionConfigError> {
    let wrong = |value: &Value| unsupported(key, value, "three numbers, or one for all");
    match values.get(key) {
        None | Some(Value::Null) => Ok(default),
        Some(value @ Value::Number(number)) => {
            let number = number.as_f64().ok_or_else(|| wrong(value))?;
            Ok([number as f32; 3])
        }
        Some(value) => {
            let numbers = value.as_array().into_iter().flatten();
            let numbers: Option<Vec<f32>> = numbers.map(|x| x.as_f64().map(|x| x as f32)).collect();
            let three = numbers.and_then(|numbers| <[f32; 3]>::try_from(numbers).ok());
            three.ok_or_else(|| wrong(value))
        }
    }
}

/// Reads OpenCLIP's `preprocess_cfg`.
///
/// # Errors
/// Names the key that cannot be honoured.
pub(super) fn open_clip(
    values: Option<&Map<String, Value>>,
) -> Result<PixelStatistics, VisionConfigError> {
    let Some(values) = values else {
        return Ok(PixelStatistics::CLIP);
    };
    for (key, value) in values {
        let harmless = match key.as_str() {
            // How the picture gets its size.
            "mean" | "std" | "size" | "interpolation" | "resize_mode" | "fill_color" => true,
            "mode" => value == "RGB" || value.is_null(),
            _ => value.is_null() || value == &Value::Bool(false),
        };
        if !harmless {
            let key = format!("preprocess_cfg.{key}");
            return Err(unsupported(
                &key,
                value,
                "pixels are RGB, resized and normalised",
            ));
        }
    }
    Ok(PixelStatistics {
        mean: three(values, "mean", CLIP_MEAN)?,
        std: three(values, "std", CLIP_STD)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[(&str, &str)]) -> Result<PixelStatistics, VisionConfigError> {
        let files: Vec<_> = files
            .iter()
            .map(|&(name, json)| PreprocessorFile { name, json })
            .collect();
        hugging_face(&files)
    }

    const HALF: PixelStatistics = PixelStatistics {
        mean: [0.5; 3],
        std: [0.25; 3],
    };

    #[test]
    fn the_old_file_and_the_one_of_transformers_5_say_the_same() {
        let values = r#"{"image_mean":[0.5,0.5,0.5],"image_std":0.25,"do_normalize":true,
            "do_rescale":true,"rescale_factor":0.00392156862745098,"do_resize":true,
            "size":{"shortest_edge":224},"do_convert_rgb":true}"#;
        assert_eq!(read(&[("preprocessor_config.json", values)]).unwrap(), HALF);
        let whole = format!(r#"{{"image_processor":{values},"processor_class":"CLIPProcessor"}}"#);
        assert_eq!(read(&[("processor_config.json", &whole)]).unwrap(), HALF);
        // A processor of before names its class only.
        let bare = r#"{"processor_class":"CLIPProcessor"}"#;
        let both = [
            ("preprocessor_config.json", values),
            ("processor_config.json", bare),
        ];
        assert_eq!(read(&both).unwrap(), HALF);
        assert_eq!(
            read(&[("processor_config.json", bare)]).unwrap(),
            PixelStatistics::CLIP
        );
        let other = whole.replace("0.25", "0.3");
        let both = [
            ("preprocessor_config.json", values),
            ("processor_config.json", &*other),
        ];
        let message = read(&both).unwrap_err().to_string();
        assert!(
            message.contains("contradict") && message.contains("0.3"),
            "{message}"
        );
    }

    #[test]
    fn rescaling_and_its_absence_are_honoured() {
        let of = |json: &str| read(&[("preprocessor_config.json", json)]).unwrap();
        let bare = of(r#"{"do_normalize":false,"image_mean":[0.5,0.5,0.5]}"#);
        assert_eq!((bare.mean, bare.std), ([0.0; 3], [1.0; 3]));
        // To [-1, 1] by a factor alone, as some exports do it: x / 127.5 - 1.
        let json = r#"{"rescale_factor":0.00784313725490196,"image_mean":1,"image_std":1}"#;
        let wide = of(json);
        assert!((wide.mean[0] - 0.5).abs() < 1e-6 && (wide.std[0] - 0.5).abs() < 1e-6);
        let raw = of(r#"{"do_rescale":false,"image_mean":[127.5,127.5,127.5],"image_std":51}"#);
        assert!((raw.mean[0] - 0.5).abs() < 1e-6 && (raw.std[0] - 0.2).abs() < 1e-6);
    }

    #[test]
    fn what_is_not_done_is_refused_by_its_key() {
        for (json, key) in [
            (r#"{"do_pad":true}"#, "do_pad"),
            (r#"{"do_flip_channel_order":true}"#, "do_flip_channel_order"),
            (r#"{"do_sharpen":true}"#, "do_sharpen"),
            (r#"{"image_mean":[0.5,0.5]}"#, "image_mean"),
            (r#"{"image_std":[0,1,1]}"#, "image_std"),
            (r#"{"do_rescale":1}"#, "do_rescale"),
            (r#"{"rescale_factor":"x"}"#, "rescale_factor"),
        ] {
            let message = read(&[("preprocessor_config.json", json)])
                .unwrap_err()
                .to_string();
            assert!(message.contains(key), "{json}: {message}");
        }
        assert!(read(&[("preprocessor_config.json", r#"{"do_pad":false}"#)]).is_ok());
        let cfg = |json: &str| {
            let values: Value = serde_json::from_str(json).unwrap();
            open_clip(values.as_object()).map(|s| s.mean)
        };
        assert_eq!(
            cfg(r#"{"mean":[0.5,0.5,0.5],"size":224}"#).unwrap(),
            [0.5; 3]
        );
        for (json, key) in [(r#"{"mode":"L"}"#, "mode"), (r#"{"sharpen":2}"#, "sharpen")] {
            assert!(cfg(json).unwrap_err().to_string().contains(key), "{json}");
        }
    }
}
