//! What a training needs to go on after a kill: one safetensors file, written aside and
//! renamed.

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use tagstream_core::storage::atomic;

/// Why a checkpoint could not be written or used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file system refused.
    #[error("checkpoint {path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// Its reason.
        source: std::io::Error,
    },
    /// The file is not a checkpoint.
    #[error("checkpoint {path} cannot be read: {reason}; delete it to start again")]
    Malformed {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// The file belongs to another run.
    #[error(
        "checkpoint {path} belongs to a run with other data, settings or seed; delete it to start \
         again"
    )]
    OtherRun {
        /// The file.
        path: String,
    },
}

/// State at the end of an epoch.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// What identifies the training: a hash of data, settings and seed.
    pub identity: String,
    /// Epochs finished.
    pub epochs: usize,
    /// Optimizer steps made.
    pub steps: usize,
    /// Tensors of the optimizer: name, shape, values.
    pub tensors: Vec<(String, Vec<usize>, Vec<f32>)>,
    /// Other state, by name.
    pub numbers: BTreeMap<String, Vec<f64>>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    run: String,
    epochs: usize,
    steps: usize,
}

const KEY: &str = "tagstream.checkpoint";
const NUMBERS: &str = "state.";

impl Checkpoint {
    /// Writes the file whole or not at all.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), CheckpointError> {
        let io = |source| CheckpointError::Io {
            path: path.display().to_string(),
            source,
        };
        let header = Header {
            run: self.identity.clone(),
            epochs: self.epochs,
            steps: self.steps,
        };
        let header = serde_json::to_string(&header).map_err(|e| io(e.into()))?;
        let floats: Vec<(String, Vec<usize>, Vec<u8>)> = self
            .tensors
            .iter()
            .map(|(name, shape, values)| {
                (
                    name.clone(),
                    shape.clone(),
                    values.iter().flat_map(|x| x.to_le_bytes()).collect(),
                )
            })
            .collect();
        let doubles: Vec<(String, Vec<usize>, Vec<u8>)> = self
            .numbers
            .iter()
            .map(|(name, values)| {
                let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
                (format!("{NUMBERS}{name}"), vec![values.len()], bytes)
            })
            .collect();
        let all = floats
            .iter()
            .map(|t| (Dtype::F32, t))
            .chain(doubles.iter().map(|t| (Dtype::F64, t)));
        let views = all
            .map(|(dtype, (name, shape, bytes))| {
                Ok((name.as_str(), TensorView::new(dtype, shape.clone(), bytes)?))
            })
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
            .and_then(|views| {
                safetensors::serialize(views, Some(HashMap::from([(KEY.to_owned(), header)])))
            })
            .map_err(|e| io(std::io::Error::other(e)))?;
        let folder = path
            .parent()
            .filter(|p| !p.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(io)?;
        atomic::write_file(path, &views).map_err(io)
    }

    /// Reads the checkpoint of the training `identity`, if there is one.
    ///
    /// # Errors
    /// If the file is damaged or belongs to another run: what to do about that is the user's
    /// decision.
    pub fn read(path: &Path, identity: &str) -> Result<Option<Self>, CheckpointError> {
        let content = match std::fs::read(path) {
            Ok(content) => content,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(CheckpointError::Io {
                    path: path.display().to_string(),
                    source,
                });
            }
        };
        let malformed = |reason: String| CheckpointError::Malformed {
            path: path.display().to_string(),
            reason,
        };
        let (_, metadata) =
            SafeTensors::read_metadata(&content).map_err(|e| malformed(e.to_string()))?;
        let header = metadata
            .metadata()
            .as_ref()
            .and_then(|m| m.get(KEY))
            .ok_or_else(|| malformed(format!("no `{KEY}` in its header")))?;
        let header: Header = serde_json::from_str(header).map_err(|e| malformed(e.to_string()))?;
        if header.run != identity {
            return Err(CheckpointError::OtherRun {
                path: path.display().to_string(),
            });
        }
        let file = SafeTensors::deserialize(&content).map_err(|e| malformed(e.to_string()))?;
        let mut checkpoint = Self {
            identity: header.run,
            epochs: header.epochs,
            steps: header.steps,
            tensors: Vec::new(),
            numbers: BTreeMap::new(),
        };
        for (name, view) in file.iter() {
            match (view.dtype(), name.strip_prefix(NUMBERS)) {
                (Dtype::F64, Some(name)) => {
                    let values = view
                        .data()
                        .as_chunks::<8>()
                        .0
                        .iter()
                        .map(|b| f64::from_le_bytes(*b));
                    checkpoint.numbers.insert(name.to_owned(), values.collect());
                }
                (Dtype::F32, None) => {
                    let values = view
                        .data()
                        .as_chunks::<4>()
                        .0
                        .iter()
                        .map(|b| f32::from_le_bytes(*b));
                    checkpoint.tensors.push((
                        name.to_owned(),
                        view.shape().to_vec(),
                        values.collect(),
                    ));
                }
                _ => return Err(malformed(format!("`{name}` is not expected in it"))),
            }
        }
        checkpoint.tensors.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(Some(checkpoint))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint() -> Checkpoint {
        Checkpoint {
            identity: "abc".into(),
            epochs: 3,
            steps: 12,
            tensors: vec![("live.x".into(), vec![1, 2], vec![0.1, -3.0])],
            numbers: BTreeMap::from([("prototypes".into(), vec![0.1, f64::MIN_POSITIVE])]),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run").join("checkpoint.safetensors");
        assert_eq!(Checkpoint::read(&path, "abc").unwrap(), None);
        checkpoint().write(&path).unwrap();
        assert_eq!(Checkpoint::read(&path, "abc").unwrap(), Some(checkpoint()));
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1
        );
    }

    #[test]
    fn a_checkpoint_of_another_run_or_a_damaged_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.safetensors");
        checkpoint().write(&path).unwrap();
        assert!(matches!(
            Checkpoint::read(&path, "abd"),
            Err(CheckpointError::OtherRun { .. })
        ));
        let content = std::fs::read(&path).unwrap();
        std::fs::write(&path, &content[..content.len() / 2]).unwrap();
        assert!(matches!(
            Checkpoint::read(&path, "abc"),
            Err(CheckpointError::Malformed { .. })
        ));
    }
}
