//! Tensors by name from files of weights, read one at a time: a whole CLIP is never in memory.
//!
//! Two formats, told apart by their content: safetensors, and the zip archives that PyTorch writes
//! (`.bin`, `.pt`, `.pth`), whose pickles are read without running anything of them. A checkpoint
//! may be one file or several.

mod pickle;
mod safetensors_file;
mod torch_archive;

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Why weights cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The file cannot be read.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is damaged or of another format.
    #[error("{} cannot be read as weights: {reason}", .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A tensor is not there.
    #[error("{} lacks the tensor `{name}`", .path.display())]
    Missing {
        /// The file, or the folder of several.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A tensor has a shape that the configuration contradicts.
    #[error(
        "`{name}` in {} has shape {found:?}, the configuration needs {expected:?}",
        .path.display()
    )]
    Shape {
        /// The file, or the folder of several.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape it should have.
        expected: Vec<usize>,
    },
    /// A tensor's numbers are of a type that cannot be used.
    #[error("`{name}` in {} is {dtype:?}; F64, F32, F16 and BF16 are read", .path.display())]
    Type {
        /// The file, or the folder of several.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        dtype: Dtype,
    },
    /// A tensor is in two files.
    #[error("`{name}` is in {} and in {}: these are not the pieces of one checkpoint",
        .first.display(), .second.display())]
    Twice {
        /// The tensor.
        name: String,
        /// The one file.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// The weights are an adapter's, or have one inside.
    #[error(
        "{} holds an adapter's tensor `{name}`: merge the adapter into its base model \
         (merge_and_unload of peft) and save that", .path.display()
    )]
    Adapter {
        /// The file, or the folder of several.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
}

/// Where one tensor lies.
#[derive(Debug, Clone, PartialEq)]
struct TensorPlace {
    /// Index of the file.
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    /// The byte of the file at which its first number lies.
    start: u64,
    /// Numbers between neighbours along each axis; `None` is row-major without gaps.
    strides: Option<Vec<usize>>,
}

/// The tensors of one file, by name, and what else it says.
#[derive(Debug, Default)]
struct FileContent {
    tensors: Vec<(String, TensorPlace)>,
    /// Attributes of the outermost module, if the file is a TorchScript program.
    script: Option<Vec<String>>,
}

/// An open checkpoint: one file of weights, or several that make one together.
#[derive(Debug)]
pub struct WeightFiles {
    files: Vec<(PathBuf, RefCell<File>)>,
    tensors: BTreeMap<String, TensorPlace>,
    script: Option<Vec<String>>,
}

/// What training wraps around a model leaves before all of its names.
const WRAPPERS: [&str; 2] = ["module.", "_orig_mod."];

impl WeightFiles {
    /// Opens the files and reads which tensors they hold.
    ///
    /// # Errors
    /// [`WeightsError`] names the file or tensor.
    pub fn open<P: AsRef<Path>>(paths: &[P]) -> Result<Self, WeightsError> {
        let mut all = Self {
            files: Vec::new(),
            tensors: BTreeMap::new(),
            script: None,
        };
        for (index, path) in paths.iter().enumerate() {
            let path = path.as_ref().to_path_buf();
            let io = |source| WeightsError::Io {
                path: path.clone(),
                source,
            };
            let mut file = File::open(&path).map_err(io)?;
            let content = read_index(&mut file, index).map_err(|failure| match failure {
                Failure::Io(source) => io(source),
                Failure::Format(reason) => WeightsError::Format {
                    path: path.clone(),
                    reason,
                },
            })?;
            all.files.push((path, RefCell::new(file)));
            all.script = content.script;
            for (name, place) in content.tensors {
                if let Some(other) = all.tensors.get(&name) {
                    return Err(WeightsError::Twice {
                        first: all.files[other.file].0.clone(),
                        second: all.files[index].0.clone(),
                        name,
                    });
                }
                all.tensors.insert(name, place);
            }
        }
        all.unwrap_names();
        all.refuse_adapters()?;
        Ok(all)
    }

    fn unwrap_names(&mut self) {
        while let Some(prefix) = WRAPPERS.iter().find(|prefix| {
            !self.tensors.is_empty() && self.tensors.keys().all(|name| name.starts_with(**prefix))
        }) {
            self.tensors = std::mem::take(&mut self.tensors)
                .into_iter()
                .map(|(name, place)| (name[prefix.len()..].to_owned(), place))
                .collect();
        }
    }

