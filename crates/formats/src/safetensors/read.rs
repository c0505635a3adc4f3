//! The header and its checks.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{MAX_DEPTH, MAX_HEADER_BYTES, MAX_METADATA, MAX_NAME_BYTES, MAX_RANK, MAX_TENSORS};
use crate::dtype::Dtype;
use crate::pyjson::{Json, JsonFault, Scanner};

/// Why a file is not a safetensors file that we read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SafetensorsFault {
    /// Less than the eight bytes of the header's length.
    #[error("the file has {0} bytes, the header's length alone takes 8")]
    TooShort(usize),
    /// The header claims more than [`MAX_HEADER_BYTES`].
    #[error("the header claims {0} bytes, more than {MAX_HEADER_BYTES}")]
    HeaderTooLong(u64),
    /// The header claims more than the file has.
    #[error("the header claims {header} bytes, the file has {file} in all")]
    HeaderBeyondFile {
        /// Claimed by the first eight bytes.
        header: u64,
        /// Size of the file.
        file: usize,
    },
    /// The header does not begin with `{`.
    #[error("the header does not begin with `{{`")]
    NotAnObject,
    /// The header is not UTF-8.
    #[error("the header is not utf-8 at byte {0}")]
    NotUtf8(usize),
    /// The header is not JSON.
    #[error("the header is not json: {0}")]
    Json(#[from] JsonFault),
    /// A key or tensor name is there twice.
    #[error("key `{0}` is there twice")]
    DuplicateKey(String),
    /// A tensor has a key that the format does not know.
    #[error("tensor `{tensor}` has an unknown key: `{key}`")]
    UnknownKey {
        /// Name of the tensor.
        tensor: String,
        /// The key.
        key: String,
    },
    /// A tensor lacks a key.
    #[error("tensor `{tensor}` has no `{key}`")]
    MissingKey {
        /// Name of the tensor.
        tensor: String,
        /// The key.
        key: &'static str,
    },
    /// A value of another kind than the format wants.
    #[error("`{key}` of `{tensor}` must be {want}")]
    WrongKind {
        /// Name of the tensor, or `__metadata__`.
        tensor: String,
        /// The key.
        key: String,
        /// What the format wants.
        want: &'static str,
    },
    /// A type that we do not know, or one of less than a byte.
    #[error("tensor `{tensor}` has an unknown dtype: `{dtype}`")]
    UnknownDtype {
        /// Name of the tensor.
        tensor: String,
        /// As the file spells it.
        dtype: String,
    },
    /// An empty name, one of more than [`MAX_NAME_BYTES`], or one with control characters.
    #[error("a tensor name is {why}: {name:?}")]
    Name {
        /// What is wrong with it.
        why: &'static str,
        /// The first 64 characters.
        name: String,
    },
    /// More than [`MAX_TENSORS`].
    #[error("more than {MAX_TENSORS} tensors")]
    TooManyTensors,
    /// More than [`MAX_METADATA`].
    #[error("more than {MAX_METADATA} entries of `__metadata__`")]
    TooMuchMetadata,
    /// More than [`MAX_RANK`] sides.
    #[error("tensor `{0}` has more than {MAX_RANK} dimensions")]
    Rank(String),
    /// A shape whose size does not fit in 64 bits.
    #[error("the size of tensor `{tensor}` overflows: {shape:?}")]
    Overflow {
        /// Name of the tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// Offsets that run backwards.
    #[error("tensor `{tensor}` ends before it begins: {begin}..{end}")]
    Backwards {
        /// Name of the tensor.
        tensor: String,
        /// First byte.
        begin: usize,
        /// Byte after the last.
        end: usize,
    },
    /// Offsets that are not the size of the shape.
    #[error("tensor `{tensor}` {dtype} {shape:?} needs {want} bytes: found {found}")]
    Size {
        /// Name of the tensor.
        tensor: String,
        /// Its type.
        dtype: Dtype,
        /// Its shape.
        shape: Vec<usize>,
        /// Bytes of that shape.
        want: usize,
        /// Bytes between the offsets.
        found: usize,
    },
    /// A tensor that shares bytes with the one before it.
    #[error(
        "tensor `{tensor}` begins at {begin}, inside the one before it, which ends at {before}"
    )]
    Overlap {
        /// Name of the tensor.
        tensor: String,
        /// First byte.
        begin: usize,
        /// End of the one before.
        before: usize,
    },
    /// Bytes before a tensor that belong to none.
    #[error("bytes {before}..{begin} before tensor `{tensor}` belong to no tensor")]
    Hole {
        /// Name of the tensor.
        tensor: String,
        /// First byte.
        begin: usize,
        /// End of the one before.
        before: usize,
    },
    /// Bytes after the last tensor.
    #[error("{0} bytes after the last tensor belong to no tensor")]
    Tail(usize),
    /// The tensors end beyond the file: it was cut.
    #[error("the tensors need {want} bytes, the file has {found} after its header")]
    Cut {
        /// End of the last tensor.
        want: usize,
        /// Bytes after the header.
        found: usize,
    },
}

