//! A graph for one item, run for each of a batch.

use super::graph::{GraphBuilder, graph_attribute};
use super::proto::tensor_shape_proto::{Dimension, dimension};
use super::proto::{GraphProto, NodeProto, ValueInfoProto, type_proto};
use super::{Attribute, Dim};

/// What stands before the names inside the loop, because they may not be those outside.
const ITEM: &str = "item/";

impl GraphBuilder {
    /// The graph collected so far run for each item of a batch, by itself: inputs and outputs get
    /// an axis in front. What it says of one item then cannot depend on the others, as it would
    /// where a node looks at all of a batch at once ([`GraphBuilder::integer_matmul`] does).
    ///
    /// Weights stay outside of the loop, where sessions can share them.
    pub fn for_each_item(self, batch: Dim) -> Self {
        let GraphBuilder {
            name,
            counter,
            mut nodes,
            initializers,
            inputs,
            outputs,
            constants,
        } = self;
        for name in nodes
            .iter_mut()
            .flat_map(|node| node.input.iter_mut().chain(&mut node.output))
        {
            let is = |values: &[ValueInfoProto]| values.iter().any(|value| value.name() == name);
            if is(&inputs) || is(&outputs) {
                name.insert_str(0, ITEM);
            }
        }
        let names = |values: &[ValueInfoProto]| -> Vec<String> {
            values.iter().map(|value| value.name().to_owned()).collect()
        };
        let inner = |values: &[ValueInfoProto]| -> Vec<ValueInfoProto> {
            let renamed = values.iter().map(|value| ValueInfoProto {
                name: Some(format!("{ITEM}{}", value.name())),
                ..value.clone()
            });
            renamed.collect()
        };
        let body = GraphProto {
            name: Some(format!("{ITEM}{name}")),
            node: nodes,
            input: inner(&inputs),
            output: inner(&outputs),
            ..Default::default()
        };
        let scanned = Attribute::Int(inputs.len() as i64);
        let scan = NodeProto {
            name: Some("each".to_owned()),
            op_type: Some("Scan".to_owned()),
            input: names(&inputs),
            output: names(&outputs),
            attribute: vec![
                super::graph::attribute("num_scan_inputs", &scanned),
                graph_attribute("body", body),
            ],
            ..Default::default()
        };
        let batched = |values: Vec<ValueInfoProto>| {
            let with_axis = values.into_iter().map(|value| batched(value, &batch));
            with_axis.collect()
        };
        GraphBuilder {
            name,
            counter,
            nodes: vec![scan],
            initializers,
            inputs: batched(inputs),
            outputs: batched(outputs),
            constants,
        }
    }
}

/// The same with one more axis.
fn batched(mut value: ValueInfoProto, batch: &Dim) -> ValueInfoProto {
    let kind = value.r#type.as_mut().and_then(|kind| kind.value.as_mut());
    if let Some(type_proto::Value::TensorType(tensor)) = kind
        && let Some(shape) = &mut tensor.shape
    {
        let size = match batch {
            Dim::Fixed(size) => dimension::Value::DimValue(*size as i64),
            Dim::Dynamic(name) => dimension::Value::DimParam((*name).to_owned()),
        };
        let axis = Dimension {
            denotation: None,
            value: Some(size),
        };
        shape.dim.insert(0, axis);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Input, run};
    use super::super::{Element, IntegerRange};
    use super::*;

    /// `x [2, 3] @ weight [3, 2]` in integers, for each item or for all at once.
    fn product(each: bool) -> Vec<u8> {
        let mut g = GraphBuilder::new("product");
        let batch = (!each).then_some("batch".into());
        let of = |rest: [usize; 2]| -> Vec<Dim> {
            batch
                .clone()
                .into_iter()
                .chain(rest.map(Dim::from))
                .collect()
        };
        let x = g.input("x", Element::F32, &of([2, 3]));
        let weight = [1.0, -2.0, 0.5, 4.0, -1.0, 0.25];
        let y = g.integer_matmul(&x, "weight", [3, 2], &weight, IntegerRange::Full);
        g.output(&y, "y", Element::F32, &of([2, 2]));
        let g = if each {
            g.for_each_item("batch".into())
        } else {
            g
        };
        g.finish().unwrap()
    }

    #[test]
    fn an_item_is_what_it_is_whatever_stands_beside_it() {
        let small = [0.3, -0.2, 0.1, 0.05, 0.0, 0.25];
        let large = [900.0, -70.0, 3.0, 1.0, 2.0, -800.0];
        let both = [&small[..], &large].concat();
        let y = |graph: &[u8], x: &[f32]| {
            let input = Input::F32(vec![x.len() / 6, 2, 3], x);
            run(graph, &[("x", input)])["y"].clone()
        };
        let (each, together) = (product(true), product(false));
        let alone = y(&each, &small);
        assert_eq!(alone.0, [1, 2, 2]);
        let among = y(&each, &both);
        assert_eq!(among.0, [2, 2, 2]);
        assert_eq!(alone.1, among.1[..4]);
        // Without the loop the large numbers take the small ones' digits.
        assert_eq!(y(&together, &small).1, alone.1);
        assert_ne!(y(&together, &both).1[..4], alone.1);
        let exact = [
            0.3 - 0.1 - 0.1,
            -0.6 - 0.8 + 0.025,
            0.05 - 0.25,
            -0.1 + 0.0625,
        ];
        for (found, exact) in alone.1.iter().zip(exact) {
            assert!((found - exact).abs() < 0.02, "{found} {exact}");
        }
    }
}
