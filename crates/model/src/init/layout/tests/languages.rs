//! Text towers beyond CLIP's own, in both layouts, with words in four scripts:
//! `tests/fixtures/languages`, made by `scripts/make_language_goldens.py`.

use super::*;

fn folder(name: &str) -> PathBuf {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    root.join("tests/fixtures/languages").join(name)
}

fn parts(name: &str) -> Box<ClipParts> {
    match ClipFolder::open(&folder(name)).unwrap().parts().unwrap() {
        ClipSource::Weights(parts) => parts,
        ClipSource::Encoder(_) => panic!("weights"),
    }
}

/// The folder, and whether its texts begin with a token.
const TOWERS: [(&str, bool); 11] = [
    ("metaclip_2", true),
    ("metaclip_2_mt5", false),
    ("clipa", true),
    ("mobileclip", true),
    ("siglip_i18n", false),
    ("layer_scale", true),
    ("xlm_roberta", true),
    ("chinese_clip", true),
    ("altclip", true),
    ("coca", true),
    ("coca_mended", true),
];

#[test]
fn texts_equal_the_libraries() {
    for (name, begins) in TOWERS {
        let (parts, golden) = (parts(name), Golden::open(folder(name)));
        let texts = std::fs::read(folder(name).join("texts.json")).unwrap();
        let texts: Vec<String> = serde_json::from_slice(&texts).unwrap();
        let text = parts.text_encoder().unwrap();
        assert_eq!(text.tokenizer.begins(), begins, "{name}");
        let context = text.tower.config().context_length;
        let mut tokens = Vec::new();
        for (text_of, expected) in texts.iter().zip(golden.integers("tokens").chunks(context)) {
            let ids = text.tokenizer.encode(text_of).unwrap();
            let seen = &ids[usize::from(!begins)..];
            assert_eq!(seen, &expected[..seen.len()], "{name}: {text_of}");
            // Nothing but filling follows.
            let filling = text.tokenizer.padding().unwrap_or(expected[context - 1]);
            assert!(expected[seen.len()..].iter().all(|id| *id == filling));
            tokens.push(ids);
        }
        let features = text.tower.forward_tokens(&tokens).unwrap();
        let features: Vec<f32> = features.flatten_all().unwrap().to_vec1().unwrap();
        let d = difference(&features, &golden.floats("text"));
        assert!(d < 1e-4, "{name}: text differs by {d}");
    }
}

/// A prompt that is longer or shorter than others, or stands among them, is the same prompt.
#[test]
fn a_text_alone_is_what_it_is_among_others() {
    for (name, _) in TOWERS {
        let text = parts(name).text_encoder().unwrap();
        let (one, other) = ("кот", "a photo of a red dog");
        let both = text.embed(&[one, other], |_| ()).unwrap();
        let alone = text.embed(&[one], |_| ()).unwrap();
        assert!(difference(&both[..alone.len()], &alone) < 1e-6, "{name}");
        let limit = text.tokenizer.context_length();
        let long = "a photo of ".repeat(limit);
        let cut = text.tokenizer.encode_truncated(&long).unwrap();
        let first = usize::from(!text.tokenizer.begins());
        assert_eq!(cut.len(), limit + first, "{name}");
        text.tower.forward_tokens(&[cut]).unwrap();
        assert!(text.embed(&[&long], |_| ()).is_err(), "{name}");
    }
}

#[test]
fn small_letters_and_punctuation_are_as_the_tower_was_trained() {
    let of = |name: &str, text: &str| {
        let tokenizer = parts(name).text_encoder().unwrap().tokenizer;
        tokenizer.encode(text).unwrap()
    };
    let (typed, trained) = ("A photo, of: a cat!", "a photo of a cat");
    assert_eq!(of("metaclip_2_mt5", typed), of("metaclip_2_mt5", trained));
    assert_ne!(of("metaclip_2", typed), of("metaclip_2", trained));
}
