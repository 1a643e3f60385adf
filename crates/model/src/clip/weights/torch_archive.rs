//! The zip archives that `torch.save` and `torch.jit.save` write: a pickle that says what there is,
//! and one stored (never compressed) file a storage.

use super::pickle::{Id, Node, Pickle};
use super::{Failure, FileContent, TensorPlace};
use safetensors::Dtype;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};
use zip::{CompressionMethod, ZipArchive};

/// The longest pickle that is read. That of a billion parameters is a tenth of a megabyte, and what
/// it becomes in memory is many times as long.
const PICKLE_LIMIT: u64 = 16 << 20;
/// How deep modules may lie in each other.
const DEPTH: usize = 64;
/// How many objects of a TorchScript program are looked at: a pickle may name one many times.
const VISITS: usize = 1 << 20;
/// Under what training scripts keep the weights beside other things.
const STATE_KEYS: [&str; 5] = ["state_dict", "model_state_dict", "model", "module", "clip"];

/// The tensors of `file`, whose place among the files is `index`.
pub(super) fn read(file: &mut File, index: usize) -> Result<FileContent, Failure> {
    let size = file.metadata()?.len();
    let unreadable = |error: zip::result::ZipError| {
        Failure::Format(format!("it is no whole zip archive: {error}"))
    };
    let mut zip = ZipArchive::new(BufReader::new(file)).map_err(unreadable)?;
    let names: Vec<String> = zip
        .file_names()
        .filter_map(|name| Some(name.ok()?.into_owned()))
        .collect();
    let pickles = names
        .iter()
        .filter_map(|name| name.strip_suffix("data.pkl"));
    // Of an archive within an archive only the outer one is meant.
    let root = pickles
        .filter(|root| root.is_empty() || root.ends_with('/'))
        .min_by_key(|root| root.len())
        .ok_or_else(|| "it is a zip archive without PyTorch's data.pkl".to_owned())?
        .to_owned();
    if let Ok(mut order) = zip.by_name(&format!("{root}byteorder")) {
        let mut text = String::new();
        order.by_ref().take(16).read_to_string(&mut text)?;
        if text.trim() != "little" {
            return Err(Failure::Format(format!(
                "its numbers are in the byte order `{}`; save it again on a little-endian machine",
                text.trim()
            )));
        }
    }
    let mut pickle = Vec::new();
    let mut entry = zip
        .by_name(&format!("{root}data.pkl"))
        .map_err(unreadable)?;
    if entry.size() > PICKLE_LIMIT {
        return Err(Failure::Format(format!(
            "its pickle has {} bytes, more than any checkpoint's",
            entry.size()
        )));
    }
    entry.by_ref().take(PICKLE_LIMIT).read_to_end(&mut pickle)?;
    drop(entry);
    let listed = list(&Pickle::parse(&pickle)?)?;
    let mut storages = HashMap::new();
    let mut tensors = Vec::with_capacity(listed.tensors.len());
    for (name, tensor) in listed.tensors {
        let key = tensor.storage.clone();
        let (start, bytes) = match storages.get(&key) {
            Some(known) => *known,
            None => {
                let found = storage(&mut zip, &format!("{root}data/{key}"), size)?;
                storages.insert(key, found);
                found
            }
        };
        let place = tensor.place(index, start, bytes);
        tensors.push((
            name.clone(),
            place.map_err(|flaw| format!("`{name}` {flaw}"))?,
        ));
    }
    Ok(FileContent {
        tensors,
        script: listed.script,
    })
}

/// First byte and length of a storage.
fn storage(
    zip: &mut ZipArchive<BufReader<&mut File>>,
    name: &str,
    size: u64,
) -> Result<(u64, u64), Failure> {
    let at = zip
        .index_for_name(name)
        .ok_or_else(|| format!("it lacks `{name}`, which a tensor lies in"))?;
    let entry = zip
        .by_index_raw(at)
        .map_err(|error| format!("`{name}`: {error}"))?;
    if entry.compression() != CompressionMethod::Stored || entry.encrypted() {
        return Err(Failure::Format(format!(
            "`{name}` is compressed, which PyTorch never does"
        )));
    }
    let (start, bytes) = (entry.data_start(), entry.size());
    let within = |start: &u64| start.checked_add(bytes).is_some_and(|end| end <= size);
    let start = start
        .filter(within)
        .ok_or_else(|| format!("`{name}` reaches beyond the file's end"))?;
    Ok((start, bytes))
}