impl SafetensorsFault {
    /// How to mend it, where we know.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::TooShort(_)
            | Self::HeaderBeyondFile { .. }
            | Self::HeaderTooLong(_)
            | Self::NotAnObject
            | Self::Cut { .. } => {
                "fetch the file again; a broken download or a git-lfs pointer looks like this"
            }
            Self::UnknownDtype { .. } => "convert the weights to F32, F16 or BF16",
            _ => "do not trust this file: no known writer makes it",
        };
        Some(hint.to_owned())
    }
}

/// What the header says of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: Box<str>,
    /// Type of its elements.
    pub dtype: Dtype,
    /// Its sides, slowest first.
    pub shape: Box<[usize]>,
    /// Its bytes, counted from the start of the file.
    pub range: Range<usize>,
}

/// A header that holds together: the tensors fill the file after it exactly, in order.
#[derive(Debug, Clone)]
pub struct Header {
    /// The texts under `__metadata__`.
    pub metadata: BTreeMap<String, String>,
    /// In the order of their bytes.
    pub tensors: Vec<TensorInfo>,
    /// Indices of `tensors` in the order of their names.
    by_name: Vec<u32>,
}

impl Header {
    /// Reads and checks the header of a whole file.
    ///
    /// # Errors
    /// [`SafetensorsFault`].
    pub fn parse(file: &[u8]) -> Result<Self, SafetensorsFault> {
        let header = header_bytes(file)?;
        let data_start = 8 + header.len();
        let mut raw = RawHeader::default();
        let mut scanner = Scanner::new(header, MAX_DEPTH);
        scanner.object(|scanner, key| raw.entry(scanner, &key))?;
        scanner.end()?;
        let RawHeader {
            metadata,
            mut tensors,
        } = raw;
        tensors.sort_unstable_by(|a, b| {
            (a.range.start, a.range.end)
                .cmp(&(b.range.start, b.range.end))
                .then_with(|| a.name.cmp(&b.name))
        });
        let by_name = sorted_names(&tensors)?;
        check_layout(&tensors, file.len() - data_start)?;
        for tensor in &mut tensors {
            tensor.range = data_start + tensor.range.start..data_start + tensor.range.end;
        }
        Ok(Self {
            metadata: metadata.unwrap_or_default(),
            tensors,
            by_name,
        })
    }

    /// The tensor of a name.
    pub fn get(&self, name: &str) -> Option<&TensorInfo> {
        let named = |&index: &u32| self.tensors.get(index as usize);
        let order = |index: &u32| named(index).map_or("", |tensor| &tensor.name).cmp(name);
        let found = self.by_name.binary_search_by(order).ok()?;
        self.by_name.get(found).and_then(named)
    }

    /// Bytes before the first tensor's: the length and the header's text.
    pub fn size_bytes(file: &[u8]) -> Result<usize, SafetensorsFault> {
        Ok(8 + header_bytes(file)?.len())
    }
}

fn header_bytes(file: &[u8]) -> Result<&[u8], SafetensorsFault> {
    let short = SafetensorsFault::TooShort(file.len());
    let (length, rest) = file.split_first_chunk().ok_or(short)?;
    let claimed = u64::from_le_bytes(*length);
    let length = usize::try_from(claimed).unwrap_or(usize::MAX);
    if length > MAX_HEADER_BYTES {
        return Err(SafetensorsFault::HeaderTooLong(claimed));
    }
    let beyond = SafetensorsFault::HeaderBeyondFile {
        header: claimed,
        file: file.len(),
    };
    let header = rest.get(..length).ok_or(beyond)?;
    if header.first() != Some(&b'{') {
        return Err(SafetensorsFault::NotAnObject);
    }
    std::str::from_utf8(header).map_err(|fault| SafetensorsFault::NotUtf8(fault.valid_up_to()))?;
    Ok(header)
}

