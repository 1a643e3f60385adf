//! What cameras, scanners, phones and older programs write, against what Pillow makes of it; and
//! the table of docs/formats.md, which is made of that (`UPDATE_DOCS=1` writes it).

use super::*;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// A line of cases.json, which scripts/make_photographs.py writes.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    file: String,
    kind: String,
    what: String,
    /// RGB of what it should be, and its size.
    reference: Option<String>,
    size: Option<(u32, u32)>,
    /// Whether Pillow makes the same of it: `equal`, `refuses` or `differs`.
    #[serde(default)]
    pillow: String,
    /// How far a sample may be off on average, where formats leave decoders a choice.
    mean: Option<f64>,
    /// By which words it is refused.
    unsupported: Option<String>,
    unknown: Option<String>,
    #[serde(default)]
    damaged: bool,
}

fn root() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).to_owned()
}

fn read(name: &str) -> Vec<u8> {
    let path = root().join("tests/fixtures/photographs").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn cases() -> Vec<Case> {
    serde_json::from_slice(&read("cases.json")).unwrap()
}

/// What is wrong with how a file is decoded; and what the table says of it.
fn verdict(case: &Case) -> Result<String, String> {
    let decoded = decode_rgb(&read(&case.file), &DecodeLimits::default());
    let lacking = match case.kind.as_str() {
        "HEIC" if !cfg!(feature = "heic") => Some("`heic`".to_owned()),
        "JPEG XL" if !cfg!(feature = "jpeg-xl") => Some("`jpeg-xl`".to_owned()),
        _ => None,
    };
    let refused = match lacking {
        Some(_) => [&lacking, &None],
        None => [&case.unsupported, &case.unknown],
    };
    if let Some(words) = refused.into_iter().flatten().next() {
        return match decoded {
            Err(error)
                if error.fault() == DecodeFault::Unsupported
                    && error
                        .to_string()
                        .to_lowercase()
                        .contains(&words.to_lowercase()) =>
            {
                Ok(format!("refused as *{words}*"))
            }
            other => Err(format!("{other:?}, not refused as {words}")),
        };
    }
    if case.damaged {
        return match decoded {
            Err(error) if error.fault() == DecodeFault::Damaged => Ok("damaged".into()),
            other => Err(format!("{:?}, not damaged", other.map(|p| p.dimensions()))),
        };
    }
    let picture = decoded.map_err(|error| error.to_string())?;
    if Some(picture.dimensions()) != case.size {
        return Err(format!("{:?}, not {:?}", picture.dimensions(), case.size));
    }
    let reference = read(case.reference.as_ref().expect("one that is read"));
    assert_eq!(reference.len(), picture.as_raw().len());
    let off = picture
        .as_raw()
        .iter()
        .zip(&reference)
        .map(|(a, b)| f64::from(a.abs_diff(*b)));
    let mean = off.sum::<f64>() / reference.len() as f64;
    if mean > case.mean.unwrap_or(0.05) {
        return Err(format!("off by {mean:.2} on average"));
    }
    Ok(match case.pillow.as_str() {
        "equal" => "read".into(),
        other => format!("read; Pillow {other}"),
    })
}

#[test]
fn photographs_are_read_as_they_are_or_refused_by_name() {
    let cases = cases();
    assert!(cases.len() > 120, "{}", cases.len());
    let mut wrong = String::new();
    for case in &cases {
        if let Err(flaw) = verdict(case) {
            writeln!(wrong, "{}: {flaw}", case.file).unwrap();
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// Of a build that reads them all.
#[cfg(all(feature = "heic", feature = "jpeg-xl"))]
#[test]
fn the_table_of_formats_is_what_is_read() {
    let mut table = String::from("| format | file | what becomes of it |\n|---|---|---|\n");
    for case in cases() {
        let said = verdict(&case).unwrap_or_else(|flaw| panic!("{}: {flaw}", case.file));
        writeln!(table, "| {} | {} | {said} |", case.kind, case.what).unwrap();
    }
    let path = root().join("docs/formats.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (begin, end) = ("<!-- table -->\n", "<!-- /table -->");
    let (head, rest) = page.split_once(begin).expect("where the table begins");
    let (_, tail) = rest.split_once(end).expect("where the table ends");
    let expected = format!("{head}{begin}{table}{end}{tail}");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, expected).unwrap();
        return;
    }
    assert_eq!(page, expected, "stale: UPDATE_DOCS=1 writes it");
}

/// A raw file's first picture is small; nobody means that one.
#[test]
fn raw_files_of_cameras_are_refused_by_name_and_not_read_as_their_thumbnails() {
    for name in ["raw.nef", "raw.dng"] {
        let error = decode_rgb(&read(&format!("../raw/{name}")), &DecodeLimits::default());
        let error = error.unwrap_err();
        assert_eq!(error.fault(), DecodeFault::Unsupported, "{error}");
        assert!(error.to_string().contains("a camera's raw file"), "{error}");
    }
}

/// What no reader of the format itself takes for one, but looks like it by its first bytes.
#[test]
fn relatives_of_formats_are_refused_by_name() {
    for (name, says) in [
        ("jpeg-ls", "JPEG-LS"),
        ("jpeg-lossless-grey", "lossless coding of 1 components"),
        ("png-cgbi", "CgBI"),
    ] {
        let bytes = read(&format!("../raw/{name}"));
        for error in [
            decode_rgb(&bytes, &DecodeLimits::default()).unwrap_err(),
            probe(&bytes, &DecodeLimits::default()).unwrap_err(),
        ] {
            assert_eq!(error.fault(), DecodeFault::Unsupported, "{name}: {error}");
            assert!(error.to_string().contains(says), "{name}: {error}");
        }
    }
}

/// Whatever is read whole is read when it is fitted, too, and its header says the same size.
#[test]
fn fitting_and_probing_agree_with_decoding() {
    let preprocessing = Preprocessing {
        height: 8,
        width: 8,
        fit: crate::preprocessing::Fit::Squash,
        filter: crate::preprocessing::Filter::Bicubic,
    };
    let limits = DecodeLimits::default();
    for case in cases() {
        let bytes = read(&case.file);
        let whole = decode_rgb(&bytes, &limits);
        let mut pixels = [0; 8 * 8 * 3];
        let fitted = decode_into(&bytes, &preprocessing, &limits, &mut pixels);
        match (whole, fitted) {
            (Ok(whole), Ok(size)) => {
                assert_eq!(
                    whole.dimensions(),
                    (size.width, size.height),
                    "{}",
                    case.file
                );
                let mut expected = [0; 8 * 8 * 3];
                fit_rgb(&whole, &preprocessing, &mut expected);
                let near = pixels.iter().zip(expected).all(|(a, b)| a.abs_diff(b) < 16);
                assert!(near, "{}", case.file);
                assert_eq!(probe(&bytes, &limits).unwrap().size, size, "{}", case.file);
            }
            (Err(whole), Err(fitted)) => assert_eq!(whole, fitted, "{}", case.file),
            (whole, fitted) => panic!("{}: {whole:?}, {fitted:?}", case.file),
        }
    }
}

/// A JPEG that is cut is taken up to the share that may be missing, what is there unchanged and the
/// rest grey.
#[test]
fn damage_is_accepted_up_to_its_share() {
    let cut = read("jpeg-cut");
    let whole = decode_rgb(&read("jpeg-420"), &DecodeLimits::default()).unwrap();
    let allowing = |percent| DecodeLimits {
        max_damaged_percent: percent,
        ..DecodeLimits::default()
    };
    let (picture, info) = decode_rgb_told(&cut, &allowing(100)).unwrap();
    let missing = info.damaged_percent;
    assert!((20..=80).contains(&missing), "{missing}");
    assert_eq!(picture.dimensions(), whole.dimensions());
    assert_eq!(picture.get_pixel(3, 3), whole.get_pixel(3, 3));
    assert!(decode_rgb_told(&cut, &allowing(missing)).is_ok());
    for percent in [0, missing - 1] {
        let error = decode_rgb(&cut, &allowing(percent)).unwrap_err();
        assert_eq!(error.fault(), DecodeFault::Damaged);
        let told = error.to_string();
        assert!(
            told.contains(&format!("{missing} %")) && told.contains("decode.damaged"),
            "{told}"
        );
    }
    // Nobody can say which part of a progressive picture is missing.
    let progressive = read("jpeg-progressive-cut");
    assert!(decode_rgb(&progressive, &allowing(100)).is_err());
    // What is whole stays whole.
    let (_, info) = decode_rgb_told(&read("jpeg-no-end"), &allowing(100)).unwrap();
    assert_eq!(info.damaged_percent, 0);
}

#[test]
fn every_cut_of_a_photograph_is_an_error_or_a_picture() {
    let limits = DecodeLimits {
        max_damaged_percent: 100,
        ..DecodeLimits::default()
    };
    for case in cases().iter().filter(|case| case.reference.is_some()) {
        let bytes = read(&case.file);
        for part in 1..24 {
            let cut = &bytes[..bytes.len() * part / 24];
            match decode_rgb(cut, &limits) {
                Ok(picture) => assert!(picture.width() > 0),
                Err(error) => assert!(!error.to_string().contains("panicked"), "{}", case.file),
            }
        }
    }
}