/// A tensor as the pickle describes it.
struct Described {
    storage: String,
    dtype: Dtype,
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

impl Described {
    /// Where its numbers lie, if the storage has them.
    fn place(self, file: usize, start: u64, bytes: u64) -> Result<TensorPlace, String> {
        let size = self.dtype.bitsize() / 8;
        let (offset, dims) = (self.offset, self.shape.len());
        let too_long = || format!("of shape {:?} is larger than its storage", self.shape);
        let mut count = 1usize;
        let (mut last, mut dense) = (0usize, vec![0; dims]);
        for axis in (0..dims).rev() {
            dense[axis] = count;
            count = count.checked_mul(self.shape[axis]).ok_or_else(too_long)?;
            let steps = self.shape[axis].saturating_sub(1);
            let reach = steps.checked_mul(self.strides[axis]);
            last = reach
                .and_then(|r| last.checked_add(r))
                .ok_or_else(too_long)?;
        }
        let span = if count == 0 { 0 } else { last + 1 };
        let end = offset.checked_add(span).and_then(|n| n.checked_mul(size));
        if end.is_none_or(|end| end as u64 > bytes) {
            return Err(too_long());
        }
        if count > span {
            // Nothing but a repetition: what it takes in memory would be anybody's guess.
            return Err("repeats its numbers (an expanded tensor); save it as contiguous".into());
        }
        // The step along an axis of length 1 means nothing.
        let axes = self.shape.iter().zip(self.strides.iter().zip(&dense));
        let row_major = axes.into_iter().all(|(size, (a, b))| *size == 1 || a == b);
        Ok(TensorPlace {
            file,
            dtype: self.dtype,
            start: start + (offset * size) as u64,
            strides: (count > 0 && !row_major).then_some(self.strides),
            shape: self.shape,
        })
    }
}

#[derive(Default)]
struct Listed {
    tensors: Vec<(String, Described)>,
    script: Option<Vec<String>>,
}

/// Finds the weights in what was pickled: a state dictionary, one under a usual key, or a
/// TorchScript module.
fn list(pickle: &Pickle) -> Result<Listed, String> {
    let mut at = pickle.root();
    for _ in 0..STATE_KEYS.len() {
        match pickle.node(at) {
            Node::Dict(items) => {
                let mut listed = Listed::default();
                for (key, value) in items {
                    let (Some(name), Some(tensor)) = (pickle.text(*key), tensor(pickle, *value))
                    else {
                        continue;
                    };
                    let tensor = tensor.map_err(|flaw| format!("`{name}` {flaw}"))?;
                    listed.tensors.push((name.to_owned(), tensor));
                }
                if !listed.tensors.is_empty() {
                    return Ok(listed);
                }
                at = under_a_usual_key(pickle, items)?;
            }
            Node::Call { callable, .. } => {
                let (module, class) = pickle.global(*callable).unwrap_or(("", "?"));
                if module.starts_with("__torch__") {
                    return script(pickle, at);
                }
                return Err(format!(
                    "it holds a whole object of the class {module}.{class}, which only the \
                     program that wrote it can make; save its state_dict() instead"
                ));
            }
            _ => return Err("it holds no state dictionary".to_owned()),
        }
    }
    Err("it holds no state dictionary".to_owned())
}

fn under_a_usual_key(pickle: &Pickle, items: &[(Id, Id)]) -> Result<Id, String> {
    let usual = STATE_KEYS.iter().find_map(|wanted| {
        let found = items
            .iter()
            .find(|(key, _)| pickle.text(*key) == Some(wanted));
        found.map(|(_, value)| *value)
    });
    usual.ok_or_else(|| {
        let keys = items.iter().filter_map(|(key, _)| pickle.text(*key));
        let keys: Vec<&str> = keys.take(8).collect();
        format!(
            "it holds no tensors by name, nor a dictionary of them under {} (it has: {})",
            STATE_KEYS.join(", "),
            keys.join(", ")
        )
    })
}

/// The tensors of a TorchScript module and of those inside it, with dots between the names.
fn script(pickle: &Pickle, root: Id) -> Result<Listed, String> {
    let (mut listed, mut visits) = (Listed::default(), 0);
    let mut open = vec![(root, String::new(), 0)];
    while let Some((id, prefix, depth)) = open.pop() {
        let Node::Call {
            state: Some(state), ..
        } = pickle.node(id)
        else {
            continue;
        };
        let Node::Dict(items) = pickle.node(*state) else {
            continue;
        };
        visits += items.len();
        if depth > DEPTH || visits > VISITS {
            return Err("its modules lie in each other without an end".to_owned());
        }
        let names = items.iter().filter_map(|(key, _)| pickle.text(*key));
        if depth == 0 {
            listed.script = Some(names.map(str::to_owned).collect());
        }
        for (key, value) in items {
            let Some(key) = pickle.text(*key) else {
                continue;
            };
            let name = format!("{prefix}{key}");
            match tensor(pickle, *value) {
                Some(tensor) => {
                    let tensor = tensor.map_err(|flaw| format!("`{name}` {flaw}"))?;
                    listed.tensors.push((name, tensor));
                }
                None => open.push((*value, format!("{name}."), depth + 1)),
            }
        }
    }
    Ok(listed)
}

/// What an object says of a tensor; `None` if it is none.
fn tensor(pickle: &Pickle, id: Id) -> Option<Result<Described, String>> {
    let mut at = id;
    // A parameter wraps a tensor, a subclass both.
    for _ in 0..3 {
        let Node::Call { callable, args, .. } = pickle.node(at) else {
            return None;
        };
        let args = pickle.tuple(*args)?;
        match pickle.global(*callable)? {
            ("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor") => {
                return Some(described(pickle, args));
            }
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                at = *args.first()?;
            }
            ("torch._tensor", "_rebuild_from_type_v2") => {
                let (function, inner) = (args.first()?, args.get(2)?);
                let inner = pickle.tuple(*inner)?;
                return match pickle.global(*function)? {
                    ("torch._utils", "_rebuild_tensor_v2") => Some(described(pickle, inner)),
                    (module, name) => Some(Err(format!("is made by {module}.{name}"))),
                };
            }
            ("torch._utils", other) if other.starts_with("_rebuild") => {
                return Some(Err(format!(
                    "is made by {other}; plain tensors of floats are read"
                )));
            }
            _ => return None,
        }
    }
    None
}