#[derive(Default)]
struct RawHeader {
    metadata: Option<BTreeMap<String, String>>,
    /// Ranges counted from the end of the header.
    tensors: Vec<TensorInfo>,
}

impl RawHeader {
    fn entry(&mut self, scanner: &mut Scanner<'_>, key: &str) -> Result<(), SafetensorsFault> {
        if key != "__metadata__" {
            if self.tensors.len() == MAX_TENSORS {
                return Err(SafetensorsFault::TooManyTensors);
            }
            check_name(key)?;
            self.tensors.push(tensor(scanner, key)?);
            return Ok(());
        }
        let found = metadata(scanner)?;
        match self.metadata.replace(found) {
            None => Ok(()),
            Some(_) => Err(SafetensorsFault::DuplicateKey(key.to_owned())),
        }
    }
}

fn check_name(name: &str) -> Result<(), SafetensorsFault> {
    let why = if name.is_empty() {
        "empty"
    } else if name.len() > MAX_NAME_BYTES {
        "longer than 4096 bytes"
    } else if name.chars().any(char::is_control) {
        "not printable"
    } else {
        return Ok(());
    };
    Err(SafetensorsFault::Name {
        why,
        name: name.chars().take(64).collect(),
    })
}

fn metadata(scanner: &mut Scanner<'_>) -> Result<BTreeMap<String, String>, SafetensorsFault> {
    let wrong = |key: &str, want| SafetensorsFault::WrongKind {
        tensor: "__metadata__".to_owned(),
        key: key.to_owned(),
        want,
    };
    if scanner.peek() != Some(b'{') {
        return Err(wrong("__metadata__", "an object of strings"));
    }
    let mut texts = BTreeMap::new();
    scanner.object(|scanner, key| {
        if scanner.peek() != Some(b'"') {
            return Err(wrong(&key, "a string"));
        }
        if texts.len() == MAX_METADATA {
            return Err(SafetensorsFault::TooMuchMetadata);
        }
        let text = scanner.string()?.into_owned();
        match texts.insert(key.clone().into_owned(), text) {
            None => Ok(()),
            Some(_) => Err(SafetensorsFault::DuplicateKey(key.into_owned())),
        }
    })?;
    Ok(texts)
}

fn tensor(scanner: &mut Scanner<'_>, name: &str) -> Result<TensorInfo, SafetensorsFault> {
    let wrong = |key: &str, want| SafetensorsFault::WrongKind {
        tensor: name.to_owned(),
        key: key.to_owned(),
        want,
    };
    if scanner.peek() != Some(b'{') {
        return Err(wrong(name, "an object with dtype, shape and data_offsets"));
    }
    let (mut dtype, mut shape, mut offsets) = (None, None, None);
    scanner.object(|scanner, key| {
        let again = match &*key {
            "dtype" if scanner.peek() == Some(b'"') => {
                let text = scanner.string()?;
                let unknown = || SafetensorsFault::UnknownDtype {
                    tensor: name.to_owned(),
                    dtype: text.chars().take(64).collect(),
                };
                dtype
                    .replace(Dtype::from_name(&text).ok_or_else(unknown)?)
                    .is_some()
            }
            "dtype" => return Err(wrong("dtype", "a string")),
            "shape" => {
                let sides = integers(scanner, MAX_RANK, |want| wrong("shape", want))?;
                let sides = sides.ok_or_else(|| SafetensorsFault::Rank(name.to_owned()))?;
                shape.replace(sides).is_some()
            }
            "data_offsets" => {
                let found = integers(scanner, 2, |want| wrong("data_offsets", want))?;
                let pair = found.and_then(|found| <[usize; 2]>::try_from(&*found).ok());
                let pair = pair.ok_or_else(|| wrong("data_offsets", "two integers"))?;
                offsets.replace(pair).is_some()
            }
            _ => {
                let key = key.chars().take(64).collect();
                return Err(SafetensorsFault::UnknownKey {
                    tensor: name.to_owned(),
                    key,
                });
            }
        };
        match again {
            false => Ok(()),
            true => Err(SafetensorsFault::DuplicateKey(key.into_owned())),
        }
    })?;
    let missing = |key| SafetensorsFault::MissingKey {
        tensor: name.to_owned(),
        key,
    };
    let [begin, end] = offsets.ok_or_else(|| missing("data_offsets"))?;
    Ok(TensorInfo {
        name: name.into(),
        dtype: dtype.ok_or_else(|| missing("dtype"))?,
        shape: shape.ok_or_else(|| missing("shape"))?,
        range: begin..end,
    })
}

