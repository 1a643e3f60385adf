//! The files an ONNX graph refers to. A graph can name any path as external data and a runtime
//! would open it; these are found before a runtime sees the graph.

use crate::onnx::proto::tensor_proto::DataLocation;
use crate::onnx::proto::{AttributeProto, GraphProto, ModelProto, TensorProto};
use prost::Message;
use std::collections::BTreeSet;

/// Every `location` of external data in the graph, its subgraphs and its functions.
pub(super) fn locations(onnx: bytes::Bytes) -> Result<BTreeSet<String>, prost::DecodeError> {
    let model = ModelProto::decode(onnx)?;
    let mut found = BTreeSet::new();
    if let Some(graph) = &model.graph {
        from_graph(graph, &mut found);
    }
    for function in &model.functions {
        let of_nodes = function.node.iter().flat_map(|node| &node.attribute);
        of_nodes
            .chain(&function.attribute_proto)
            .for_each(|a| from_attribute(a, &mut found));
    }
    for training in &model.training_info {
        let graphs = [&training.initialization, &training.algorithm];
        for graph in graphs.into_iter().flatten() {
            from_graph(graph, &mut found);
        }
    }
    Ok(found)
}

fn from_graph(graph: &GraphProto, found: &mut BTreeSet<String>) {
    let sparse = graph
        .sparse_initializer
        .iter()
        .flat_map(|s| [&s.values, &s.indices])
        .flatten();
    for tensor in graph.initializer.iter().chain(sparse) {
        from_tensor(tensor, found);
    }
    for node in &graph.node {
        node.attribute.iter().for_each(|a| from_attribute(a, found));
    }
}

fn from_attribute(attribute: &AttributeProto, found: &mut BTreeSet<String>) {
    attribute
        .t
        .iter()
        .chain(&attribute.tensors)
        .for_each(|tensor| from_tensor(tensor, found));
    attribute
        .sparse_tensor
        .iter()
        .chain(&attribute.sparse_tensors)
        .flat_map(|s| [&s.values, &s.indices])
        .flatten()
        .for_each(|tensor| from_tensor(tensor, found));
    attribute
        .g
        .iter()
        .chain(&attribute.graphs)
        .for_each(|graph| from_graph(graph, found));
}

fn from_tensor(tensor: &TensorProto, found: &mut BTreeSet<String>) {
    let declared = tensor.data_location == Some(DataLocation::External as i32);
    // Every entry counts: which of several a runtime takes is its own affair.
    let mut locations = tensor
        .external_data
        .iter()
        .filter(|entry| entry.key.as_deref() == Some("location"))
        .map(|entry| entry.value.clone().unwrap_or_default())
        .peekable();
    // An external tensor without a location is the empty path, which the caller refuses.
    if declared && locations.peek().is_none() {
        found.insert(String::new());
    }
    found.extend(locations);
}
