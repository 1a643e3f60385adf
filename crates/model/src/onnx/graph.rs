//! [`GraphBuilder`]: nodes in, one ONNX model out.

use super::proto::attribute_proto::AttributeType;
use super::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    ValueInfoProto,
};
use super::{Dim, Element, ExternalData, GraphError, IR_VERSION, OPSET, tensor};
use prost::Message;
use std::collections::{BTreeMap, HashSet};

/// A tensor inside a graph: an input, an initializer or what a node makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value(String);

impl Value {
    /// Its name in the graph.
    pub fn name(&self) -> &str {
        &self.0
    }
}

/// An attribute of a node.
#[derive(Debug, Clone, PartialEq)]
pub enum Attribute {
    /// An integer.
    Int(i64),
    /// Integers.
    Ints(Vec<i64>),
    /// A float.
    Float(f32),
    /// A word.
    Text(&'static str),
}

/// Collects the nodes of one graph. Nodes must be added in an order in which every input is already
/// there, which the types enforce: an input is a [`Value`] that an earlier call gave back.
#[derive(Debug)]
pub struct GraphBuilder {
    pub(super) name: String,
    pub(super) counter: usize,
    pub(super) nodes: Vec<NodeProto>,
    pub(super) initializers: Vec<TensorProto>,
    pub(super) inputs: Vec<ValueInfoProto>,
    pub(super) outputs: Vec<ValueInfoProto>,
    /// Small constants by content, so that equal ones are stored once.
    pub(super) constants: BTreeMap<String, Value>,
}

impl GraphBuilder {
    /// An empty graph.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            counter: 0,
            nodes: Vec::new(),
            initializers: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            constants: BTreeMap::new(),
        }
    }

    /// Declares an input of the graph.
    pub fn input(&mut self, name: &str, element: Element, dims: &[Dim]) -> Value {
        self.inputs.push(tensor::value_info(name, element, dims));
        Value(name.to_owned())
    }

    /// Declares `value` as the output `name`, of this type and shape.
    pub fn output(&mut self, value: &Value, name: &str, element: Element, dims: &[Dim]) {
        self.nodes.push(NodeProto {
            name: Some(format!("output/{name}")),
            op_type: Some("Identity".to_owned()),
            input: vec![value.0.clone()],
            output: vec![name.to_owned()],
            ..Default::default()
        });
        self.outputs.push(tensor::value_info(name, element, dims));
    }

    /// Adds float weights under `name`, rounded to `element` ([`Element::F32`] or
    /// [`Element::F16`]).
    ///
    /// # Panics
    /// If `data` has not the number of elements that `dims` ask for, or `element` is no float type.
    pub fn weight(&mut self, name: &str, dims: &[usize], element: Element, data: &[f32]) -> Value {
        assert_eq!(
            data.len(),
            dims.iter().product::<usize>(),
            "weight `{name}` of shape {dims:?}"
        );
        self.initializers
            .push(tensor::inline_floats(name, dims, element, data));
        Value(name.to_owned())
    }

    /// Adds an initializer whose bytes lie outside the graph: in the file that `data` names, or
    /// handed to the runtime under this name when the session is built.
    pub fn external(
        &mut self,
        name: &str,
        dims: &[usize],
        element: Element,
        data: &ExternalData,
    ) -> Value {
        self.initializers
            .push(tensor::external(name, dims, element, data));
        Value(name.to_owned())
    }

    /// Adds 8-bit integers under `name`; the same name stands for the same integers.
    pub(super) fn signed_bytes(&mut self, name: &str, dims: &[usize], data: &[i8]) -> Value {
        let key = format!("signed bytes/{name}");
        let made = self.constants.entry(key).or_insert_with(|| {
            let tensor = tensor::inline_signed_bytes(name, dims, data);
            self.initializers.push(tensor);
            Value(name.to_owned())
        });
        made.clone()
    }

    /// A scalar float constant.
    pub fn scalar(&mut self, element: Element, x: f32) -> Value {
        let key = format!("{element:?}/{:08x}", x.to_bits());
        self.constant(key, |name| tensor::inline_floats(name, &[], element, &[x]))
    }

    /// A vector of integers (axes, shapes, bounds of slices).
    pub fn integers(&mut self, data: &[i64]) -> Value {
        let key = format!("integers/{data:?}");
        self.constant(key, |name| {
            tensor::inline_integers(name, &[data.len()], data)
        })
    }

    fn constant(&mut self, key: String, make: impl FnOnce(&str) -> TensorProto) -> Value {
        if let Some(value) = self.constants.get(&key) {
            return value.clone();
        }
        let name = format!("constant_{}", self.constants.len());
        self.initializers.push(make(&name));
        let value = Value(name);
        self.constants.insert(key, value.clone());
        value
    }

    /// Adds a node with one output.
    pub fn node(
        &mut self,
        operator: &str,
        inputs: &[&Value],
        attributes: &[(&str, Attribute)],
    ) -> Value {
        let mut outputs = self.node_with_outputs(operator, inputs, attributes, 1);
        outputs.remove(0)
    }

    /// Adds a node with `outputs` outputs.
    pub fn node_with_outputs(
        &mut self,
        operator: &str,
        inputs: &[&Value],
        attributes: &[(&str, Attribute)],
        outputs: usize,
    ) -> Vec<Value> {
        let name = format!("{operator}_{}", self.counter);
        self.counter += 1;
        let made: Vec<Value> = (0..outputs)
            .map(|i| {
                Value(if outputs == 1 {
                    format!("{name}/out")
                } else {
                    format!("{name}/out{i}")
                })
            })
            .collect();
        self.nodes.push(NodeProto {
            name: Some(name),
            op_type: Some(operator.to_owned()),
            input: inputs.iter().map(|v| v.0.clone()).collect(),
            output: made.iter().map(|v| v.0.clone()).collect(),
            attribute: attributes
                .iter()
                .map(|(name, value)| attribute(name, value))
                .collect(),
            ..Default::default()
        });
        made
    }

    /// `left @ right` over the last two axes.
    pub fn matmul(&mut self, left: &Value, right: &Value) -> Value {
        self.node("MatMul", &[left, right], &[])
    }

    /// `left @ right^T + bias` for matrices.
    pub fn gemm_transposed(&mut self, left: &Value, right: &Value, bias: Option<&Value>) -> Value {
        let attributes = [("transB", Attribute::Int(1))];
        match bias {
            Some(bias) => self.node("Gemm", &[left, right, bias], &attributes),
            None => self.node("Gemm", &[left, right], &attributes),
        }
    }

    /// Elementwise sum, with broadcasting.
    pub fn add(&mut self, left: &Value, right: &Value) -> Value {
        self.node("Add", &[left, right], &[])
    }

    /// Elementwise product, with broadcasting.
    pub fn mul(&mut self, left: &Value, right: &Value) -> Value {
        self.node("Mul", &[left, right], &[])
    }

    /// Elementwise quotient, with broadcasting.
    pub fn div(&mut self, left: &Value, right: &Value) -> Value {
        self.node("Div", &[left, right], &[])
    }

    /// Axes in a new order.
    pub fn transpose(&mut self, x: &Value, axes: &[i64]) -> Value {
        self.node(
            "Transpose",
            &[x],
            &[("perm", Attribute::Ints(axes.to_vec()))],
        )
    }

    /// A new shape; 0 keeps an axis, -1 takes what is left.
    pub fn reshape(&mut self, x: &Value, shape: &[i64]) -> Value {
        let shape = self.integers(shape);
        self.node("Reshape", &[x, &shape], &[])
    }

    /// Softmax over `axis`.
    pub fn softmax(&mut self, x: &Value, axis: i64) -> Value {
        self.node("Softmax", &[x], &[("axis", Attribute::Int(axis))])
    }

    /// Sum over `axis`, which is dropped.
    pub fn sum(&mut self, x: &Value, axis: i64) -> Value {
        let axes = self.integers(&[axis]);
        self.node("ReduceSum", &[x, &axes], &[("keepdims", Attribute::Int(0))])
    }

    /// Mean over `axis`.
    pub fn mean(&mut self, x: &Value, axis: i64, keep: bool) -> Value {
        self.node(
            "ReduceMean",
            &[x],
            &[
                ("axes", Attribute::Ints(vec![axis])),
                ("keepdims", Attribute::Int(i64::from(keep))),
            ],
        )
    }

    /// `x[.., start..end, ..]` along `axis`.
    pub fn slice(&mut self, x: &Value, axis: i64, start: i64, end: i64) -> Value {
        let (start, end, axis) = (
            self.integers(&[start]),
            self.integers(&[end]),
            self.integers(&[axis]),
        );
        self.node("Slice", &[x, &start, &end, &axis], &[])
    }

    /// `[B, C, h, w]` of these sides made larger, bilinear, with the centres of pixels at halves.
    pub fn enlarge(&mut self, x: &Value, from: (usize, usize), to: (usize, usize)) -> Value {
        // The new size is rounded down from a product in 32 bit.
        let scale = |from: usize, to: usize| {
            let scale = to as f32 / from as f32;
            if scale * (from as f32) < to as f32 {
                scale.next_up()
            } else {
                scale
            }
        };
        let scales = [1.0, 1.0, scale(from.0, to.0), scale(from.1, to.1)];
        let scales = self.weight("scales", &[4], Element::F32, &scales);
        let none = Value(String::new());
        self.node(
            "Resize",
            &[x, &none, &scales],
            &[("mode", Attribute::Text("linear"))],
        )
    }

    /// Layer normalisation over the last axis, mean and variance in 32 bit.
    pub fn layer_norm(&mut self, x: &Value, weight: &Value, bias: &Value, epsilon: f32) -> Value {
        self.node(
            "LayerNormalization",
            &[x, weight, bias],
            &[
                ("axis", Attribute::Int(-1)),
                ("epsilon", Attribute::Float(epsilon)),
            ],
        )
    }

    /// GELU by the error function, spelt out as runtimes expect it for fusion.
    pub fn gelu(&mut self, x: &Value, element: Element) -> Value {
        let (root, one, half) = (
            self.scalar(element, std::f32::consts::SQRT_2),
            self.scalar(element, 1.0),
            self.scalar(element, 0.5),
        );
        let scaled = self.div(x, &root);
        let erf = self.node("Erf", &[&scaled], &[]);
        let shifted = self.add(&erf, &one);
        let product = self.mul(x, &shifted);
        self.mul(&product, &half)
    }

    /// GELU by the hyperbolic tangent: `x sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3))`.
    pub fn gelu_tanh(&mut self, x: &Value, element: Element) -> Value {
        // 2 sqrt(2/pi), and that times 0.044715.
        let (linear, cubic) = (
            self.scalar(element, 1.595_769),
            self.scalar(element, 0.071_354_82),
        );
        let square = self.mul(x, x);
        let factor = self.mul(&square, &cubic);
        let factor = self.add(&factor, &linear);
        let scaled = self.mul(x, &factor);
        let gate = self.node("Sigmoid", &[&scaled], &[]);
        self.mul(x, &gate)
    }

    /// `x * sigmoid(1.702 x)`.
    pub fn quick_gelu(&mut self, x: &Value, element: Element) -> Value {
        let factor = self.scalar(element, 1.702);
        let scaled = self.mul(x, &factor);
        let gate = self.node("Sigmoid", &[&scaled], &[]);
        self.mul(x, &gate)
    }

    /// Conversion to another element type.
    pub fn cast(&mut self, x: &Value, element: Element) -> Value {
        let to = Attribute::Int(i64::from(element.data_type()));
        self.node("Cast", &[x], &[("to", to)])
    }

    /// Rows (last axis) divided by their L2 norm; a row of zeros stays zero.
    pub fn l2_normalise(&mut self, x: &Value, element: Element) -> Value {
        let norm = self.node(
            "ReduceL2",
            &[x],
            &[
                ("axes", Attribute::Ints(vec![-1])),
                ("keepdims", Attribute::Int(1)),
            ],
        );
        // The smallest norm worth dividing by: below it a feature carries nothing but rounding.
        let floor = self.scalar(element, if element == Element::F16 { 1e-4 } else { 1e-12 });
        let norm = self.node("Max", &[&norm, &floor], &[]);
        self.div(x, &norm)
    }

    /// The finished model as protobuf types.
    pub fn into_model(mut self) -> ModelProto {
        // ONNX Runtime forgets initializers that nothing reads, and then refuses values for them.
        let mut read: HashSet<&String> = HashSet::new();
        for node in &self.nodes {
            read.extend(&node.input);
            let inside = node.attribute.iter().filter_map(|of| of.g.as_ref());
            read.extend(inside.flat_map(|graph| graph.node.iter().flat_map(|node| &node.input)));
        }
        self.initializers
            .retain(|tensor| tensor.name.as_ref().is_some_and(|name| read.contains(name)));
        ModelProto {
            ir_version: Some(IR_VERSION),
            producer_name: Some("tagstream".to_owned()),
            producer_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            opset_import: vec![OperatorSetIdProto {
                domain: Some(String::new()),
                version: Some(OPSET),
            }],
            graph: Some(GraphProto {
                name: Some(self.name),
                node: self.nodes,
                initializer: self.initializers,
                input: self.inputs,
                output: self.outputs,
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// The finished model as the content of an `.onnx` file.
    pub fn finish(self) -> Result<Vec<u8>, GraphError> {
        let graph = self.name.clone();
        let model = self.into_model();
        let bytes = model.encoded_len();
        if bytes >= i32::MAX as usize {
            return Err(GraphError::TooLarge { graph, bytes });
        }
        Ok(model.encode_to_vec())
    }
}

/// An attribute that is a graph: what a loop runs.
pub(super) fn graph_attribute(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(AttributeType::Graph as i32),
        g: Some(graph),
        ..Default::default()
    }
}

pub(super) fn attribute(name: &str, value: &Attribute) -> AttributeProto {
    let mut proto = AttributeProto {
        name: Some(name.to_owned()),
        ..Default::default()
    };
    let kind = match value {
        Attribute::Int(i) => {
            proto.i = Some(*i);
            AttributeType::Int
        }
        Attribute::Ints(ints) => {
            proto.ints = ints.clone();
            AttributeType::Ints
        }
        Attribute::Float(f) => {
            proto.f = Some(*f);
            AttributeType::Float
        }
        Attribute::Text(text) => {
            proto.s = Some(text.as_bytes().to_vec().into());
            AttributeType::String
        }
    };
    proto.r#type = Some(kind as i32);
    proto
}

/// Reads an `.onnx` file's message (without the content of external data).
pub(crate) fn parse(bytes: bytes::Bytes) -> Result<ModelProto, prost::DecodeError> {
    ModelProto::decode(bytes)
}