/// A list of integers from 0; `None` when it has more than `max`, which is at most [`MAX_RANK`]. Gathered on the
/// stack, so that a million shapes take exactly their size.
fn integers(
    scanner: &mut Scanner<'_>,
    max: usize,
    wrong: impl Fn(&'static str) -> SafetensorsFault,
) -> Result<Option<Box<[usize]>>, SafetensorsFault> {
    const WANT: &str = "a list of integers from 0 to 2^64";
    if scanner.peek() != Some(b'[') {
        return Err(wrong(WANT));
    }
    let mut found = [0; MAX_RANK];
    let mut count = 0;
    scanner.array(|scanner| {
        if matches!(scanner.peek(), Some(b'[' | b'{' | b'"')) {
            return Err(wrong(WANT));
        }
        let Json::Int(value) = scanner.scalar()? else {
            return Err(wrong(WANT));
        };
        let value = usize::try_from(value).map_err(|_| wrong(WANT))?;
        if let Some(slot) = found.get_mut(count) {
            *slot = value;
        }
        count += 1;
        Ok(())
    })?;
    let found = found.get(..count).filter(|_| count <= max);
    Ok(found.map(Box::from))
}

/// Sorting finds repeated names without a second copy of every name.
fn sorted_names(tensors: &[TensorInfo]) -> Result<Vec<u32>, SafetensorsFault> {
    let name = |index: u32| {
        tensors
            .get(index as usize)
            .map_or("", |tensor| &tensor.name)
    };
    let count = u32::try_from(tensors.len()).map_err(|_| SafetensorsFault::TooManyTensors)?;
    let mut by_name: Vec<u32> = (0..count).collect();
    by_name.sort_unstable_by(|&a, &b| name(a).cmp(name(b)));
    for pair in by_name.windows(2) {
        if let &[a, b] = pair
            && name(a) == name(b)
        {
            return Err(SafetensorsFault::DuplicateKey(name(a).to_owned()));
        }
    }
    Ok(by_name)
}

/// `tensors` in the order of their bytes must fill `available` exactly.
fn check_layout(tensors: &[TensorInfo], available: usize) -> Result<(), SafetensorsFault> {
    let mut before = 0;
    for tensor in tensors {
        check_size(tensor)?;
        let (begin, name) = (tensor.range.start, || tensor.name.to_string());
        if begin < before {
            return Err(SafetensorsFault::Overlap {
                tensor: name(),
                begin,
                before,
            });
        }
        if begin > before {
            return Err(SafetensorsFault::Hole {
                tensor: name(),
                begin,
                before,
            });
        }
        before = tensor.range.end;
    }
    match before.cmp(&available) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Less => Err(SafetensorsFault::Tail(available - before)),
        std::cmp::Ordering::Greater => Err(SafetensorsFault::Cut {
            want: before,
            found: available,
        }),
    }
}

fn check_size(tensor: &TensorInfo) -> Result<(), SafetensorsFault> {
    let name = || tensor.name.to_string();
    let Range { start: begin, end } = tensor.range;
    let found = end.checked_sub(begin);
    let found = found.ok_or_else(|| SafetensorsFault::Backwards {
        tensor: name(),
        begin,
        end,
    })?;
    let shape = || tensor.shape.to_vec();
    let want = tensor.dtype.tensor_bytes(&tensor.shape);
    let want = want.ok_or_else(|| SafetensorsFault::Overflow {
        tensor: name(),
        shape: shape(),
    })?;
    if want == found {
        return Ok(());
    }
    Err(SafetensorsFault::Size {
        tensor: name(),
        dtype: tensor.dtype,
        shape: shape(),
        want,
        found,
    })
}