    fn refuse_adapters(&self) -> Result<(), WeightsError> {
        let marks = ["lora_", "base_layer.", "hada_w", "oft_"];
        let adapter = |name: &&str| marks.iter().any(|mark| name.contains(mark));
        match self.names().find(adapter) {
            None => Ok(()),
            Some(name) => Err(WeightsError::Adapter {
                path: self.path().to_path_buf(),
                name: name.to_owned(),
            }),
        }
    }

    /// Where the weights lie: the file, or the folder of several.
    pub fn path(&self) -> &Path {
        match self.files.as_slice() {
            [(path, _)] => path,
            [(path, _), ..] => path.parent().unwrap_or(path),
            [] => Path::new(""),
        }
    }

    /// Whether this is one of the TorchScript programs that OpenAI published, which name their
    /// sizes beside their tensors.
    pub fn is_open_ai_script(&self) -> bool {
        let marks = ["input_resolution", "context_length", "vocab_size"];
        let has = |names: &Vec<String>, mark| names.iter().any(|name| name == mark);
        self.script
            .as_ref()
            .is_some_and(|names| marks.iter().all(|mark| has(names, mark)))
    }

    /// Whether a tensor of this name is there.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of a tensor.
    ///
    /// # Errors
    /// If there is no such tensor.
    pub fn shape(&self, name: &str) -> Result<&[usize], WeightsError> {
        Ok(&self.place(name)?.shape)
    }

    /// A tensor of this shape, as 32-bit floats, row-major.
    ///
    /// # Errors
    /// If it is missing, or of another shape or type.
    pub fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightsError> {
        let found = self.shape(name)?;
        if found != shape {
            return Err(self.wrong_shape(name, found, shape));
        }
        self.read_any(name)
    }

    /// The one number of a tensor with one element, whatever its shape; `None` if there is no such
    /// tensor.
    ///
    /// # Errors
    /// If it has more numbers, or of another type.
    pub fn read_number(&self, name: &str) -> Result<Option<f32>, WeightsError> {
        if !self.contains(name) {
            return Ok(None);
        }
        let data = self.read_any(name)?;
        match data.as_slice() {
            [number] => Ok(Some(*number)),
            _ => Err(self.wrong_shape(name, self.shape(name)?, &[1])),
        }
    }

    /// The tensors whose names `keep` takes, as the content of a safetensors file, in the types
    /// they have here.
    ///
    /// # Errors
    /// If one of them cannot be read.
    pub fn subset(&self, keep: impl Fn(&str) -> bool) -> Result<Vec<u8>, WeightsError> {
        let format = |error: safetensors::SafeTensorError| WeightsError::Format {
            path: self.path().to_path_buf(),
            reason: error.to_string(),
        };
        let kept = self.raw(keep)?;
        let views = kept
            .iter()
            .map(|tensor| {
                let shape = tensor.shape.to_vec();
                let view = TensorView::new(tensor.dtype, shape, &tensor.bytes).map_err(format)?;
                Ok((tensor.name, view))
            })
            .collect::<Result<Vec<_>, WeightsError>>()?;
        safetensors::serialize(views, None).map_err(format)
    }

