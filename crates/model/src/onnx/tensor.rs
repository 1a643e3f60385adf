//! Element types, dimensions and tensors of a graph.

use super::proto::tensor_proto::{DataLocation, DataType};
use super::proto::tensor_shape_proto::{Dimension, dimension};
use super::proto::{
    StringStringEntryProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};
use bytes::Bytes;
use half::f16;

/// Element types that our graphs use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// 32-bit float.
    F32,
    /// 16-bit float.
    F16,
    /// Unsigned byte (pixels).
    U8,
    /// Signed byte (weights of integer products).
    I8,
    /// 64-bit integer (shapes and indices).
    I64,
}

impl Element {
    pub(super) fn data_type(self) -> i32 {
        (match self {
            Self::F32 => DataType::Float,
            Self::F16 => DataType::Float16,
            Self::U8 => DataType::Uint8,
            Self::I8 => DataType::Int8,
            Self::I64 => DataType::Int64,
        }) as i32
    }
}

/// One dimension of a graph's input or output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dim {
    /// Known when the graph is written.
    Fixed(usize),
    /// Known when it runs; equal names are equal sizes.
    Dynamic(&'static str),
}

impl From<usize> for Dim {
    fn from(size: usize) -> Self {
        Self::Fixed(size)
    }
}

impl From<&'static str> for Dim {
    fn from(name: &'static str) -> Self {
        Self::Dynamic(name)
    }
}

/// Where an external initializer's bytes lie, so that a runtime that opens the graph's file finds
/// them by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalData {
    /// File name beside the graph.
    pub location: String,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
}

/// A tensor's content inside the graph; floats are rounded to `element`.
pub(super) fn inline_floats(
    name: &str,
    dims: &[usize],
    element: Element,
    data: &[f32],
) -> TensorProto {
    let raw: Bytes = match element {
        Element::F32 => data.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Element::F16 => data
            .iter()
            .flat_map(|x| f16::from_f32(*x).to_le_bytes())
            .collect(),
        Element::U8 | Element::I8 | Element::I64 => unreachable!("float weights are F32 or F16"),
    };
    raw_tensor(name, dims, element, raw)
}

pub(super) fn inline_integers(name: &str, dims: &[usize], data: &[i64]) -> TensorProto {
    let raw = data.iter().flat_map(|x| x.to_le_bytes()).collect();
    raw_tensor(name, dims, Element::I64, raw)
}

pub(super) fn inline_signed_bytes(name: &str, dims: &[usize], data: &[i8]) -> TensorProto {
    let raw = data.iter().map(|x| x.cast_unsigned()).collect();
    raw_tensor(name, dims, Element::I8, raw)
}

fn raw_tensor(name: &str, dims: &[usize], element: Element, raw: Bytes) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        dims: dims.iter().map(|&d| d as i64).collect(),
        data_type: Some(element.data_type()),
        raw_data: Some(raw),
        ..Default::default()
    }
}

pub(super) fn external(
    name: &str,
    dims: &[usize],
    element: Element,
    data: &ExternalData,
) -> TensorProto {
    let entry = |key: &str, value: String| StringStringEntryProto {
        key: Some(key.to_owned()),
        value: Some(value),
    };
    TensorProto {
        name: Some(name.to_owned()),
        dims: dims.iter().map(|&d| d as i64).collect(),
        data_type: Some(element.data_type()),
        data_location: Some(DataLocation::External as i32),
        external_data: vec![
            entry("location", data.location.clone()),
            entry("offset", data.offset.to_string()),
            entry("length", data.length.to_string()),
        ],
        ..Default::default()
    }
}

pub(super) fn value_info(name: &str, element: Element, dims: &[Dim]) -> ValueInfoProto {
    let dim = dims
        .iter()
        .map(|d| Dimension {
            denotation: None,
            value: Some(match d {
                Dim::Fixed(size) => dimension::Value::DimValue(*size as i64),
                Dim::Dynamic(name) => dimension::Value::DimParam((*name).to_owned()),
            }),
        })
        .collect();
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto {
            denotation: None,
            value: Some(type_proto::Value::TensorType(type_proto::Tensor {
                elem_type: Some(element.data_type()),
                shape: Some(TensorShapeProto { dim }),
            })),
        }),
        ..Default::default()
    }
}
