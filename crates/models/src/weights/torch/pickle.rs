//! A restricted pickle machine, for files that PyTorch wrote.
//!
//! Pickle is a language whose programs can call anything; this machine runs only the instructions that tensors,
//! dictionaries, lists, tuples, numbers and texts need, knows only the functions that rebuild a tensor, and refuses all else by name.
//! Objects live in an arena and refer to each other by number: programs that share or nest them deeply cost no more than their length.
//!
//! Source: the instruction set as Python's `pickletools` documents it.

use std::collections::HashMap;

use crate::weights::WeightsError;
use crate::weights::file::Scan;
use bifocal_kernels::elements::Element;

/// The most objects, entries of lists and dictionaries, stack entries and memo entries that a program may make; a checkpoint of 10,000 tensors makes 200,000 objects.
const MAX_OBJECTS: usize = 1 << 22;
/// The longest number in bytes (the magic number of PyTorch has 10).
const MAX_NUMBER: usize = 16;
/// The longest key of a storage, and the most axes of a tensor: small, since each reference copies them.
const MAX_STORAGE_KEY: usize = 256;
const MAX_AXES: usize = 16;

/// A value: a scalar, or the number of an object in the [`Heap`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i128),
    Float,
    Object(usize),
}

/// What the arena holds.
#[derive(Debug)]
pub(super) enum Object {
    Text(String),
    Tuple(Vec<Value>),
    List(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    /// An object of a script class, until its state is set and it becomes a dictionary.
    Script,
    Function(Function),
    Storage(Storage),
    Tensor(Tensor),
}

/// The globals that this machine knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    StorageType(Element),
    /// A class of TorchScript; its objects are dictionaries of what they hold.
    ScriptClass,
}

/// A flat array of elements, kept elsewhere in the file under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Storage {
    pub(super) key: String,
    pub(super) element: Element,
    pub(super) len: u64,
}

/// A strided view of a storage.
#[derive(Debug, Clone)]
pub(super) struct Tensor {
    /// The object number of its [`Storage`].
    pub(super) storage: usize,
    pub(super) offset: u64,
    pub(super) shape: Vec<u64>,
    pub(super) strides: Vec<u64>,
}

/// The result of a program: its value, and the objects that it refers to.
#[derive(Debug)]
pub(super) struct Heap {
    pub(super) root: Value,
    objects: Vec<Object>,
}

impl Heap {
    pub(super) fn object(&self, value: Value) -> Option<&Object> {
        match value {
            Value::Object(number) => self.objects.get(number),
            _ => None,
        }
    }

    pub(super) fn text(&self, value: Value) -> Option<&str> {
        match self.object(value) {
            Some(Object::Text(text)) => Some(text),
            _ => None,
        }
    }

    pub(super) fn storages(&self) -> impl Iterator<Item = &Storage> {
        self.objects.iter().filter_map(|object| match object {
            Object::Storage(storage) => Some(storage),
            _ => None,
        })
    }

    pub(super) fn storage(&self, tensor: &Tensor) -> Option<&Storage> {
        match self.objects.get(tensor.storage) {
            Some(Object::Storage(storage)) => Some(storage),
            _ => None,
        }
    }
}

/// Runs one program from its first instruction to its STOP; the scan is left behind it.
pub(super) fn run(scan: &mut Scan<'_>) -> Result<Heap, WeightsError> {
    let mut machine = Machine {
        scan,
        objects: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        entries: 0,
    };
    let root = machine.run()?;
    Ok(Heap {
        root,
        objects: machine.objects,
    })
}

struct Machine<'a, 'f> {
    scan: &'a mut Scan<'f>,
    objects: Vec<Object>,
    stack: Vec<Value>,
    /// Lengths of the stack at each MARK.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    /// Entries of all lists and dictionaries together.
    entries: usize,
}

type Outcome<T> = Result<T, WeightsError>;

