//! What a model argument means: a bundle directory, a folder with a ready-made encoder, or a
//! registry.

use super::bundle::{Bundle, BundleError, Dims, ENCODER_FILE, check_graph_files};
use super::onnx::parse;
use super::onnx::proto::tensor_shape_proto::dimension;
use super::onnx::proto::{ValueInfoProto, type_proto};
use super::registry::{Cache, Location, Registry, RegistryError};
use super::text::TextFiles;
use std::fs;
use std::path::{Path, PathBuf};
use tagstream_core::config::ObjectStoreConfig;
use tagstream_core::digest;
use tagstream_core::redact::redact_place;
use tagstream_image::preprocessing::{Filter, Fit, Preprocessing};

/// A folder that holds a ready-made `encoder.onnx` and its text tower: `encoder.onnx`,
/// `text_encoder.safetensors`, `config.json`, `tokenizer.json`. It can embed images and texts, and
/// be trained on; it cannot tag.
#[derive(Debug, Clone)]
pub struct EncoderFolder {
    root: PathBuf,
    dims: Dims,
    preprocessing: Preprocessing,
    encoder_hash: String,
}

/// What a model argument opened.
#[derive(Debug, Clone)]
pub enum OpenedModel {
    /// A bundle: it can do everything.
    Bundle(Box<Bundle>),
    /// Towers without a head.
    Encoder(EncoderFolder),
}

/// Why a model argument cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nothing of the kinds known is there.
    #[error(
        "`{0}` is no model: neither a bundle directory (bundle.json), nor a folder with \
         encoder.onnx, nor a registry \
         (registry.json, or an s3://, gs:// or az:// address)"
    )]
    Unknown(String),
    /// The bundle is not whole.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A file of an encoder folder is missing.
    #[error("{} lacks {missing}", .folder.display())]
    Missing {
        /// The folder.
        folder: PathBuf,
        /// The file.
        missing: &'static str,
    },
    /// An `encoder.onnx` does not keep the contract.
    #[error(
        "{} does not keep the encoder's contract (pixels uint8 [B,H,W,3] -> dense float [B,N,D], \
         global float [B,D]): \
         {flaw}", .path.display()
    )]
    Contract {
        /// The graph.
        path: PathBuf,
        /// What is wrong with it.
        flaw: String,
    },
    /// There is no head to tag with.
    #[error(
        "{} is an encoder without categories; make a bundle of it with `tagstream init \
         --clip`", .0.display()
    )]
    NoHead(PathBuf),
}

/// Opens a model argument: a bundle directory, a folder with `encoder.onnx` and text tower, or
/// `registry-url[@version]`, whose version is fetched to the local cache. `stores` holds the
/// options of object stores.
///
/// # Errors
/// [`OpenError`] says what was looked for, or what is wrong with what was found.
pub async fn open(spec: &str, stores: &ObjectStoreConfig) -> Result<OpenedModel, OpenError> {
    let path = Path::new(spec);
    if Bundle::is_at(path) {
        return Ok(OpenedModel::Bundle(Box::new(Bundle::open(path)?)));
    }
    if path.join(ENCODER_FILE).is_file() {
        return Ok(OpenedModel::Encoder(EncoderFolder::open(path)?));
    }
    if !Location::is_registry(spec) {
        return Err(OpenError::Unknown(redact_place(spec)));
    }
    let location = Location::parse(spec);
    let registry = Registry::open(&location.url, stores).await?;
    let version = registry.resolve(location.version).await?;
    let folder = registry
        .materialise(&version, &Cache::default_location())
        .await?;
    Ok(OpenedModel::Bundle(Box::new(Bundle::open(folder)?)))
}

impl OpenedModel {
    /// The bundle, for work that needs a head.
    ///
    /// # Errors
    /// [`OpenError::NoHead`] if this is an encoder alone.
    pub fn into_bundle(self) -> Result<Bundle, OpenError> {
        match self {
            Self::Bundle(bundle) => Ok(*bundle),
            Self::Encoder(folder) => Err(OpenError::NoHead(folder.root)),
        }
    }

    /// Path of `encoder.onnx`.
    pub fn encoder(&self) -> PathBuf {
        self.root().join(ENCODER_FILE)
    }

    /// SHA-256 (hex) of `encoder.onnx`.
    pub fn encoder_hash(&self) -> &str {
        match self {
            Self::Bundle(bundle) => bundle.encoder_hash(),
            Self::Encoder(folder) => &folder.encoder_hash,
        }
    }

    /// D and the grid.
    pub fn dims(&self) -> Dims {
        match self {
            Self::Bundle(bundle) => bundle.manifest().dims,
            Self::Encoder(folder) => folder.dims,
        }
    }

    /// How pixels are prepared.
    pub fn preprocessing(&self) -> &Preprocessing {
        match self {
            Self::Bundle(bundle) => &bundle.manifest().preprocessing,
            Self::Encoder(folder) => &folder.preprocessing,
        }
    }

