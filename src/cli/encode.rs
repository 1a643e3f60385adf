//! `tagstream encode`: print embeddings of images and texts.

use anyhow::Context;
use clap::Args;
use serde::Serialize;
use std::io::{BufWriter, Write};
use tagstream_core::config::{ObjectStoreConfig, Provider};
use tagstream_core::error::{Exit, usage};
use tagstream_image::decoders::Decoders;
use tagstream_model::OpenedModel;
use tagstream_model::session::EncoderSession;
use tagstream_model::text::ClipTextEncoder;

/// Arguments of `tagstream encode`.
#[derive(Debug, Args)]
pub(super) struct EncodeArgs {
    /// Model: bundle directory, folder with encoder.onnx and text tower, or registry-url[@version].
    #[arg(long)]
    pub model: String,
    /// Print a JSON line for each input: {"input", "kind", "embedding"}.
    #[arg(long)]
    pub json: bool,
    /// A text to embed; may be repeated.
    #[arg(long)]
    pub text: Vec<String>,
    /// Where images are encoded: cpu, cuda, tensorrt or auto.
    #[arg(long, default_value = "cpu", value_parser = parse_provider)]
    pub provider: Provider,
    /// Images to embed, or folders of them.
    #[arg(value_name = "IMAGE|DIR")]
    pub images: Vec<String>,
}

fn parse_provider(name: &str) -> Result<Provider, String> {
    match name {
        "cpu" => Ok(Provider::Cpu),
        "cuda" => Ok(Provider::Cuda),
        "tensorrt" => Ok(Provider::Tensorrt),
        "auto" => Ok(Provider::Auto),
        _ => Err("cpu, cuda, tensorrt or auto".to_owned()),
    }
}

/// One line of the output.
#[derive(Serialize)]
struct Line<'a> {
    input: &'a str,
    kind: &'static str,
    embedding: &'a [f32],
}

/// Images that go through the encoder at once.
const BATCH: usize = 8;

/// Runs the command: texts first, then images, each in the order given.
pub(super) fn run(args: EncodeArgs) -> anyhow::Result<Exit> {
    if args.text.is_empty() && args.images.is_empty() {
        return Err(usage("nothing to embed: give images or --text").into());
    }
    let model = super::open_model(&args.model, &ObjectStoreConfig::default())?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    if !args.text.is_empty() {
        let files = model.text().ok_or_else(|| {
            usage(format!(
                "{} has no text tower: it embeds images only",
                args.model
            ))
        })?;
        let encoder = ClipTextEncoder::open(&files)?;
        let rows = encoder.embed(&args.text, |_| ())?;
        for (text, row) in args.text.iter().zip(rows.chunks_exact(encoder.dim())) {
            print(&mut out, args.json, text, "text", row)?;
        }
    }
    if !args.images.is_empty() {
        encode_images(&args, &model, &mut out)?;
    }
    out.flush()?;
    Ok(Exit::Success)
}

fn encode_images(
    args: &EncodeArgs,
    model: &OpenedModel,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let mut session = EncoderSession::open(&model.encoder(), args.provider, threads)?;
    let preprocessing = model.preprocessing();
    let decoders = Decoders::default();
    let size = preprocessing.height * preprocessing.width * 3;
    let images = super::pictures::expand(&args.images)?;
    for images in images.chunks(BATCH) {
        let mut pixels = vec![0; images.len() * size];
        for (image, pixels) in images.iter().zip(pixels.chunks_exact_mut(size)) {
            let bytes = std::fs::read(image).with_context(|| format!("reading {image}"))?;
            decoders
                .decode_into(&bytes, preprocessing, pixels)
                .with_context(|| format!("decoding {image}"))?;
        }
        let encoded = session.encode(&pixels, images.len())?;
        for (i, image) in images.iter().enumerate() {
            let feature = encoded.global_of(i);
            let square: f64 = feature.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            let norm = square.sqrt().max(1e-12) as f32;
            let unit: Vec<f32> = feature.iter().map(|x| x / norm).collect();
            print(out, args.json, image, "image", &unit)?;
        }
    }
    Ok(())
}

fn print(
    out: &mut impl Write,
    json: bool,
    input: &str,
    kind: &'static str,
    embedding: &[f32],
) -> anyhow::Result<()> {
    if json {
        let line = Line {
            input,
            kind,
            embedding,
        };
        serde_json::to_writer(&mut *out, &line)?;
        writeln!(out)?;
    } else {
        let first: Vec<String> = embedding
            .iter()
            .take(6)
            .map(|x| format!("{x:.4}"))
            .collect();
        writeln!(
            out,
            "{kind}\t{input}\t[{}, ...] ({} numbers)",
            first.join(", "),
            embedding.len()
        )?;
    }
    Ok(())
}