impl Machine<'_, '_> {
    fn run(&mut self) -> Outcome<Value> {
        loop {
            let size = self
                .objects
                .len()
                .max(self.stack.len())
                .max(self.memo.len())
                .max(self.marks.len())
                .max(self.entries);
            if size > MAX_OBJECTS {
                return Err(WeightsError::Limit {
                    path: self.scan.path().to_owned(),
                    place: "the number of objects in its pickle".into(),
                    value: size as u64,
                    limit: MAX_OBJECTS as u64,
                });
            }
            match self.scan.u8()? {
                0x80 => self.protocol()?,
                b'.' => return self.pop(),
                b'(' => self.marks.push(self.stack.len()),
                b'N' => self.stack.push(Value::None),
                0x88 => self.stack.push(Value::Bool(true)),
                0x89 => self.stack.push(Value::Bool(false)),
                b'K' => {
                    let n = self.scan.u8()?;
                    self.stack.push(Value::Int(n.into()));
                }
                b'M' => {
                    let n = u16::from_le_bytes(self.scan.array()?);
                    self.stack.push(Value::Int(n.into()));
                }
                b'J' => {
                    let n = i32::from_le_bytes(self.scan.array()?);
                    self.stack.push(Value::Int(n.into()));
                }
                0x8a => self.long()?,
                b'G' => {
                    // a float never matters for tensors: its value is dropped
                    self.scan.array::<8>()?;
                    self.stack.push(Value::Float);
                }
                b'X' | b'T' => {
                    let len = self.scan.u32()?;
                    self.text(len)?;
                }
                b'U' => {
                    let len = self.scan.u8()?;
                    self.text(len.into())?;
                }
                b')' => self.make(Object::Tuple(Vec::new())),
                b']' => self.make(Object::List(Vec::new())),
                b'}' => self.make(Object::Dict(Vec::new())),
                0x85 => self.tuple(1)?,
                0x86 => self.tuple(2)?,
                0x87 => self.tuple(3)?,
                b't' => {
                    let items = self.since_mark()?;
                    self.make(Object::Tuple(items));
                }
                b'a' => {
                    let item = self.pop()?;
                    self.append(vec![item])?;
                }
                b'e' => {
                    let items = self.since_mark()?;
                    self.append(items)?;
                }
                b's' => {
                    let value = self.pop()?;
                    let key = self.pop()?;
                    self.set_items(vec![key, value])?;
                }
                b'u' => {
                    let items = self.since_mark()?;
                    self.set_items(items)?;
                }
                b'q' => {
                    let slot = self.scan.u8()?;
                    self.put(slot.into())?;
                }
                b'r' => {
                    let slot = self.scan.u32()?;
                    self.put(slot)?;
                }
                b'h' => {
                    let slot = self.scan.u8()?;
                    self.get(slot.into())?;
                }
                b'j' => {
                    let slot = self.scan.u32()?;
                    self.get(slot)?;
                }
                b'c' => self.global()?,
                b'R' => self.reduce()?,
                b'b' => self.build()?,
                0x81 => self.new_object()?,
                b'Q' => self.persistent()?,
                other => {
                    return Err(self.refused(format!("the pickle instruction {}", name_of(other))));
                }
            }
        }
    }

    fn malformed(&self, detail: impl Into<String>) -> WeightsError {
        self.scan.malformed(detail)
    }

    fn refused(&self, what: String) -> WeightsError {
        WeightsError::unsupported(
            self.scan.path(),
            format!("{what} at byte {}", self.scan.position()),
            "Bifocal reads tensors, dictionaries, lists, tuples, numbers and texts and runs nothing; \
             save the model's state_dict() only, or convert it to safetensors",
        )
    }

    fn pop(&mut self) -> Outcome<Value> {
        // what lies below the last mark is out of reach until the mark is used
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.pop() {
            Some(value) if self.stack.len() >= floor => Ok(value),
            _ => Err(self.malformed("the pickle takes a value from an empty stack")),
        }
    }

    fn since_mark(&mut self) -> Outcome<Vec<Value>> {
        match self.marks.pop() {
            Some(mark) if mark <= self.stack.len() => Ok(self.stack.split_off(mark)),
            _ => Err(self.malformed("the pickle takes values since a mark that was not set")),
        }
    }

    fn make(&mut self, object: Object) {
        self.stack.push(Value::Object(self.objects.len()));
        self.objects.push(object);
    }

    fn object(&self, value: Value) -> Option<&Object> {
        match value {
            Value::Object(number) => self.objects.get(number),
            _ => None,
        }
    }

    fn protocol(&mut self) -> Outcome<()> {
        match self.scan.u8()? {
            0..=5 => Ok(()),
            other => Err(self.malformed(format!("pickle protocol {other} does not exist"))),
        }
    }

    fn long(&mut self) -> Outcome<()> {
        let len: usize = self.scan.u8()?.into();
        if len > MAX_NUMBER {
            return Err(self.refused(format!("a number of {len} bytes")));
        }
        let bytes = self.scan.bytes(len as u64)?;
        let fill = if bytes.last().is_some_and(|&b| b >= 0x80) {
            0xff
        } else {
            0
        };
        let mut wide = [fill; 16];
        wide[..len].copy_from_slice(&bytes);
        self.stack.push(Value::Int(i128::from_le_bytes(wide)));
        Ok(())
    }

    fn text(&mut self, len: u32) -> Outcome<()> {
        let text = self.scan.string(len.into())?;
        self.make(Object::Text(text));
        Ok(())
    }

    fn tuple(&mut self, len: usize) -> Outcome<()> {
        let mut items = vec![Value::None; len];
        for slot in items.iter_mut().rev() {
            *slot = self.pop()?;
        }
        self.make(Object::Tuple(items));
        Ok(())
    }