/// The arguments of `_rebuild_tensor_v2`: storage, offset, shape, strides, ...
fn described(pickle: &Pickle, args: &[Id]) -> Result<Described, String> {
    let whole = || {
        let [storage, offset, shape, strides, ..] = args else {
            return None;
        };
        let Node::Persistent(storage) = pickle.node(*storage) else {
            return None;
        };
        let [_, kind, key, _, ..] = pickle.tuple(*storage)? else {
            return None;
        };
        let (shape, strides) = (pickle.counts(*shape)?, pickle.counts(*strides)?);
        if shape.len() != strides.len() {
            return None;
        }
        Some((
            pickle.global(*kind)?.1,
            pickle.text(*key)?.to_owned(),
            pickle.count(*offset)?,
            shape,
            strides,
        ))
    };
    let found = whole().ok_or("is not described as PyTorch does it")?;
    let (kind, storage, offset, shape, strides) = found;
    let dtype = match kind {
        "FloatStorage" => Dtype::F32,
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::BF16,
        "DoubleStorage" => Dtype::F64,
        "LongStorage" => Dtype::I64,
        "IntStorage" => Dtype::I32,
        "ShortStorage" => Dtype::I16,
        "CharStorage" => Dtype::I8,
        "ByteStorage" => Dtype::U8,
        "BoolStorage" => Dtype::BOOL,
        other => return Err(format!("lies in a {other}; plain numbers are read")),
    };
    Ok(Described {
        storage,
        dtype,
        offset,
        shape,
        strides,
    })
}
