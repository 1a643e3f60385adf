//! OpenCLIP's `open_clip_config.json`, as far as the text tower goes.

use super::{
    ClassToken, EncoderForm, ReadOutPosition, SIGLIP_PADDING, TextConfig, TextConfigError, TextForm,
};
use serde::Deserialize;
use serde_json::Value;
use tagstream_kernels::Activation;

/// OpenCLIP's `model_cfg`, as far as the text tower goes.
#[derive(Deserialize)]
struct OpenClip {
    embed_dim: usize,
    #[serde(default)]
    quick_gelu: bool,
    text_cfg: OpenClipText,
}

#[derive(Deserialize)]
#[serde(default)]
struct OpenClipText {
    context_length: usize,
    vocab_size: usize,
    width: usize,
    heads: usize,
    layers: usize,
    no_causal_mask: bool,
    embed_cls: bool,
    correct_cls_mask: bool,
    pool_type: String,
    proj_type: String,
    pad_id: u32,
    eos_id: Option<u32>,
    tokenizer_kwargs: Option<TokenizerOptions>,
    hf_model_name: Option<String>,
    hf_pooler_type: Option<String>,
    norm_kwargs: Option<OpenClipNorm>,
    act_kwargs: Option<OpenClipActivation>,
    #[serde(flatten)]
    others: serde_json::Map<String, Value>,
}

