//! Tensors by name from a safetensors file, read one at a time: a whole CLIP is never in memory.

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo, TensorView};
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
    #[error("{} is no safetensors file: {reason}", .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A tensor is not there.
    #[error("{} lacks the tensor `{name}`", .path.display())]
    Missing {
        /// The file.
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
        /// The file.
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
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        dtype: Dtype,
    },
}

/// An open safetensors file.
#[derive(Debug)]
pub struct WeightFile {
    path: PathBuf,
    file: RefCell<File>,
    tensors: BTreeMap<String, TensorInfo>,
    data_start: u64,
}

impl WeightFile {
    /// Opens the file and reads its header.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, WeightsError> {
        let path = path.as_ref().to_path_buf();
        let io = |source| WeightsError::Io {
            path: path.clone(),
            source,
        };
        let format = |reason: String| WeightsError::Format {
            path: path.clone(),
            reason,
        };
        let mut file = File::open(&path).map_err(io)?;
        let size = file.metadata().map_err(io)?.len();
        let mut length = [0; 8];
        file.read_exact(&mut length)
            .map_err(|_| format("it is shorter than a header".to_owned()))?;
        let length = u64::from_le_bytes(length);
        if length > size.saturating_sub(8) {
            return Err(format("its header is longer than the file".to_owned()));
        }
        let mut header = vec![0; length as usize];
        file.read_exact(&mut header).map_err(io)?;
        let metadata: Metadata =
            serde_json::from_slice(&header).map_err(|error| format(error.to_string()))?;
        let data_start = 8 + length;
        if data_start.checked_add(metadata.data_len() as u64) != Some(size) {
            return Err(format("its length is not what its header says".to_owned()));
        }
        let tensors = metadata
            .tensors()
            .into_iter()
            .map(|(name, info)| (name, info.clone()))
            .collect();
        Ok(Self {
            path,
            file: RefCell::new(file),
            tensors,
            data_start,
        })
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
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
    pub fn shape(&self, name: &str) -> Result<&[usize], WeightsError> {
        Ok(&self.info(name)?.shape)
    }

    /// A tensor of this shape, as 32-bit floats, row-major.
    pub fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightsError> {
        let found = self.shape(name)?;
        if found != shape {
            return Err(WeightsError::Shape {
                path: self.path.clone(),
                name: name.to_owned(),
                found: found.to_vec(),
                expected: shape.to_vec(),
            });
        }
        self.read_any(name)
    }

    /// The one number of a tensor with one element, whatever its shape; `None` if there is no such
    /// tensor.
    pub fn read_number(&self, name: &str) -> Result<Option<f32>, WeightsError> {
        if !self.contains(name) {
            return Ok(None);
        }
        let data = self.read_any(name)?;
        match data.as_slice() {
            [number] => Ok(Some(*number)),
            _ => Err(WeightsError::Shape {
                path: self.path.clone(),
                name: name.to_owned(),
                found: self.shape(name)?.to_vec(),
                expected: vec![1],
            }),
        }
    }

    /// The tensors whose names `keep` takes, as the content of another safetensors file, in the
    /// types they have here.
    pub fn subset(&self, keep: impl Fn(&str) -> bool) -> Result<Vec<u8>, WeightsError> {
        let format = |error: safetensors::SafeTensorError| WeightsError::Format {
            path: self.path.clone(),
            reason: error.to_string(),
        };
        let kept: Vec<(&str, &TensorInfo, Vec<u8>)> = self
            .tensors
            .iter()
            .filter(|(name, _)| keep(name))
            .map(|(name, info)| Ok((name.as_str(), info, self.read_raw(info)?)))
            .collect::<Result<_, WeightsError>>()?;
        let views = kept
            .iter()
            .map(|(name, info, raw)| {
                Ok((
                    *name,
                    TensorView::new(info.dtype, info.shape.clone(), raw).map_err(format)?,
                ))
            })
            .collect::<Result<Vec<_>, WeightsError>>()?;
        safetensors::serialize(views, None).map_err(format)
    }

    fn read_raw(&self, info: &TensorInfo) -> Result<Vec<u8>, WeightsError> {
        let (from, to) = info.data_offsets;
        let mut raw = vec![0; to - from];
        let mut file = self.file.borrow_mut();
        file.seek(SeekFrom::Start(self.data_start + from as u64))
            .and_then(|_| file.read_exact(&mut raw))
            .map_err(|source| WeightsError::Io {
                path: self.path.clone(),
                source,
            })?;
        Ok(raw)
    }

