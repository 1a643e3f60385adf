//! `head.safetensors` and `head.onnx`: the head on disk.

use super::{
    Attention, ExportedHead, GlobalBranch, GraphOutputs, HeadError, MemoryBranch, QueryBranch,
    ReadOut, RegionForm, RegionalBranch, ValueOutput, WeightStorage, WordHistogram,
};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// Names of tensors that only training reads begin like this; the rest is the exported head's.
pub const TRAINABLE_PREFIX: &str = "trainable.";

/// The file's name inside a bundle, which `head.onnx` refers to.
const LOCATION: &str = "head.safetensors";

/// The header's metadata key. One key only: the format keeps them in a hash map, whose order would
/// not repeat.
const METADATA_KEY: &str = "tagstream.head";

/// Version of the tensors' names and meaning.
const LAYOUT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    layout: u32,
    heads: usize,
    region: RegionForm,
}

/// A float32 tensor with its name.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedTensor {
    /// Name in the file.
    pub name: String,
    /// Lengths of the axes, outermost first.
    pub shape: Vec<usize>,
    /// Row-major content.
    pub data: Vec<f32>,
}

/// The two files of a head, ready to be put beside each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadFiles {
    /// Content of `head.onnx`, whose weights are external initializers in `head.safetensors`.
    pub onnx: Vec<u8>,
    /// Content of `head.safetensors`.
    pub safetensors: Vec<u8>,
}

impl ExportedHead {
    /// The bundle's two files. `trainable` is kept in `head.safetensors` for the next training run;
    /// its names must begin with [`TRAINABLE_PREFIX`]. `positions` is N.
    pub fn to_files(
        &self,
        positions: Option<usize>,
        trainable: &[NamedTensor],
    ) -> Result<HeadFiles, HeadError> {
        let safetensors = self.to_safetensors(trainable)?;
        let onnx = self.to_onnx(
            &GraphOutputs::Full,
            positions,
            &WeightStorage::beside(LOCATION, &safetensors)?,
        )?;
        Ok(HeadFiles { onnx, safetensors })
    }

    /// The content of `head.safetensors`; same head, same bytes.
    pub fn to_safetensors(&self, trainable: &[NamedTensor]) -> Result<Vec<u8>, HeadError> {
        self.check()?;
        let mut all: BTreeMap<&str, (&[usize], Vec<u8>)> = BTreeMap::new();
        let tensors = self.tensors();
        for (name, shape, data) in &tensors {
            all.insert(name, (shape, bytes(data)));
        }
        for tensor in trainable {
            if !tensor.name.starts_with(TRAINABLE_PREFIX) {
                return Err(HeadError::Format(format!(
                    "the name of the trainable tensor `{}` does not begin with \
                     `{TRAINABLE_PREFIX}`",
                    tensor.name
                )));
            }
            let content = (tensor.shape.as_slice(), bytes(&tensor.data));
            if all.insert(&tensor.name, content).is_some() {
                return Err(HeadError::Format(format!(
                    "`{}` is there twice",
                    tensor.name
                )));
            }
        }
        let header = Header {
            layout: LAYOUT,
            heads: self.heads,
            region: self.region_form,
        };
        let header = serde_json::to_string(&header).map_err(format_error)?;
        let views: Vec<(&str, TensorView)> = all
            .iter()
            .map(|(name, (shape, data))| {
                let view = TensorView::new(Dtype::F32, shape.to_vec(), data);
                Ok((
                    *name,
                    view.map_err(|e| HeadError::Format(format!("`{name}`: {e}")))?,
                ))
            })
            .collect::<Result<_, HeadError>>()?;
        let metadata = HashMap::from([(METADATA_KEY.to_owned(), header)]);
        safetensors::serialize(views, Some(metadata)).map_err(format_error)
    }

    /// Reads the content of a `head.safetensors`: the head, and the trainable tensors that lie
    /// beside it.
    pub fn from_safetensors(content: &[u8]) -> Result<(Self, Vec<NamedTensor>), HeadError> {
        let (_, metadata) = SafeTensors::read_metadata(content).map_err(format_error)?;
        let header = metadata
            .metadata()
            .as_ref()
            .and_then(|entries| entries.get(METADATA_KEY))
            .ok_or_else(|| {
                HeadError::Format(format!("it carries no `{METADATA_KEY}` in its header"))
            })?;
        let header: Header = serde_json::from_str(header).map_err(format_error)?;
        if header.layout != LAYOUT {
            return Err(HeadError::Format(format!(
                "its layout is {}, this program reads {LAYOUT}",
                header.layout
            )));
        }
        let file = SafeTensors::deserialize(content).map_err(format_error)?;
        let mut tensors = BTreeMap::new();
        for (name, view) in file.iter() {
            if view.dtype() != Dtype::F32 {
                return Err(HeadError::Format(format!(
                    "`{name}` is {:?}, not F32",
                    view.dtype()
                )));
            }
            let data = view
                .data()
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect();
            let shape = view.shape().to_vec();
            let name = name.to_owned();
            tensors.insert(name.clone(), NamedTensor { name, shape, data });
        }
        let head = assemble(&header, &mut tensors)?;
        head.check()?;
        if let Some(name) = tensors
            .keys()
            .find(|name| !name.starts_with(TRAINABLE_PREFIX))
        {
            return Err(HeadError::Format(format!(
                "it holds an unknown tensor `{name}`"
            )));
        }
        Ok((head, tensors.into_values().collect()))
    }
}