    /// The tensors whose names `keep` takes, as they lie: row-major, little-endian.
    ///
    /// # Errors
    /// If one of them cannot be read.
    pub fn raw(&self, keep: impl Fn(&str) -> bool) -> Result<Vec<RawTensor<'_>>, WeightsError> {
        let kept = self.tensors.iter().filter(|(name, _)| keep(name));
        kept.map(|(name, place)| {
            Ok(RawTensor {
                name,
                dtype: place.dtype,
                shape: &place.shape,
                bytes: self.read_raw(place)?,
            })
        })
        .collect()
    }

    fn wrong_shape(&self, name: &str, found: &[usize], expected: &[usize]) -> WeightsError {
        WeightsError::Shape {
            path: self.path().to_path_buf(),
            name: name.to_owned(),
            found: found.to_vec(),
            expected: expected.to_vec(),
        }
    }

    fn read_raw(&self, place: &TensorPlace) -> Result<Vec<u8>, WeightsError> {
        let (path, file) = &self.files[place.file];
        let size = place.dtype.bitsize() / 8;
        // Both were held against the file's length when it was opened.
        let mut raw = vec![0; place.span() * size];
        let mut file = file.borrow_mut();
        file.seek(SeekFrom::Start(place.start))
            .and_then(|_| file.read_exact(&mut raw))
            .map_err(|source| WeightsError::Io {
                path: path.clone(),
                source,
            })?;
        Ok(match &place.strides {
            None => raw,
            Some(strides) => row_major(&raw, size, &place.shape, strides),
        })
    }

    fn read_any(&self, name: &str) -> Result<Vec<f32>, WeightsError> {
        let place = self.place(name)?;
        let raw = self.read_raw(place)?;
        floats(place.dtype, &raw).ok_or_else(|| WeightsError::Type {
            path: self.path().to_path_buf(),
            name: name.to_owned(),
            dtype: place.dtype,
        })
    }

    fn place(&self, name: &str) -> Result<&TensorPlace, WeightsError> {
        self.tensors.get(name).ok_or_else(|| WeightsError::Missing {
            path: self.path().to_path_buf(),
            name: name.to_owned(),
        })
    }
}

/// A tensor as its file has it.
#[derive(Debug, Clone, PartialEq)]
pub struct RawTensor<'a> {
    /// As the file has it, with its prefix.
    pub name: &'a str,
    /// The type of its numbers.
    pub dtype: Dtype,
    /// Lengths of the axes, outermost first.
    pub shape: &'a [usize],
    /// The numbers, row-major, little-endian.
    pub bytes: Vec<u8>,
}

impl TensorPlace {
    /// From the first number to the last, in numbers.
    fn span(&self) -> usize {
        match &self.strides {
            // The other sides may be anything then.
            _ if self.shape.contains(&0) => 0,
            None => self.shape.iter().product(),
            Some(strides) => {
                let last = self.shape.iter().zip(strides);
                1 + last
                    .map(|(size, stride)| (size - 1) * stride)
                    .sum::<usize>()
            }
        }
    }
}

/// The numbers of `raw`, which lie `strides` apart, in the order of their indices.
fn row_major(raw: &[u8], size: usize, shape: &[usize], strides: &[usize]) -> Vec<u8> {
    let mut index = vec![0; shape.len()];
    let count: usize = shape.iter().product();
    let mut out = Vec::with_capacity(count * size);
    for _ in 0..count {
        let at: usize = index.iter().zip(strides).map(|(i, s)| i * s).sum();
        out.extend_from_slice(&raw[at * size..(at + 1) * size]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    out
}

/// Little-endian numbers of this type in 32 bit; `None` if they are no floats.
fn floats(dtype: Dtype, raw: &[u8]) -> Option<Vec<f32>> {
    // The chunks have exactly the length that each array needs.
    Some(match dtype {
        Dtype::F32 => raw
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes")))
            .collect(),
        Dtype::F16 => raw
            .chunks_exact(2)
            .map(|b| f16::from_le_bytes(b.try_into().expect("2 bytes")).to_f32())
            .collect(),
        Dtype::BF16 => raw
            .chunks_exact(2)
            .map(|b| bf16::from_le_bytes(b.try_into().expect("2 bytes")).to_f32())
            .collect(),
        Dtype::F64 => raw
            .chunks_exact(8)
            .map(|b| f64::from_le_bytes(b.try_into().expect("8 bytes")) as f32)
            .collect(),
        _ => return None,
    })
}

/// Why a file's tensors cannot be listed.
enum Failure {
    Io(io::Error),
    Format(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<String> for Failure {
    fn from(reason: String) -> Self {
        Self::Format(reason)
    }
}

/// The tensors of a file, `index` being its place among the files.
fn read_index(file: &mut File, index: usize) -> Result<FileContent, Failure> {
    let mut first = [0; 2];
    let length = file.read(&mut first)?;
    file.rewind()?;
    match &first[..length] {
        b"PK" => torch_archive::read(file, index),
        // A pickle's first instruction names its protocol.
        [0x80, 1..=5] => Err(Failure::Format(
            "it is a bare pickle, as PyTorch before 1.6 wrote it; load it there and save it \
             again, best as safetensors"
                .to_owned(),
        )),
        _ => safetensors_file::read(file, index),
    }
}

#[cfg(test)]
mod tests;