/// What OpenCLIP's tokenizer does to texts and tokens.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TokenizerOptions {
    clean: Option<String>,
    strip_sep_token: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OpenClipNorm {
    eps: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OpenClipActivation {
    approximate: String,
}

/// Keys of `text_cfg` that say how text becomes tokens, or nothing about what is computed.
const NOT_COMPUTED: [&str; 7] = [
    "hf_tokenizer_name",
    "mlp_ratio",
    "bos_id",
    "output_tokens",
    "hf_model_pretrained",
    // The tensors say it.
    "proj_bias",
    "ls_init_value",
];

impl Default for OpenClipText {
    fn default() -> Self {
        Self {
            context_length: 77,
            vocab_size: 49_408,
            width: 512,
            heads: 8,
            layers: 12,
            no_causal_mask: false,
            embed_cls: false,
            correct_cls_mask: false,
            pool_type: "argmax".to_owned(),
            proj_type: "linear".to_owned(),
            pad_id: 0,
            eos_id: None,
            tokenizer_kwargs: None,
            hf_model_name: None,
            hf_pooler_type: None,
            norm_kwargs: None,
            act_kwargs: None,
            others: serde_json::Map::new(),
        }
    }
}

/// Reads `model_cfg`.
///
/// # Errors
/// Names what these towers do not have.
pub(super) fn read(model: &Value) -> Result<TextConfig, TextConfigError> {
    of(OpenClip::deserialize(model)?)
}

fn of(config: OpenClip) -> Result<TextConfig, TextConfigError> {
    let text = config.text_cfg;
    let refuse = |key, value: String, hint| Err(TextConfigError::Unsupported { key, value, hint });
    if let Some(name) = &text.hf_model_name {
        return encoder(name, &text, config.embed_dim);
    }
    if text.embed_cls && text.no_causal_mask {
        let hint = "a tower with CoCa's class token sees what is before a token only";
        return refuse("embed_cls and no_causal_mask", "true".to_owned(), hint);
    }
    let off = |value: &Value| value.is_null() || value == &Value::Bool(false);
    let mut others = text.others.iter();
    if let Some((key, value)) =
        others.find(|(key, value)| !NOT_COMPUTED.contains(&key.as_str()) && !off(value))
    {
        let hint = "OpenCLIP's own transformer";
        return refuse("text_cfg", format!("{key}: {value}"), hint);
    }
    let (read_out, padding, texts) = form(&text)?;
    if !["linear", "none"].contains(&&*text.proj_type) {
        return refuse("proj_type", text.proj_type, "linear or none");
    }
    let activation = match (config.quick_gelu, text.act_kwargs) {
        (true, _) => Activation::QuickGelu,
        (false, Some(how)) if how.approximate == "tanh" => Activation::GeluTanh,
        (false, Some(how)) if how.approximate != "none" => {
            return refuse("act_kwargs.approximate", how.approximate, "none or tanh");
        }
        (false, _) => Activation::Gelu,
    };
    Ok(TextConfig {
        vocabulary: text.vocab_size,
        width: text.width,
        layers: text.layers,
        heads: text.heads,
        context_length: text.context_length,
        projection: config.embed_dim,
        activation,
        layer_norm_eps: text.norm_kwargs.map_or(1e-5, |norm| norm.eps),
        read_out,
        padding,
        texts,
        begin: texts != TextForm::SigLip,
        class: text.embed_cls.then_some(ClassToken {
            shifted: (!text.correct_cls_mask).then_some(text.pad_id),
        }),
        encoder: None,
    })
}

/// Where a tower is read, what its texts are filled up with, and how they become tokens.
fn form(text: &OpenClipText) -> Result<(ReadOutPosition, Option<u32>, TextForm), TextConfigError> {
    let refuse = |key, value: String, hint| Err(TextConfigError::Unsupported { key, value, hint });
    let said = text.tokenizer_kwargs.as_ref();
    let clean = said.and_then(|said| said.clean.as_deref());
    let strip = said.is_some_and(|said| said.strip_sep_token);
    let canonical = match clean {
        Some("canonicalize") => true,
        None | Some("whitespace") => false,
        Some(other) => {
            let hint = "canonicalize or whitespace";
            return refuse("tokenizer_kwargs.clean", other.to_owned(), hint);
        }
    };
    let plain = match canonical {
        true => TextForm::Canonical,
        false => TextForm::Plain,
    };
    let (filled, pool) = (text.no_causal_mask, text.pool_type.as_str());
    Ok(match (filled, pool, strip) {
        (false, "argmax", false) => (ReadOutPosition::LargestId, None, plain),
        (false, "eos", false) => match text.eos_id {
            Some(id) => (ReadOutPosition::FirstOf(id), None, plain),
            None => {
                let hint = "an eos_id beside pool_type eos";
                return refuse("eos_id", "nothing".to_owned(), hint);
            }
        },
        (true, "argmax", false) => {
            let read_out = ReadOutPosition::LargestId;
            (read_out, Some(text.pad_id), TextForm::Filled)
        }
        (true, "last", true) => (ReadOutPosition::Last, Some(0), TextForm::Unended),
        (true, "last", false) => {
            let read_out = ReadOutPosition::Last;
            (read_out, Some(SIGLIP_PADDING), TextForm::SigLip)
        }
        (no_mask, pool, strip) => {
            return refuse(
                "no_causal_mask, pool_type and strip_sep_token",
                format!("{no_mask}, {pool} and {strip}"),
                "false and argmax or eos (CLIP, MetaCLIP 2), true and argmax (MobileCLIP), true \
                 and last (SigLIP, CLIPA)",
            );
        }
    })
}

/// An encoder of Hugging Face's library.
fn encoder(
    name: &str,
    text: &OpenClipText,
    projection: usize,
) -> Result<TextConfig, TextConfigError> {
    let refuse = |key, value: &str, hint| {
        Err(TextConfigError::Unsupported {
            key,
            value: value.to_owned(),
            hint,
        })
    };
    let bare = name.strip_prefix("FacebookAI/").unwrap_or(name);
    let known = [
        "roberta-base",
        "roberta-large",
        "xlm-roberta-base",
        "xlm-roberta-large",
    ];
    if !known.contains(&bare) {
        let hint = "RoBERTa's and XLM-R's encoders are read, and OpenCLIP's own transformer; \
                    MetaCLIP 2 and SigLIP 2 know as many languages";
        return refuse("hf_model_name", name, hint);
    }
    let mean = match text.hf_pooler_type.as_deref() {
        None | Some("mean_pooler") => true,
        Some("cls_last_hidden_state_pooler") => false,
        Some(other) => {
            let hint = "mean_pooler or cls_last_hidden_state_pooler";
            return refuse("hf_pooler_type", other, hint);
        }
    };
    Ok(TextConfig {
        context_length: text.context_length,
        ..TextConfig::encoder(
            projection,
            EncoderForm {
                first_position: 2,
                mean,
            },
        )
    })
}
