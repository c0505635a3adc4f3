//! A pickle machine that can build a state dict and nothing else.
//!
//! Values live in one arena and refer to each other by number, so a hostile pickle can neither recurse nor
//! make cycles that cost more than its own bytes. Opcodes as in CPython's `pickletools`.

use std::collections::HashMap;

use super::TorchFault;
use super::allowed::{Global, opcode_name};
use crate::dtype::Dtype;
use crate::safetensors::{MAX_NAME_BYTES, MAX_RANK};

/// Most values of one pickle; a state dict makes about 15 a tensor.
const MAX_VALUES: usize = 500_000;

/// Most marks at a time; a state dict nests three.
const MAX_MARKS: usize = 1_000;

/// Longest key of a storage; torch numbers them.
const MAX_KEY_BYTES: usize = 64;

/// What the pickle says of a tensor.
pub(super) struct TensorRecord {
    pub(super) name: String,
    pub(super) storage: Storage,
    /// In elements.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    /// In elements.
    pub(super) strides: Vec<usize>,
}

/// What the pickle says of a storage.
#[derive(Clone)]
pub(super) struct Storage {
    pub(super) key: String,
    pub(super) dtype: Dtype,
    pub(super) elements: usize,
}

/// The tensors of a pickled state dict, in its order.
pub(super) fn state_dict(pickle: &[u8]) -> Result<Vec<TensorRecord>, TorchFault> {
    let mut machine = Machine::new(pickle);
    let root = machine.run()?;
    let Some(Value::Dict(entries)) = machine.value(root) else {
        return Err(TorchFault::NotAStateDict(machine.kind(root)));
    };
    let mut seen = std::collections::HashSet::new();
    let mut records = Vec::new();
    for &(key, value) in entries {
        let Some(Value::Text(name)) = machine.value(key) else {
            return Err(TorchFault::NotAStateDict(
                "a dict whose keys are not all strings",
            ));
        };
        let Some(Value::Tensor(view)) = machine.value(value) else {
            let found = machine.kind(value);
            return Err(TorchFault::NotATensor {
                key: (*name).to_owned(),
                found,
            });
        };
        let bad_name = name.is_empty() || name.len() > MAX_NAME_BYTES;
        if bad_name || name.chars().any(char::is_control) {
            return Err(TorchFault::NotAStateDict(
                "a tensor whose name is empty, too long or not printable",
            ));
        }
        if !seen.insert(*name) {
            return Err(TorchFault::DuplicateKey((*name).to_owned()));
        }
        let Some(Value::Storage {
            key,
            dtype,
            elements,
        }) = machine.value(view.storage)
        else {
            return Err(TorchFault::NotATensor {
                key: (*name).to_owned(),
                found: "without storage",
            });
        };
        records.push(TensorRecord {
            name: (*name).to_owned(),
            storage: Storage {
                key: (*key).to_owned(),
                dtype: *dtype,
                elements: *elements,
            },
            offset: view.offset,
            shape: view.shape.to_vec(),
            strides: view.strides.to_vec(),
        });
    }
    Ok(records)
}

/// A place in the arena.
type Id = u32;