    /// The text tower's files, if the model has one.
    pub fn text(&self) -> Option<TextFiles> {
        match self {
            Self::Bundle(bundle) => bundle.text_files(),
            Self::Encoder(folder) => Some(folder.text()),
        }
    }

    /// The model's directory.
    pub fn root(&self) -> &Path {
        match self {
            Self::Bundle(bundle) => bundle.root(),
            Self::Encoder(folder) => &folder.root,
        }
    }
}

impl EncoderFolder {
    /// Opens the folder: its files are there, and the graph's declared inputs and outputs keep the
    /// encoder's contract.
    ///
    /// # Errors
    /// [`OpenError::Missing`] or [`OpenError::Contract`].
    pub fn open(folder: &Path) -> Result<Self, OpenError> {
        let root = folder.to_path_buf();
        for missing in [ENCODER_FILE, WEIGHTS, CONFIG, TOKENIZER] {
            if !root.join(missing).is_file() {
                return Err(OpenError::Missing {
                    folder: root,
                    missing,
                });
            }
        }
        let path = root.join(ENCODER_FILE);
        let (dims, preprocessing) = read_contract(&path)?;
        Ok(Self {
            encoder_hash: digest::sha256_of_file(&path)
                .map_err(BundleError::io(&path))?
                .0,
            root,
            dims,
            preprocessing,
        })
    }

    /// The text tower's files.
    pub fn text(&self) -> TextFiles {
        TextFiles {
            weights: self.root.join(WEIGHTS),
            config: self.root.join(CONFIG),
            tokenizer: self.root.join(TOKENIZER),
        }
    }

    /// D and the grid.
    pub fn dims(&self) -> Dims {
        self.dims
    }

    /// How pixels are prepared: the sides that the graph declares, resized directly with bicubic
    /// interpolation.
    pub fn preprocessing(&self) -> &Preprocessing {
        &self.preprocessing
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Path of `encoder.onnx`.
    pub fn encoder(&self) -> PathBuf {
        self.root.join(ENCODER_FILE)
    }
}

const WEIGHTS: &str = "text_encoder.safetensors";
const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";

/// ONNX's numbers for the element types of the contract.
const FLOAT: i32 = 1;
const UINT8: i32 = 2;

/// Sizes from the graph's declared input and outputs.
fn read_contract(path: &Path) -> Result<(Dims, Preprocessing), OpenError> {
    let flaw = |flaw: String| OpenError::Contract {
        path: path.to_path_buf(),
        flaw,
    };
    let content = fs::read(path).map_err(|source| BundleError::Io {
        path: path.to_path_buf(),
        source,
    })?;
    let content = bytes::Bytes::from(content);
    check_graph_files(path, content.clone())?;
    let model = parse(content).map_err(|error| flaw(error.to_string()))?;
    let graph = model
        .graph
        .ok_or_else(|| flaw("it has no graph".to_owned()))?;
    let fixed = |values: &[ValueInfoProto], name: &str, element: i32, rank: usize| {
        let found = values.iter().find(|v| v.name.as_deref() == Some(name));
        let found = found.ok_or_else(|| flaw(format!("it has no `{name}`")))?;
        let dims = declared(found, element).filter(|dims| dims.len() == rank);
        dims.ok_or_else(|| flaw(format!("`{name}` has another element type or rank")))
    };
    let pixels = fixed(&graph.input, "pixels", UINT8, 4)?;
    let dense = fixed(&graph.output, "dense", FLOAT, 3)?;
    let global = fixed(&graph.output, "global", FLOAT, 2)?;
    let (
        &[_, Some(height), Some(width), Some(3)],
        &[_, Some(n), Some(d)],
        &[_, Some(width_of_global)],
    ) = (pixels.as_slice(), dense.as_slice(), global.as_slice())
    else {
        return Err(flaw(
            "only the batch axis may be open, and pixels have 3 channels".to_owned(),
        ));
    };
    if pixels[0].is_some() {
        return Err(flaw("its batch axis is not open".to_owned()));
    }
    if d != width_of_global {
        return Err(flaw(format!(
            "`dense` is {d} wide, `global` {width_of_global}"
        )));
    }
    // Locations lie as the pixels do: rows to columns as height to width.
    let rows = (1..=n).find(|rows| n.is_multiple_of(*rows) && rows * width == n / rows * height);
    let rows = rows.ok_or_else(|| {
        flaw(format!(
            "{n} locations make no grid of the shape of {height}x{width} pixels"
        ))
    })?;
    let dims = Dims {
        embedding: d,
        grid_height: rows,
        grid_width: n / rows,
    };
    let preprocessing = Preprocessing {
        height,
        width,
        fit: Fit::Squash,
        filter: Filter::Bicubic,
    };
    Ok((dims, preprocessing))
}

/// The declared dimensions (open ones are `None`) if the element type is this one.
fn declared(value: &ValueInfoProto, element: i32) -> Option<Vec<Option<usize>>> {
    let type_proto::Value::TensorType(tensor) = value.r#type.as_ref()?.value.as_ref()? else {
        return None;
    };
    if tensor.elem_type != Some(element) {
        return None;
    }
    let dims = tensor
        .shape
        .as_ref()?
        .dim
        .iter()
        .map(|dim| match dim.value {
            Some(dimension::Value::DimValue(size)) => usize::try_from(size).ok(),
            _ => None,
        });
    Some(dims.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::MANIFEST_FILE;
    use crate::onnx::{Dim, Element, GraphBuilder};

    type Shape = Vec<Dim>;

    fn folder(element: Element, pixels: Shape, dense: Shape, global: Shape) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let mut g = GraphBuilder::new("encoder");
        let x = g.input("pixels", element, &pixels);
        g.output(&x, "dense", Element::F32, &dense);
        g.output(&x, "global", Element::F32, &global);
        fs::write(folder.path().join(ENCODER_FILE), g.finish().unwrap()).unwrap();
        for name in [WEIGHTS, CONFIG, TOKENIZER] {
            fs::write(folder.path().join(name), b"").unwrap();
        }
        folder
    }