    fn append(&mut self, items: Vec<Value>) -> Outcome<()> {
        self.entries += items.len();
        if let Some(Value::Object(number)) = self.stack.last()
            && let Some(Object::List(list)) = self.objects.get_mut(*number)
        {
            list.extend(items);
            return Ok(());
        }
        Err(self.malformed("the pickle appends to something that is no list"))
    }

    fn set_items(&mut self, items: Vec<Value>) -> Outcome<()> {
        self.entries += items.len();
        let (pairs, rest) = items.as_chunks::<2>();
        if let Some(Value::Object(number)) = self.stack.last()
            && let Some(Object::Dict(dict)) = self.objects.get_mut(*number)
            && rest.is_empty()
        {
            dict.extend(pairs.iter().map(|&[key, value]| (key, value)));
            return Ok(());
        }
        Err(self.malformed("the pickle sets items of something that is no dictionary"))
    }

    fn put(&mut self, slot: u32) -> Outcome<()> {
        match self.stack.last() {
            Some(&value) => {
                self.memo.insert(slot, value);
                Ok(())
            }
            None => Err(self.malformed("the pickle remembers a value of an empty stack")),
        }
    }

    fn get(&mut self, slot: u32) -> Outcome<()> {
        match self.memo.get(&slot) {
            Some(&value) => {
                self.stack.push(value);
                Ok(())
            }
            None => Err(self.malformed(format!("the pickle recalls value {slot}, which it never stored"))),
        }
    }

    /// A line of a GLOBAL instruction.
    fn line(&mut self) -> Outcome<String> {
        const MAX_LINE: usize = 256;
        let mut line = Vec::new();
        loop {
            match self.scan.u8()? {
                b'\n' => break,
                byte if line.len() < MAX_LINE => line.push(byte),
                _ => return Err(self.malformed(format!("a name is longer than {MAX_LINE} bytes"))),
            }
        }
        String::from_utf8(line).map_err(|_| self.malformed("a name is not UTF-8"))
    }

    fn global(&mut self) -> Outcome<()> {
        let module = self.line()?;
        let name = self.line()?;
        let function = match (module.as_str(), name.as_str()) {
            ("collections", "OrderedDict") => Function::OrderedDict,
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Function::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Function::RebuildParameter,
            ("torch", "DoubleStorage") => Function::StorageType(Element::F64),
            ("torch", "FloatStorage") => Function::StorageType(Element::F32),
            ("torch", "HalfStorage") => Function::StorageType(Element::F16),
            ("torch", "BFloat16Storage") => Function::StorageType(Element::Bf16),
            ("torch", "LongStorage") => Function::StorageType(Element::I64),
            ("torch", "IntStorage") => Function::StorageType(Element::I32),
            ("torch", "ShortStorage") => Function::StorageType(Element::I16),
            ("torch", "CharStorage") => Function::StorageType(Element::I8),
            ("torch", "ByteStorage") => Function::StorageType(Element::U8),
            ("torch", "BoolStorage") => Function::StorageType(Element::Bool),
            _ if module == "__torch__" || module.starts_with("__torch__.") => Function::ScriptClass,
            _ => {
                return Err(self.refused(format!("the pickled global {module:?}.{name:?}").replace('"', "")));
            }
        };
        self.make(Object::Function(function));
        Ok(())
    }

    fn reduce(&mut self) -> Outcome<()> {
        let arguments = self.pop()?;
        let callee = self.pop()?;
        let (Some(Object::Function(function)), Some(Object::Tuple(arguments))) =
            (self.object(callee), self.object(arguments))
        else {
            return Err(self.malformed("the pickle calls something that is no function"));
        };
        match (*function, arguments.as_slice()) {
            (Function::OrderedDict, []) => self.make(Object::Dict(Vec::new())),
            // Python 2 wrote OrderedDict([[key, value], …])
            (Function::OrderedDict, &[pairs]) => {
                let dict = self.pairs(pairs)?;
                self.entries += dict.len();
                self.make(Object::Dict(dict));
            }
            (Function::RebuildTensor, &[storage, offset, shape, strides, ..]) => {
                let tensor = self.tensor(storage, offset, shape, strides);
                let tensor = tensor.ok_or_else(|| self.malformed("a tensor is described by wrong arguments"))?;
                self.make(Object::Tensor(tensor));
            }
            (Function::RebuildParameter, &[tensor, ..]) if matches!(self.object(tensor), Some(Object::Tensor(_))) => {
                self.stack.push(tensor);
            }
            _ => return Err(self.malformed("the pickle calls a function with wrong arguments")),
        }
        Ok(())
    }

