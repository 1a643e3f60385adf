//! The header of a safetensors file.

use super::{Failure, FileContent, TensorPlace};
use safetensors::tensor::Metadata;
use std::fs::File;
use std::io::Read;

/// The tensors of `file`, whose place among the files is `index`. Nothing is reserved that the
/// file's length does not bear out.
pub(super) fn read(file: &mut File, index: usize) -> Result<FileContent, Failure> {
    let size = file.metadata()?.len();
    let mut length = [0; 8];
    file.read_exact(&mut length)
        .map_err(|_| "it is shorter than a safetensors header".to_owned())?;
    let length = u64::from_le_bytes(length);
    if length > size.saturating_sub(8) {
        return Err(Failure::Format(
            "it is no safetensors file: its header is longer than the file".to_owned(),
        ));
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header)?;
    let metadata: Metadata = serde_json::from_slice(&header)
        .map_err(|error| format!("it is no safetensors file: {error}"))?;
    let data_start = 8 + length;
    if data_start.checked_add(metadata.data_len() as u64) != Some(size) {
        return Err(Failure::Format(
            "its length is not what its header says".to_owned(),
        ));
    }
    let tensors = metadata.tensors().into_iter().map(|(name, info)| {
        let place = TensorPlace {
            file: index,
            dtype: info.dtype,
            shape: info.shape.clone(),
            start: data_start + info.data_offsets.0 as u64,
            strides: None,
        };
        (name, place)
    });
    Ok(FileContent {
        tensors: tensors.collect(),
        script: None,
    })
}
