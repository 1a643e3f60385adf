//! Python's pickles, as far as PyTorch's archives need them, without running anything.
//!
//! A pickle is a program for a small stack machine. Its instructions can name any function of
//! Python and have it called; here a call only becomes a note of what was to be called with what
//! ([`Node::Call`]). Objects lie in an arena and refer to each other by index: what a pickle says
//! twice is kept once, and what it nests is walked with a limit.

use std::collections::HashMap;

/// An object's index in the arena.
pub(super) type Id = usize;

/// An object of a pickle.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    /// A number.
    Int(i64),
    Text(String),
    /// A function or class of Python: module and name.
    Global(String, String),
    /// Objects in a fixed number.
    Tuple(Vec<Id>),
    /// Objects.
    List(Vec<Id>),
    /// Keys and values, in the order of the file.
    Dict(Vec<(Id, Id)>),
    /// What Python would call, with what, and the state that it would give the result.
    Call {
        callable: Id,
        args: Id,
        state: Option<Id>,
    },
    /// Something outside the pickle: a storage.
    Persistent(Id),
    /// None, truth values, fractions, bytes, sets: nothing that tensors are made of.
    Other,
}

/// A pickle that was read.
#[derive(Debug)]
pub(super) struct Pickle {
    nodes: Vec<Node>,
    root: Id,
}