    fn batch(rest: &[usize]) -> Shape {
        let rest = rest.iter().map(|&size| Dim::Fixed(size));
        std::iter::once(Dim::Dynamic("b")).chain(rest).collect()
    }

    async fn open_folder(folder: &tempfile::TempDir) -> Result<OpenedModel, OpenError> {
        let spec = folder.path().to_str().unwrap();
        open(spec, &ObjectStoreConfig::default()).await
    }

    #[tokio::test]
    async fn an_encoder_folder_tells_its_sizes() {
        let folder = folder(
            Element::U8,
            batch(&[32, 64, 3]),
            batch(&[8, 6]),
            batch(&[6]),
        );
        let model = open_folder(&folder).await.unwrap();
        let dims = model.dims();
        assert_eq!(
            (dims.embedding, dims.grid_height, dims.grid_width),
            (6, 2, 4)
        );
        assert_eq!(
            (model.preprocessing().height, model.preprocessing().width),
            (32, 64)
        );
        assert_eq!(model.encoder_hash().len(), 64);
        assert!(model.text().is_some());
        assert!(matches!(model.into_bundle(), Err(OpenError::NoHead(_))));
    }

    #[tokio::test]
    async fn an_encoder_that_breaks_the_contract_is_refused() {
        let fixed = |sizes: &[usize]| {
            sizes
                .iter()
                .map(|&size| Dim::Fixed(size))
                .collect::<Shape>()
        };
        let u8 = Element::U8;
        let cases = [
            (
                folder(Element::F32, batch(&[8, 8, 3]), batch(&[4, 6]), batch(&[6])),
                "`pixels`",
            ),
            (
                folder(u8, batch(&[3, 8]), batch(&[4, 6]), batch(&[6])),
                "`pixels`",
            ),
            (
                folder(u8, batch(&[8, 8, 4]), batch(&[4, 6]), batch(&[6])),
                "3 channels",
            ),
            (
                folder(u8, fixed(&[1, 8, 8, 3]), batch(&[4, 6]), batch(&[6])),
                "batch axis",
            ),
            (
                folder(u8, batch(&[8, 8, 3]), batch(&[4, 6]), batch(&[7])),
                "6 wide",
            ),
            (
                folder(u8, batch(&[8, 8, 3]), batch(&[5, 6]), batch(&[6])),
                "5 locations",
            ),
        ];
        for (folder, word) in cases {
            let message = open_folder(&folder).await.unwrap_err().to_string();
            assert!(message.contains(word), "{word}: {message}");
        }
        let good = folder(u8, batch(&[8, 8, 3]), batch(&[4, 6]), batch(&[6]));
        fs::remove_file(good.path().join(TOKENIZER)).unwrap();
        let message = open_folder(&good).await.unwrap_err().to_string();
        assert!(message.contains("tokenizer.json"), "{message}");
    }

    #[tokio::test]
    async fn what_is_no_model_is_named() {
        let empty = tempfile::tempdir().unwrap();
        assert!(matches!(
            open_folder(&empty).await,
            Err(OpenError::Unknown(_))
        ));
        // A broken bundle is a broken bundle, not something unknown.
        fs::write(empty.path().join(MANIFEST_FILE), b"{}").unwrap();
        assert!(matches!(
            open_folder(&empty).await,
            Err(OpenError::Bundle(_))
        ));
    }

    #[tokio::test]
    async fn a_graph_may_not_name_files_outside() {
        let folder = folder(Element::U8, batch(&[8, 8, 3]), batch(&[4, 6]), batch(&[6]));
        let mut g = GraphBuilder::new("encoder");
        let place = crate::onnx::ExternalData {
            location: "../secret".to_owned(),
            offset: 0,
            length: 4,
        };
        let w = g.external("w", &[1], Element::F32, &place);
        g.output(&w, "y", Element::F32, &[Dim::Fixed(1)]);
        fs::write(folder.path().join(ENCODER_FILE), g.finish().unwrap()).unwrap();
        let result = open_folder(&folder).await;
        assert!(
            matches!(result, Err(OpenError::Bundle(BundleError::Outside { .. }))),
            "{result:?}"
        );
    }
}