/// The tensors of a head's file that are not yet taken.
type Tensors = BTreeMap<String, NamedTensor>;

fn present(tensors: &Tensors, name: &str) -> bool {
    tensors.contains_key(name)
}

fn take(tensors: &mut Tensors, name: &str) -> Result<NamedTensor, HeadError> {
    tensors
        .remove(name)
        .ok_or_else(|| HeadError::Format(format!("it lacks the tensor `{name}`")))
}

fn data(tensors: &mut Tensors, name: &str) -> Result<Vec<f32>, HeadError> {
    take(tensors, name).map(|tensor| tensor.data)
}

fn assemble(header: &Header, tensors: &mut Tensors) -> Result<ExportedHead, HeadError> {
    let weight = take(tensors, "region.weight")?;
    let &[categories, dim] = weight.shape.as_slice() else {
        return Err(HeadError::Format(format!(
            "`region.weight` has shape {:?}, not [C, D]",
            weight.shape
        )));
    };
    let region = ReadOut {
        weight: weight.data,
        bias: data(tensors, "region.bias")?,
    };
    let attention = if present(tensors, "attention.weight") {
        Attention::Folded(data(tensors, "attention.weight")?)
    } else {
        Attention::Projected {
            query: data(tensors, "attention.query")?,
            key: data(tensors, "attention.key")?,
        }
    };
    let query = query_branch(tensors)?;
    let global = global_branch(tensors)?;
    let memory = memory_branch(tensors)?;
    let regional = regional_branch(tensors)?;
    Ok(ExportedHead {
        dim,
        categories,
        heads: header.heads,
        attention,
        region,
        region_form: header.region,
        query,
        global,
        memory,
        regional,
    })
}

fn query_branch(tensors: &mut Tensors) -> Result<Option<QueryBranch>, HeadError> {
    if !present(tensors, "query.embedding") {
        return Ok(None);
    }
    let value_output = if present(tensors, "query.value_output") {
        ValueOutput::Folded(data(tensors, "query.value_output")?)
    } else {
        ValueOutput::Projected {
            value: data(tensors, "query.value")?,
            output: data(tensors, "query.output")?,
        }
    };
    let mut pair = |name: &str| -> Result<(Vec<f32>, Vec<f32>), HeadError> {
        Ok((
            data(tensors, &format!("query.{name}.weight"))?,
            data(tensors, &format!("query.{name}.bias"))?,
        ))
    };
    let (norm, mlp_in, mlp_out) = (pair("norm")?, pair("mlp_in")?, pair("mlp_out")?);
    let (weight, bias) = pair("read_out")?;
    Ok(Some(QueryBranch {
        query: data(tensors, "query.embedding")?,
        value_output,
        norm,
        mlp_in,
        mlp_out,
        read_out: ReadOut { weight, bias },
    }))
}

fn global_branch(tensors: &mut Tensors) -> Result<Option<GlobalBranch>, HeadError> {
    if !present(tensors, "global.weight") {
        return Ok(None);
    }
    let read_out = ReadOut {
        weight: data(tensors, "global.weight")?,
        bias: data(tensors, "global.bias")?,
    };
    let residual = present(tensors, "global.residual")
        .then(|| data(tensors, "global.residual"))
        .transpose()?;
    Ok(Some(GlobalBranch { read_out, residual }))
}

fn memory_branch(tensors: &mut Tensors) -> Result<Option<MemoryBranch>, HeadError> {
    if !present(tensors, "memory.bank") {
        return Ok(None);
    }
    let mean_spread = number(data(tensors, "memory.mean_spread")?, "memory.mean_spread")?;
    Ok(Some(MemoryBranch {
        global_scale: data(tensors, "memory.global_scale")?,
        global_offset: data(tensors, "memory.global_offset")?,
        mean_centre: data(tensors, "memory.mean_centre")?,
        mean_spread,
        words: word_histogram(tensors)?,
        bank: data(tensors, "memory.bank")?,
        weight: data(tensors, "memory.weight")?,
        bias: data(tensors, "memory.bias")?,
    }))
}

/// Heads of before visual words have none.
fn word_histogram(tensors: &mut Tensors) -> Result<Option<WordHistogram>, HeadError> {
    if !present(tensors, "memory.word_codebook") {
        return Ok(None);
    }
    let spread = data(tensors, "memory.word_spread")?;
    Ok(Some(WordHistogram {
        centre: data(tensors, "memory.word_centre")?,
        codebook: data(tensors, "memory.word_codebook")?,
        root_centre: data(tensors, "memory.word_root_centre")?,
        spread: number(spread, "memory.word_spread")?,
    }))
}

fn regional_branch(tensors: &mut Tensors) -> Result<Option<RegionalBranch>, HeadError> {
    if !present(tensors, "regional.bank") {
        return Ok(None);
    }
    Ok(Some(RegionalBranch {
        attention: data(tensors, "regional.attention")?,
        sharpness: number(data(tensors, "regional.sharpness")?, "regional.sharpness")?,
        bank: data(tensors, "regional.bank")?,
        weight: data(tensors, "regional.weight")?,
        bias: data(tensors, "regional.bias")?,
    }))
}

fn number(data: Vec<f32>, name: &str) -> Result<f32, HeadError> {
    match data.as_slice() {
        &[number] => Ok(number),
        _ => Err(HeadError::Format(format!("`{name}` is not one number"))),
    }
}

fn bytes(data: &[f32]) -> Vec<u8> {
    data.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn format_error(error: impl std::fmt::Display) -> HeadError {
    HeadError::Format(error.to_string())
}