impl Pickle {
    /// Reads a pickle of protocol 2 to 5.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut machine = Machine {
            bytes,
            at: 0,
            nodes: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        };
        loop {
            let at = machine.at;
            let done = machine.step();
            match done.map_err(|flaw| format!("its pickle is damaged at byte {at}: {flaw}"))? {
                Step::Next => {}
                Step::Stop(root) => {
                    let nodes = machine.nodes;
                    return Ok(Self { nodes, root });
                }
            }
        }
    }

    pub(super) fn root(&self) -> Id {
        self.root
    }

    pub(super) fn node(&self, id: Id) -> &Node {
        &self.nodes[id]
    }

    pub(super) fn text(&self, id: Id) -> Option<&str> {
        match self.node(id) {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn global(&self, id: Id) -> Option<(&str, &str)> {
        match self.node(id) {
            Node::Global(module, name) => Some((module, name)),
            _ => None,
        }
    }

    pub(super) fn tuple(&self, id: Id) -> Option<&[Id]> {
        match self.node(id) {
            Node::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// A number that counts something.
    pub(super) fn count(&self, id: Id) -> Option<usize> {
        match self.node(id) {
            Node::Int(number) => usize::try_from(*number).ok(),
            _ => None,
        }
    }

    /// A tuple or list of such numbers.
    pub(super) fn counts(&self, id: Id) -> Option<Vec<usize>> {
        match self.node(id) {
            Node::Tuple(items) | Node::List(items) => {
                items.iter().map(|item| self.count(*item)).collect()
            }
            _ => None,
        }
    }
}

enum Step {
    Next,
    Stop(Id),
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    stack: Vec<Id>,
    /// Heights of the stack at which marks stand.
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
}

impl<'a> Machine<'a> {
    /// One instruction. Their letters are those of Python's `pickle` module.
    fn step(&mut self) -> Result<Step, String> {
        match self.byte()? {
            0x80 => self.skip(1)?,
            0x95 => self.skip(8)?,
            b'.' => return Ok(Step::Stop(self.pop()?)),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_to_mark()?),
            b'2' => self.stack.push(self.top()?),
            code @ (b'q' | b'r' | 0x94 | b'h' | b'j') => self.memory(code)?,
            code @ (b'K' | b'M' | b'J' | 0x8a | 0x8b) => self.integer(code)?,
            code @ (b'X' | 0x8c | 0x8d | b'U' | b'T' | b'B' | b'C' | 0x8e) => self.string(code)?,
            b'N' | 0x88 | 0x89 | 0x8f => self.push(Node::Other),
            b'G' => {
                self.skip(8)?;
                self.push(Node::Other);
            }
            code @ (b')' | b't' | 0x85..=0x87 | b']' | b'l' | b'}' | b'd') => self.made(code)?,
            code @ (b'a' | b'e' | b's' | b'u' | 0x90) => self.filled(code)?,
            0x91 => {
                self.pop_to_mark()?;
                self.push(Node::Other);
            }
            code @ (b'c' | 0x93 | b'Q' | b'R' | 0x81 | 0x92 | b'b') => self.call(code)?,
            code => return Err(format!("instruction {code:#04x} is none that weights need")),
        }
        Ok(Step::Next)
    }

    /// Remembering the top of the stack under a number, and bringing it back.
    fn memory(&mut self, code: u8) -> Result<(), String> {
        let key = match code {
            b'q' | b'h' => u64::from(self.byte()?),
            b'r' | b'j' => self.unsigned(4)?,
            _ => self.memo.len() as u64,
        };
        if matches!(code, b'h' | b'j') {
            let found = self.memo.get(&key);
            let id = *found.ok_or_else(|| format!("nothing is remembered as {key}"))?;
            self.stack.push(id);
        } else {
            let top = self.top()?;
            self.memo.insert(key, top);
        }
        Ok(())
    }

    fn integer(&mut self, code: u8) -> Result<(), String> {
        let length = match code {
            b'K' => 1,
            b'M' => 2,
            b'J' => 4,
            0x8a => u64::from(self.byte()?),
            _ => self.unsigned(4)?,
        };
        let length = self.length(length)?;
        let raw = self.take(length)?;
        let signed = !matches!(code, b'K' | b'M');
        let negative = signed && raw.last().is_some_and(|byte| byte & 0x80 != 0);
        let node = if raw.len() <= 8 {
            let mut wide = [if negative { 0xff } else { 0 }; 8];
            wide[..raw.len()].copy_from_slice(raw);
            Node::Int(i64::from_le_bytes(wide))
        } else {
            Node::Other
        };
        self.push(node);
        Ok(())
    }

    fn string(&mut self, code: u8) -> Result<(), String> {
        let length = match code {
            0x8c | b'U' | b'C' => u64::from(self.byte()?),
            b'X' | b'T' | b'B' => self.unsigned(4)?,
            _ => self.unsigned(8)?,
        };
        let length = self.length(length)?;
        let raw = self.take(length)?;
        let node = if matches!(code, b'B' | b'C' | 0x8e) {
            Node::Other
        } else {
            let text = std::str::from_utf8(raw).map_err(|_| "a text is not UTF-8".to_owned())?;
            Node::Text(text.to_owned())
        };
        self.push(node);
        Ok(())
    }

    /// New tuples, lists and dictionaries.
    fn made(&mut self, code: u8) -> Result<(), String> {
        let node = match code {
            b')' => Node::Tuple(Vec::new()),
            b']' => Node::List(Vec::new()),
            b'}' => Node::Dict(Vec::new()),
            b't' => Node::Tuple(self.pop_to_mark()?),
            b'l' => Node::List(self.pop_to_mark()?),
            b'd' => Node::Dict(pairs(&self.pop_to_mark()?)?),
            _ => {
                let count = usize::from(code - 0x84);
                let from = self.stack.len().checked_sub(count);
                let from = from.filter(|from| *from >= self.floor());
                let from = from.ok_or("the stack is empty")?;
                Node::Tuple(self.stack.split_off(from))
            }
        };
        self.push(node);
        Ok(())
    }

    /// Items into the list or dictionary below them.
    fn filled(&mut self, code: u8) -> Result<(), String> {
        let items = match code {
            b'a' => vec![self.pop()?],
            b's' => {
                let value = self.pop()?;
                vec![self.pop()?, value]
            }
            _ => self.pop_to_mark()?,
        };
        let top = self.top()?;
        match (&mut self.nodes[top], code) {
            (Node::List(list), b'a' | b'e') => list.extend(items),
            (Node::Dict(dict), b's' | b'u') => dict.extend(pairs(&items)?),
            // Subclasses of lists and dictionaries, and sets: what is in them is not looked at.
            (Node::Call { .. } | Node::Other, _) => {}
            _ => return Err("items for what holds none".to_owned()),
        }
        Ok(())
    }

    /// Functions, classes, calls and storages: noted, never called.
    fn call(&mut self, code: u8) -> Result<(), String> {
        let node = match code {
            b'c' => Node::Global(self.line()?, self.line()?),
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (&self.nodes[module], &self.nodes[name]) {
                    (Node::Text(module), Node::Text(name)) => {
                        Node::Global(module.clone(), name.clone())
                    }
                    _ => return Err("a function without a name".to_owned()),
                }
            }
            b'Q' => Node::Persistent(self.pop()?),
            b'b' => return self.state(),
            _ => {
                if code == 0x92 {
                    self.pop()?;
                }
                let args = self.pop()?;
                let callable = self.pop()?;
                if self.is_dictionary(callable) {
                    Node::Dict(Vec::new())
                } else {
                    Node::Call {
                        callable,
                        args,
                        state: None,
                    }
                }
            }
        };
        self.push(node);
        Ok(())
    }

    /// The state of the object below it. A dictionary's own attributes are of no interest.
    fn state(&mut self) -> Result<(), String> {
        let given = self.pop()?;
        let top = self.top()?;
        if let Node::Call { state, .. } = &mut self.nodes[top] {
            *state = Some(given);
        }
        Ok(())
    }

    fn is_dictionary(&self, callable: Id) -> bool {
        let Node::Global(module, name) = &self.nodes[callable] else {
            return false;
        };
        matches!(
            (module.as_str(), name.as_str()),
            ("collections", "OrderedDict" | "defaultdict") | ("builtins" | "__builtin__", "dict")
        )
    }

    fn push(&mut self, node: Node) {
        self.nodes.push(node);
        self.stack.push(self.nodes.len() - 1);
    }

    /// The height below which nothing belongs to the innermost mark.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Result<Id, String> {
        let top = self
            .stack
            .last()
            .filter(|_| self.stack.len() > self.floor());
        top.copied().ok_or_else(|| "the stack is empty".to_owned())
    }

    fn pop(&mut self) -> Result<Id, String> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().ok_or("there is no mark")?;
        Ok(self.stack.split_off(mark))
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    fn unsigned(&mut self, length: usize) -> Result<u64, String> {
        let raw = self.take(length)?;
        Ok(raw
            .iter()
            .rev()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    }

    fn length(&self, length: u64) -> Result<usize, String> {
        let left = self.bytes.len() - self.at;
        usize::try_from(length)
            .ok()
            .filter(|length| *length <= left)
            .ok_or_else(|| format!("{length} bytes are announced, {left} are left"))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let end = self
            .at
            .checked_add(length)
            .filter(|end| *end <= self.bytes.len());
        let end = end.ok_or("it ends in the middle of an instruction")?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn skip(&mut self, length: usize) -> Result<(), String> {
        self.take(length).map(drop)
    }

    fn line(&mut self) -> Result<String, String> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|byte| *byte == b'\n');
        let length = length.ok_or("a name has no end")?;
        let text = std::str::from_utf8(&rest[..length]).map_err(|_| "a name is not UTF-8")?;
        let text = text.trim_end_matches('\r').to_owned();
        self.at += length + 1;
        Ok(text)
    }
}

fn pairs(items: &[Id]) -> Result<Vec<(Id, Id)>, String> {
    let chunks = items.chunks_exact(2);
    if !chunks.remainder().is_empty() {
        return Err("a key without a value".to_owned());
    }
    Ok(chunks.map(|pair| (pair[0], pair[1])).collect())
}