    fn pairs(&self, list: Value) -> Outcome<Vec<(Value, Value)>> {
        let pair = |&item: &Value| match self.object(item) {
            Some(Object::List(pair) | Object::Tuple(pair)) => match pair.as_slice() {
                &[key, value] => Some((key, value)),
                _ => None,
            },
            _ => None,
        };
        match self.object(list) {
            Some(Object::List(items)) => items.iter().map(pair).collect(),
            _ => None,
        }
        .ok_or_else(|| self.malformed("an OrderedDict is made of something that is no list of pairs"))
    }

    fn tensor(&self, storage: Value, offset: Value, shape: Value, strides: Value) -> Option<Tensor> {
        let number = |value: &Value| match value {
            Value::Int(n) => u64::try_from(*n).ok(),
            _ => None,
        };
        let numbers = |value| match self.object(value) {
            Some(Object::Tuple(items) | Object::List(items)) if items.len() <= MAX_AXES => {
                items.iter().map(number).collect::<Option<Vec<u64>>>()
            }
            _ => None,
        };
        let Value::Object(place) = storage else {
            return None;
        };
        let Some(Object::Storage(_)) = self.objects.get(place) else {
            return None;
        };
        let (shape, strides) = (numbers(shape)?, numbers(strides)?);
        (shape.len() == strides.len()).then_some(Tensor {
            storage: place,
            offset: number(&offset)?,
            shape,
            strides,
        })
    }

    /// An object of a script class, which is made without arguments.
    fn new_object(&mut self) -> Outcome<()> {
        let arguments = self.pop()?;
        let class = self.pop()?;
        match (self.object(class), self.object(arguments)) {
            (Some(Object::Function(Function::ScriptClass)), Some(Object::Tuple(none))) if none.is_empty() => {
                self.make(Object::Script);
                Ok(())
            }
            _ => Err(self.refused("the pickle instruction NEWOBJ (0x81)".into())),
        }
    }

    /// Sets the state of an object. Dictionaries of tensors carry version numbers in theirs, which are not needed; the state of a
    /// script object is what it holds.
    fn build(&mut self) -> Outcome<()> {
        let state = self.pop()?;
        let target = self.stack.last().copied().unwrap_or(Value::None);
        match (self.object(target), self.object(state)) {
            (Some(Object::Dict(_)), Some(Object::Dict(_))) => Ok(()),
            (Some(Object::Script), Some(Object::Dict(entries))) => {
                let held = entries.clone();
                self.entries += held.len();
                if let Value::Object(number) = target {
                    self.objects[number] = Object::Dict(held);
                }
                Ok(())
            }
            _ => Err(self.refused("the state of an object that is no dictionary".into())),
        }
    }

    /// A reference to a storage: ("storage", type, key, device, number of elements[, view]).
    fn persistent(&mut self) -> Outcome<()> {
        let reference = self.pop()?;
        let Some(Object::Tuple(parts)) = self.object(reference) else {
            return Err(self.malformed("a persistent reference is no tuple"));
        };
        let Some((&[tag, kind, key, _device, len], view)) = parts.split_first_chunk::<5>() else {
            return Err(self.malformed("a persistent reference has less than five parts"));
        };
        if !view.is_empty() && view != [Value::None] {
            return Err(self.refused("a storage that is a view of another".into()));
        }
        let text = |value| match self.object(value) {
            Some(Object::Text(text)) => Some(text.as_str()),
            _ => None,
        };
        let (Some("storage"), Some(Object::Function(Function::StorageType(element))), Some(key), Value::Int(len)) =
            (text(tag), self.object(kind), text(key), len)
        else {
            return Err(self.malformed("a persistent reference is no reference to a storage"));
        };
        let Ok(len) = u64::try_from(len) else {
            return Err(self.malformed("a storage has a negative number of elements"));
        };
        if key.len() > MAX_STORAGE_KEY {
            return Err(self.malformed(format!("the key of a storage is longer than {MAX_STORAGE_KEY} bytes")));
        }
        let storage = Storage {
            key: key.to_owned(),
            element: *element,
            len,
        };
        self.make(Object::Storage(storage));
        Ok(())
    }
}

/// The name of an instruction that is refused.
fn name_of(opcode: u8) -> String {
    let name = match opcode {
        b'i' => "INST",
        b'o' => "OBJ",
        0x92 => "NEWOBJ_EX",
        0x93 => "STACK_GLOBAL",
        0x82..=0x84 => "EXT",
        b'P' => "PERSID",
        b'0' => "POP",
        b'1' => "POP_MARK",
        b'2' => "DUP",
        0x8b => "LONG4",
        0x8c => "SHORT_BINUNICODE",
        0x94 => "MEMOIZE",
        0x95 => "FRAME",
        _ => return format!("0x{opcode:02x}"),
    };
    format!("{name} (0x{opcode:02x})")
}