    fn read_any(&self, name: &str) -> Result<Vec<f32>, WeightsError> {
        let info = self.info(name)?;
        let raw = self.read_raw(info)?;
        // The chunks below have exactly the length that each array needs.
        Ok(match info.dtype {
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
            dtype => {
                return Err(WeightsError::Type {
                    path: self.path.clone(),
                    name: name.to_owned(),
                    dtype,
                });
            }
        })
    }

    fn info(&self, name: &str) -> Result<&TensorInfo, WeightsError> {
        self.tensors.get(name).ok_or_else(|| WeightsError::Missing {
            path: self.path.clone(),
            name: name.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(dtype: Dtype, raw: &[u8]) -> Vec<u8> {
        let shape = vec![raw.len() * 8 / dtype.bitsize()];
        let view = TensorView::new(dtype, shape, raw).unwrap();
        safetensors::serialize([("x", view)], None).unwrap()
    }

    fn open(content: &[u8]) -> Result<WeightFile, WeightsError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        std::fs::write(&path, content).unwrap();
        WeightFile::open(path)
    }

    #[test]
    fn every_float_type_is_read() {
        let numbers = [1.5f32, -0.25];
        let raw =
            |f: &dyn Fn(f32) -> Vec<u8>| numbers.iter().flat_map(|&x| f(x)).collect::<Vec<u8>>();
        for (dtype, raw) in [
            (Dtype::F32, raw(&|x| x.to_le_bytes().to_vec())),
            (Dtype::F64, raw(&|x| f64::from(x).to_le_bytes().to_vec())),
            (
                Dtype::F16,
                raw(&|x| f16::from_f32(x).to_le_bytes().to_vec()),
            ),
            (
                Dtype::BF16,
                raw(&|x| bf16::from_f32(x).to_le_bytes().to_vec()),
            ),
        ] {
            assert_eq!(
                open(&file(dtype, &raw)).unwrap().read("x", &[2]).unwrap(),
                numbers
            );
        }
        let integers = open(&file(Dtype::I64, &[0; 16])).unwrap();
        assert!(matches!(
            integers.read("x", &[2]),
            Err(WeightsError::Type { .. })
        ));
    }

    #[test]
    fn sizes_that_lie_are_refused_before_anything_is_reserved() {
        let with_header = |length: u64, header: &str| {
            let mut file = length.to_le_bytes().to_vec();
            file.extend_from_slice(header.as_bytes());
            file
        };
        let header = |shape: &str, end: u64| {
            format!(r#"{{"x":{{"dtype":"F32","shape":{shape},"data_offsets":[0,{end}]}}}}"#)
        };
        let claims = [
            header("[4611686018427387904]", u64::MAX),
            header("[4611686018427387903]", u64::MAX - 3),
            header("[1048576,1048576]", 1 << 42),
            header("[2]", 4),
        ];
        let lies = claims.iter().map(|h| with_header(h.len() as u64, h));
        let lengths = [u64::MAX, u64::MAX - 7, 1 << 40].map(|n| with_header(n, "{}"));
        for bad in lies.chain(lengths) {
            assert!(matches!(open(&bad), Err(WeightsError::Format { .. })));
        }
    }

    #[test]
    fn flaws_are_named() {
        let good = file(Dtype::F32, &[0; 8]);
        let weights = open(&good).unwrap();
        assert!(matches!(
            weights.read("x", &[3]),
            Err(WeightsError::Shape { .. })
        ));
        assert!(matches!(
            weights.read("y", &[2]),
            Err(WeightsError::Missing { .. })
        ));
        assert_eq!(weights.read_number("y").unwrap(), None);
        assert!(weights.read_number("x").is_err());
        for bad in [
            &good[..good.len() - 1],
            &good[..20],
            &good[..4],
            b"PK\x03\x04 a zip, as PyTorch writes",
        ] {
            assert!(
                matches!(open(bad), Err(WeightsError::Format { .. })),
                "{bad:?}"
            );
        }
        let absent = tempfile::tempdir().unwrap().path().join("absent");
        assert!(matches!(
            WeightFile::open(absent),
            Err(WeightsError::Io { .. })
        ));
    }
}
