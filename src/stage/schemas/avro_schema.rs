//! Avro schemas: what a registry gives, as nodes that name each other by number.

use super::UnusableSchema;
use serde_json::Value;
use std::collections::HashMap;

/// Deepest nesting of a schema's text.
const DEPTH: usize = 64;
/// Largest scale of a decimal.
const SCALE: u64 = 38;

fn wrong(reason: impl Into<String>) -> UnusableSchema {
    UnusableSchema(reason.into())
}

/// What a value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Fixed(usize),
    Enum(Vec<String>),
    Array(usize),
    Map(usize),
    Union(Vec<usize>),
    Record(Vec<(String, usize)>),
    /// What it means, and how it is written.
    Logical(Logical, usize),
}

/// What a number or bytes mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Logical {
    /// Parts of a second since 1970, of UTC or of no zone.
    Timestamp {
        per_second: i64,
        zone: bool,
    },
    Date,
    Decimal {
        scale: usize,
    },
    Uuid,
}

/// A writer's schema, with the names that it defines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AvroSchema {
    nodes: Vec<Node>,
    root: usize,
}

impl AvroSchema {
    /// Reads a schema; `references` are those that it uses, with their names, in an order in which
    /// each knows those before it.
    ///
    /// # Errors
    /// [`UnusableSchema`].
    pub(super) fn read(
        text: &str,
        references: &[(String, String)],
    ) -> Result<Self, UnusableSchema> {
        let mut parser = Parser::default();
        for (_, reference) in references {
            parser.parse(&json(reference)?, "", 0)?;
        }
        let root = parser.parse(&json(text)?, "", 0)?;
        let nodes = parser.nodes;
        Ok(AvroSchema { nodes, root })
    }

    pub(super) fn root(&self) -> usize {
        self.root
    }

    pub(super) fn node(&self, index: usize) -> &Node {
        &self.nodes[index]
    }
}

fn json(text: &str) -> Result<Value, UnusableSchema> {
    serde_json::from_str(text).map_err(|e| wrong(format!("it is no JSON: {e}")))
}

#[derive(Default)]
struct Parser {
    nodes: Vec<Node>,
    names: HashMap<String, usize>,
}

impl Parser {
    fn add(&mut self, node: Node) -> usize {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// The node of a type that is written within `namespace`.
    fn parse(
        &mut self,
        of: &Value,
        namespace: &str,
        depth: usize,
    ) -> Result<usize, UnusableSchema> {
        if depth > DEPTH {
            return Err(wrong("it is too deep"));
        }
        match of {
            Value::String(name) => self.named(name, namespace),
            Value::Array(choices) => {
                let of = choices
                    .iter()
                    .map(|of| self.parse(of, namespace, depth + 1));
                let choices = of.collect::<Result<_, _>>()?;
                Ok(self.add(Node::Union(choices)))
            }
            Value::Object(_) => self.complex(of, namespace, depth),
            _ => Err(wrong("a type is neither a name, nor a list, nor an object")),
        }
    }

    /// A primitive type, or one that was named before.
    fn named(&mut self, name: &str, namespace: &str) -> Result<usize, UnusableSchema> {
        let primitive = match name {
            "null" => Node::Null,
            "boolean" => Node::Boolean,
            "int" => Node::Int,
            "long" => Node::Long,
            "float" => Node::Float,
            "double" => Node::Double,
            "bytes" => Node::Bytes,
            "string" => Node::String,
            _ => {
                let known = self.names.get(&full_name(name, namespace));
                let known = known.or_else(|| self.names.get(name));
                return known
                    .copied()
                    .ok_or_else(|| wrong(format!("nothing is called `{name}`")));
            }
        };
        Ok(self.add(primitive))
    }

    fn complex(
        &mut self,
        of: &Value,
        namespace: &str,
        depth: usize,
    ) -> Result<usize, UnusableSchema> {
        let name = of["type"].as_str();
        let node = match name {
            Some("record" | "error" | "enum" | "fixed") => self.definition(of, namespace, depth)?,
            Some("array") => {
                let items = self.parse(&of["items"], namespace, depth + 1)?;
                self.add(Node::Array(items))
            }
            Some("map") => {
                let values = self.parse(&of["values"], namespace, depth + 1)?;
                self.add(Node::Map(values))
            }
            _ => self.parse(&of["type"], namespace, depth + 1)?,
        };
        Ok(match self.logical(of, node) {
            Some(logical) => self.add(Node::Logical(logical, node)),
            None => node,
        })
    }

    /// A type with a name of its own, which it may use within itself.
    fn definition(
        &mut self,
        of: &Value,
        namespace: &str,
        depth: usize,
    ) -> Result<usize, UnusableSchema> {
        let name = of["name"]
            .as_str()
            .ok_or_else(|| wrong("a type has no name"))?;
        let full = full_name(name, of["namespace"].as_str().unwrap_or(namespace));
        let namespace = full
            .rsplit_once('.')
            .map_or("", |(namespace, _)| namespace)
            .to_owned();
        let node = self.add(Node::Null);
        self.names.insert(full, node);
        self.nodes[node] = match of["type"].as_str() {
            Some("enum") => {
                let symbols = of["symbols"]
                    .as_array()
                    .ok_or_else(|| wrong("no symbols"))?;
                let symbols = symbols.iter().map(|s| s.as_str().map(str::to_owned));
                let symbols = symbols.collect::<Option<_>>();
                Node::Enum(symbols.ok_or_else(|| wrong("a symbol is no string"))?)
            }
            Some("fixed") => {
                let size = of["size"]
                    .as_u64()
                    .and_then(|size| usize::try_from(size).ok());
                Node::Fixed(size.ok_or_else(|| wrong("a fixed type has no size"))?)
            }
            _ => {
                let fields = of["fields"].as_array().ok_or_else(|| wrong("no fields"))?;
                let mut read = Vec::new();
                for field in fields {
                    let name = field["name"].as_str();
                    let name = name.ok_or_else(|| wrong("a field has no name"))?;
                    let node = self.parse(&field["type"], &namespace, depth + 1)?;
                    read.push((name.to_owned(), node));
                }
                Node::Record(read)
            }
        };
        Ok(node)
    }

    /// What the type means beyond how it is written; what is not known does not count, as the
    /// specification says.
    fn logical(&self, of: &Value, node: usize) -> Option<Logical> {
        let timestamp = |per_second, zone| Some(Logical::Timestamp { per_second, zone });
        match (of["logicalType"].as_str()?, &self.nodes[node]) {
            ("timestamp-millis", Node::Long) => timestamp(1_000, true),
            ("timestamp-micros", Node::Long) => timestamp(1_000_000, true),
            ("timestamp-nanos", Node::Long) => timestamp(1_000_000_000, true),
            ("local-timestamp-millis", Node::Long) => timestamp(1_000, false),
            ("local-timestamp-micros", Node::Long) => timestamp(1_000_000, false),
            ("local-timestamp-nanos", Node::Long) => timestamp(1_000_000_000, false),
            ("date", Node::Int) => Some(Logical::Date),
            ("uuid", Node::String | Node::Fixed(16)) => Some(Logical::Uuid),
            ("decimal", Node::Bytes | Node::Fixed(_)) => {
                let scale = of["scale"].as_u64().unwrap_or(0);
                (scale <= SCALE).then_some(Logical::Decimal {
                    scale: scale as usize,
                })
            }
            _ => None,
        }
    }
}

fn full_name(name: &str, namespace: &str) -> String {
    match name.contains('.') || namespace.is_empty() {
        true => name.to_owned(),
        false => format!("{namespace}.{name}"),
    }
}