enum Value<'a> {
    None,
    Bool,
    Int(i64),
    Float,
    Text(&'a str),
    Tuple(Box<[Id]>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Storage {
        key: &'a str,
        dtype: Dtype,
        elements: usize,
    },
    Tensor(Box<View>),
}

struct View {
    storage: Id,
    offset: usize,
    shape: Box<[usize]>,
    strides: Box<[usize]>,
}

struct Machine<'a> {
    pickle: &'a [u8],
    at: usize,
    values: Vec<Value<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    fn new(pickle: &'a [u8]) -> Self {
        let memo = HashMap::new();
        Self {
            pickle,
            at: 0,
            values: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo,
        }
    }

    fn value(&self, id: Id) -> Option<&Value<'a>> {
        self.values.get(id as usize)
    }

    fn kind(&self, id: Id) -> &'static str {
        match self.value(id) {
            Some(Value::None) | None => "nothing",
            Some(Value::Bool) => "a boolean",
            Some(Value::Int(_)) => "an integer",
            Some(Value::Float) => "a float",
            Some(Value::Text(_)) => "a string",
            Some(Value::Tuple(_)) => "a tuple",
            Some(Value::List(_)) => "a list",
            Some(Value::Dict(_)) => "a dict",
            Some(Value::Global(_)) => "a name",
            Some(Value::Storage { .. }) => "a storage",
            Some(Value::Tensor(_)) => "a tensor",
        }
    }

    /// Runs to STOP; what lies on top then is the pickle's value.
    fn run(&mut self) -> Result<Id, TorchFault> {
        loop {
            let at = self.at;
            match self.byte()? {
                b'.' => return self.pop(),
                0x80 => drop(self.byte()?),   // PROTO
                0x95 => drop(self.bytes(8)?), // FRAME
                b'(' => self.mark()?,
                opcode => self.step(opcode, at)?,
            }
        }
    }

    fn step(&mut self, opcode: u8, at: usize) -> Result<(), TorchFault> {
        match opcode {
            b'N' | 0x88 | 0x89 | b'J' | b'K' | b'M' | 0x8a | b'G' | b'X' | 0x8c => {
                self.scalar(opcode)
            }
            b')' => self.push(Value::Tuple(Box::new([]))),
            b']' => self.push(Value::List(Vec::new())),
            b'}' => self.push(Value::Dict(Vec::new())),
            0x85..=0x87 => self.tuple(usize::from(opcode - 0x84)),
            b't' => {
                let items = self.pop_mark()?;
                self.push(Value::Tuple(items.into()))
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])
            }
            b'e' => {
                let items = self.pop_mark()?;
                self.append(items)
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(&[key, value])
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.set_items(&items)
            }
            b'q' | b'r' | 0x94 | b'h' | b'j' => self.remember(opcode),
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Value::Global(Global::of(module, name)?))
            }
            0x93 => self.stack_global(),
            b'R' => self.reduce(),
            b'b' => self.build(),
            b'Q' => self.persistent(),
            _ => Err(TorchFault::Opcode {
                code: opcode,
                name: opcode_name(opcode),
                at,
            }),
        }
    }

    fn fault(&self, why: &'static str) -> TorchFault {
        TorchFault::Pickle { at: self.at, why }
    }

    fn byte(&mut self) -> Result<u8, TorchFault> {
        let byte = self
            .pickle
            .get(self.at)
            .copied()
            .ok_or(TorchFault::PickleEnd)?;
        self.at += 1;
        Ok(byte)
    }

    fn bytes(&mut self, count: usize) -> Result<&'a [u8], TorchFault> {
        let end = self.at.checked_add(count).ok_or(TorchFault::PickleEnd)?;
        let bytes = self.pickle.get(self.at..end).ok_or(TorchFault::PickleEnd)?;
        self.at = end;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], TorchFault> {
        self.bytes(N)?.try_into().map_err(|_| TorchFault::PickleEnd)
    }

    fn text(&mut self, count: usize) -> Result<&'a str, TorchFault> {
        let bytes = self.bytes(count)?;
        std::str::from_utf8(bytes).map_err(|_| self.fault("a string is not utf-8"))
    }

    fn line(&mut self) -> Result<&'a str, TorchFault> {
        let rest = self.pickle.get(self.at..).unwrap_or_default();
        let length = rest
            .iter()
            .position(|&byte| byte == b'\n')
            .ok_or(TorchFault::PickleEnd)?;
        let line = self.text(length)?;
        self.at += 1;
        Ok(line)
    }

    fn push(&mut self, value: Value<'a>) -> Result<(), TorchFault> {
        if self.values.len() == MAX_VALUES {
            return Err(TorchFault::TooManyValues(MAX_VALUES));
        }
        let id = Id::try_from(self.values.len()).expect("MAX_VALUES fits");
        self.values.push(value);
        self.lift(id)
    }

    /// Puts a value on the stack, which may not outgrow the arena: `h` takes two bytes of pickle.
    fn lift(&mut self, id: Id) -> Result<(), TorchFault> {
        if self.stack.len() == MAX_VALUES {
            return Err(TorchFault::TooManyValues(MAX_VALUES));
        }
        self.stack.push(id);
        Ok(())
    }

    fn mark(&mut self) -> Result<(), TorchFault> {
        if self.marks.len() == MAX_MARKS {
            return Err(self.fault("too many marks"));
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    /// The top of the stack, down to the last mark.
    fn pop(&mut self) -> Result<Id, TorchFault> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(self.fault("the stack is empty"));
        }
        self.stack
            .pop()
            .ok_or_else(|| self.fault("the stack is empty"))
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>, TorchFault> {
        let mark = self
            .marks
            .pop()
            .ok_or_else(|| self.fault("there is no mark"))?;
        if mark > self.stack.len() {
            return Err(self.fault("the stack is below its mark"));
        }
        Ok(self.stack.split_off(mark))
    }

    fn scalar(&mut self, opcode: u8) -> Result<(), TorchFault> {
        let value = match opcode {
            b'N' => Value::None,
            b'J' => Value::Int(i32::from_le_bytes(self.array()?).into()),
            b'K' => Value::Int(self.byte()?.into()),
            b'M' => Value::Int(u16::from_le_bytes(self.array()?).into()),
            0x8a => Value::Int(self.long()?),
            b'G' => {
                self.bytes(8)?;
                Value::Float
            }
            b'X' => {
                let length = u32::from_le_bytes(self.array()?);
                Value::Text(self.text(length as usize)?)
            }
            0x8c => {
                let length = self.byte()?;
                Value::Text(self.text(length.into())?)
            }
            _ => Value::Bool,
        };
        self.push(value)
    }

    /// LONG1: little-endian two's complement of any length; ours has at most eight bytes.
    fn long(&mut self) -> Result<i64, TorchFault> {
        let length = self.byte()?;
        let bytes = self.bytes(length.into())?;
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        match wide.get_mut(..bytes.len()) {
            Some(low) => low.copy_from_slice(bytes),
            None => return Err(self.fault("an integer has more than 64 bits")),
        }
        Ok(i64::from_le_bytes(wide))
    }

    fn tuple(&mut self, count: usize) -> Result<(), TorchFault> {
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(self.pop()?);
        }
        items.reverse();
        self.push(Value::Tuple(items.into()))
    }

    /// The value on top, which stays there.
    fn top(&mut self) -> Result<&mut Value<'a>, TorchFault> {
        let id = self.pop()?;
        self.stack.push(id);
        let fault = self.fault("a value is missing");
        self.values.get_mut(id as usize).ok_or(fault)
    }

    fn append(&mut self, items: Vec<Id>) -> Result<(), TorchFault> {
        match self.top()? {
            Value::List(list) => list.extend(items),
            _ => return Err(self.fault("only a list can be appended to")),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Id]) -> Result<(), TorchFault> {
        if !items.len().is_multiple_of(2) {
            return Err(self.fault("a key has no value"));
        }
        match self.top()? {
            Value::Dict(entries) => {
                entries.extend(items.chunks_exact(2).filter_map(|pair| match pair {
                    &[key, value] => Some((key, value)),
                    _ => None,
                }));
                Ok(())
            }
            _ => Err(self.fault("only a dict has items")),
        }
    }

    fn remember(&mut self, opcode: u8) -> Result<(), TorchFault> {
        let index = match opcode {
            b'q' | b'h' => self.byte()?.into(),
            b'r' | b'j' => u32::from_le_bytes(self.array()?),
            _ => u32::try_from(self.memo.len()).map_err(|_| self.fault("the memo is full"))?,
        };
        if matches!(opcode, b'h' | b'j') {
            let id = self.memo.get(&index).copied();
            return self.lift(id.ok_or_else(|| self.fault("a memo is read before it is written"))?);
        }
        let id = self.pop()?;
        self.stack.push(id);
        self.memo.insert(index, id);
        match self.memo.len() <= MAX_VALUES {
            true => Ok(()),
            false => Err(TorchFault::TooManyValues(MAX_VALUES)),
        }
    }

    fn stack_global(&mut self) -> Result<(), TorchFault> {
        let (name, module) = (self.pop()?, self.pop()?);
        match (self.value(module), self.value(name)) {
            (Some(Value::Text(module)), Some(Value::Text(name))) => {
                let global = Global::of(module, name)?;
                self.push(Value::Global(global))
            }
            _ => Err(self.fault("a name to import is not a string")),
        }
    }

    /// A call. Only three names of the list can be called.
    fn reduce(&mut self) -> Result<(), TorchFault> {
        let (arguments, callee) = (self.pop()?, self.pop()?);
        let Some(Value::Tuple(arguments)) = self.value(arguments) else {
            return Err(self.fault("the arguments of a call are not a tuple"));
        };
        // No function of the list looks further; copying all would let a short pickle cost quadratic time.
        let arguments: Vec<Id> = arguments.iter().copied().take(4).collect();
        match self.value(callee) {
            Some(Value::Global(Global::OrderedDict)) if arguments.is_empty() => {
                self.push(Value::Dict(Vec::new()))
            }
            Some(Value::Global(Global::RebuildTensor)) => {
                let view = self.view(&arguments)?;
                self.push(Value::Tensor(Box::new(view)))
            }
            Some(Value::Global(Global::RebuildParameter)) => match arguments.first() {
                Some(&tensor) if matches!(self.value(tensor), Some(Value::Tensor(_))) => {
                    self.lift(tensor)
                }
                _ => Err(self.fault("a parameter is not made of a tensor")),
            },
            _ => Err(self.fault("a value that is not a function is called")),
        }
    }

    /// `_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, backward_hooks[, metadata])`.
    fn view(&self, arguments: &[Id]) -> Result<View, TorchFault> {
        let &[storage, offset, shape, strides, ..] = arguments else {
            return Err(self.fault("a tensor has too few arguments"));
        };
        if !matches!(self.value(storage), Some(Value::Storage { .. })) {
            return Err(self.fault("a tensor has no storage"));
        }
        let offset = self.size(offset)?;
        let (shape, strides) = (self.sizes(shape)?, self.sizes(strides)?);
        if shape.len() != strides.len() {
            return Err(self.fault("a shape and its strides differ in length"));
        }
        Ok(View {
            storage,
            offset,
            shape,
            strides,
        })
    }

    fn size(&self, id: Id) -> Result<usize, TorchFault> {
        let size = match self.value(id) {
            Some(Value::Int(value)) => usize::try_from(*value).ok(),
            _ => None,
        };
        size.ok_or_else(|| self.fault("a size is not an integer from 0"))
    }

    fn sizes(&self, id: Id) -> Result<Box<[usize]>, TorchFault> {
        match self.value(id) {
            Some(Value::Tuple(items)) if items.len() <= MAX_RANK => {
                items.iter().map(|&item| self.size(item)).collect()
            }
            _ => Err(self.fault("a shape is not a tuple of at most 16 sizes")),
        }
    }

    /// State given to an object: a state dict's `_metadata`, which says nothing of its tensors.
    fn build(&mut self) -> Result<(), TorchFault> {
        let state = self.pop()?;
        let is_dict = |value: Option<&Value<'_>>| matches!(value, Some(Value::Dict(_)));
        let state = is_dict(self.value(state));
        let object = self.stack.last().copied();
        if state && object.is_some_and(|object| is_dict(self.value(object))) {
            return Ok(());
        }
        Err(self.fault("state is given to something else than a dict"))
    }

    /// `('storage', <type>, key, location, elements)`.
    fn persistent(&mut self) -> Result<(), TorchFault> {
        let id = self.pop()?;
        let Some(Value::Tuple(parts)) = self.value(id) else {
            return Err(self.fault("a persistent id is not a tuple"));
        };
        let &[tag, global, key, _location, elements] = &**parts else {
            return Err(self.fault("a persistent id has not five parts"));
        };
        match (self.value(tag), self.value(global), self.value(key)) {
            (
                Some(Value::Text("storage")),
                Some(Value::Global(Global::StorageOf(dtype))),
                Some(Value::Text(key)),
            ) => {
                let (dtype, key) = (*dtype, *key);
                if key.len() > MAX_KEY_BYTES {
                    return Err(self.fault("the key of a storage is too long"));
                }
                let elements = self.size(elements)?;
                self.push(Value::Storage {
                    key,
                    dtype,
                    elements,
                })
            }
            _ => Err(self.fault("a persistent id is not of a storage")),
        }
    }
}
