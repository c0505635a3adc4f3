//! The tensors of a model or adapter folder, by name, wherever they are stored.
//!
//! One file or an index with shards. Tensors are views of the mapped files: opening a model reads headers only.
//! An index is not believed: shard names must be plain file names, and what it says must be what the shards hold.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use durable::{Hasher, Mapped, MappedSlice};

use crate::dtype::Dtype;
use crate::error::FormatsError;
use crate::fields::bad_key;
use crate::pyjson::{Budget, JsonFault, MAX_DEPTH, Scanner, value};
use crate::safetensors::{Header, TensorInfo};
use crate::torch_bin::{TorchFile, TorchTensor};

/// Largest index of shards; one of half a million tensors has some 40 MiB.
pub const MAX_INDEX_BYTES: u64 = 64 << 20;
/// An entry of an index in memory: two strings and its part of a tree.
const INDEX_ENTRY_BYTES: usize = 144;
/// Largest adapter file: it is read into memory, since a file that is cut while mapped kills the process.
const MAX_ADAPTER_BYTES: u64 = 16 << 30;

/// A tensor as a file holds it.
#[derive(Debug, Clone)]
pub struct StoredTensor {
    /// Its name.
    pub name: String,
    /// Type of its elements.
    pub dtype: Dtype,
    /// Its sides, slowest first.
    pub shape: Vec<usize>,
    /// Its bytes, little-endian, row-major.
    pub bytes: MappedSlice,
}

impl StoredTensor {
    /// The values as f32; `None` when the type is not F32, F16, BF16 or F64.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        self.dtype.to_f32(&self.bytes)
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.bytes.len() / self.dtype.size_bytes()
    }
}

/// A file of the store.
#[derive(Debug, Clone)]
struct StoredFile {
    path: PathBuf,
    bytes: Mapped,
    /// Where the bytes lie that describe the rest.
    header: Range<usize>,
}

impl StoredFile {
    fn name(&self) -> String {
        self.path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }
}

/// All tensors of a folder.
#[derive(Debug, Clone)]
pub struct WeightStore {
    files: Vec<StoredFile>,
    tensors: BTreeMap<String, (usize, StoredTensor)>,
}

/// How a folder may store its weights, in the order in which transformers looks.
pub const MODEL_FILES: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];
/// The same of an adapter, in PEFT's order.
pub const ADAPTER_FILES: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];

impl WeightStore {
    /// Opens the weights of a model folder.
    ///
    /// # Errors
    /// [`FormatsError::NoWeights`]; [`FormatsError::File`]; [`FormatsError::Safetensors`] and
    /// [`FormatsError::Torch`] for a file that does not hold together; [`FormatsError::ShardName`], [`FormatsError::ShardLink`], [`FormatsError::MissingShard`],
    /// [`FormatsError::TensorTwice`], [`FormatsError::TensorAbsent`], [`FormatsError::TensorUnlisted`] for an
    /// index that does not fit its shards.
    pub fn open(model_dir: &Path) -> Result<Self, FormatsError> {
        let path = first_of(model_dir, &MODEL_FILES)?;
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            return open_index(&path);
        }
        Self::of_files(vec![open_file(&path)?])
    }

    /// Opens the weights of an adapter folder. They are read, not mapped.
    ///
    /// # Errors
    /// As [`WeightStore::open`].
    pub fn open_adapter(adapter_dir: &Path) -> Result<Self, FormatsError> {
        let path = first_of(adapter_dir, &ADAPTER_FILES)?;
        let bytes = Mapped::from_vec(durable::read_capped(&path, MAX_ADAPTER_BYTES)?);
        Self::of_files(vec![read_tensors(path, bytes)?])
    }

    /// Opens one file, mapped: safetensors by its extension, else a torch checkpoint.
    ///
    /// # Errors
    /// As [`WeightStore::open`].
    pub fn open_file(path: &Path) -> Result<Self, FormatsError> {
        Self::of_files(vec![open_file(path)?])
    }

    /// The same files with other tensors in them: what a merge makes in memory. [`WeightStore::check_unchanged`]
    /// still watches the files that unchanged tensors are views of. Of tensors with one name, the last stays.
    pub fn with_tensors(&self, tensors: Vec<StoredTensor>) -> Self {
        let named = tensors
            .into_iter()
            .map(|tensor| (tensor.name.clone(), (0, tensor)));
        Self {
            files: self.files.clone(),
            tensors: named.collect(),
        }
    }

    fn of_files(files: Vec<(StoredFile, Vec<StoredTensor>)>) -> Result<Self, FormatsError> {
        let mut store = Self {
            files: Vec::new(),
            tensors: BTreeMap::new(),
        };
        for (index, (file, tensors)) in files.into_iter().enumerate() {
            store.files.push(file);
            for tensor in tensors {
                store.add(index, tensor)?;
            }
        }
        Ok(store)
    }

    fn add(&mut self, file: usize, tensor: StoredTensor) -> Result<(), FormatsError> {
        let name = tensor.name.clone();
        let Some((first, _)) = self.tensors.insert(name.clone(), (file, tensor)) else {
            return Ok(());
        };
        let file_name = |index| {
            self.files
                .get(index)
                .map(StoredFile::name)
                .unwrap_or_default()
        };
        let (first, second) = (file_name(first), file_name(file));
        Err(FormatsError::TensorTwice {
            tensor: name,
            first,
            second,
        })
    }

    /// The names, sorted.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The tensors, by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &StoredTensor> {
        self.tensors.values().map(|(_, tensor)| tensor)
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// The tensor of a name; cheap, its bytes are shared.
    pub fn get(&self, name: &str) -> Option<StoredTensor> {
        self.tensors.get(name).map(|(_, tensor)| tensor.clone())
    }

    /// The files that hold the tensors.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// Checks that no mapped file has changed since it was opened.
    ///
    /// # Errors
    /// [`FormatsError::File`] with the file that has.
    pub fn check_unchanged(&self) -> Result<(), FormatsError> {
        self.files
            .iter()
            .try_for_each(|file| Ok(file.bytes.check_unchanged()?))
    }

    /// A fingerprint of the weights: SHA-256, as lower-case hex, over each file's name and size, its header, and
    /// 1 KiB from the start, middle and end of every tensor. It finds another model and another training of the
    /// same model without reading gigabytes; it does not find a change of single bytes elsewhere.
    pub fn digest(&self) -> String {
        let mut hasher = Hasher::new();
        for file in &self.files {
            hasher.update(file.name().as_bytes());
            hasher.update(&[0]);
            hasher.update(&(file.bytes.len() as u64).to_le_bytes());
            hasher.update(
                file.bytes
                    .as_ref()
                    .get(file.header.clone())
                    .unwrap_or_default(),
            );
        }
        for (_, tensor) in self.tensors.values() {
            for sample in samples(&tensor.bytes) {
                hasher.update(sample);
            }
        }
        hasher.finish()
    }
}

const SAMPLE_BYTES: usize = 1_024;

fn samples(bytes: &[u8]) -> [&[u8]; 3] {
    if bytes.len() <= 3 * SAMPLE_BYTES {
        return [bytes, &[], &[]];
    }
    let at = |start: usize| bytes.get(start..start + SAMPLE_BYTES).unwrap_or_default();
    [at(0), at(bytes.len() / 2), at(bytes.len() - SAMPLE_BYTES)]
}

fn first_of(folder: &Path, names: &[&str]) -> Result<PathBuf, FormatsError> {
    let found = names
        .iter()
        .map(|name| folder.join(name))
        .find(|path| durable::is_file(path));
    found.ok_or_else(|| FormatsError::NoWeights {
        folder: folder.to_owned(),
        looked_for: names.iter().map(|&name| name.to_owned()).collect(),
    })
}

fn open_file(path: &Path) -> Result<(StoredFile, Vec<StoredTensor>), FormatsError> {
    read_tensors(path.to_owned(), Mapped::open(path)?)
}

fn read_tensors(
    path: PathBuf,
    bytes: Mapped,
) -> Result<(StoredFile, Vec<StoredTensor>), FormatsError> {
    let safetensors = path
        .extension()
        .is_some_and(|extension| extension == "safetensors");
    let (header, tensors) = match safetensors {
        true => read_safetensors(&path, &bytes)?,
        false => read_torch(&path, &bytes)?,
    };
    let file = StoredFile {
        path,
        bytes,
        header,
    };
    Ok((file, tensors))
}

type Contents = (Range<usize>, Vec<StoredTensor>);

fn read_safetensors(path: &Path, bytes: &Mapped) -> Result<Contents, FormatsError> {
    let fault = |fault| FormatsError::Safetensors {
        path: path.to_owned(),
        fault,
    };
    let header = Header::parse(bytes).map_err(fault)?;
    let header_bytes = Header::size_bytes(bytes).map_err(fault)?;
    let view = |tensor: TensorInfo| StoredTensor {
        name: tensor.name.into(),
        dtype: tensor.dtype,
        shape: tensor.shape.into(),
        bytes: bytes.slice(tensor.range),
    };
    Ok((
        0..header_bytes,
        header.tensors.into_iter().map(view).collect(),
    ))
}

fn read_torch(path: &Path, bytes: &Mapped) -> Result<Contents, FormatsError> {
    let fault = |fault| FormatsError::Torch {
        path: path.to_owned(),
        fault,
    };
    let TorchFile { tensors, pickle } = TorchFile::parse(bytes).map_err(fault)?;
    let view = |tensor: TorchTensor| {
        let TorchTensor {
            name,
            dtype,
            shape,
            bytes,
        } = tensor;
        StoredTensor {
            name,
            dtype,
            shape,
            bytes,
        }
    };
    Ok((pickle, tensors.into_iter().map(view).collect()))
}

/// What an index says: the shard of each tensor.
fn open_index(path: &Path) -> Result<WeightStore, FormatsError> {
    let text = durable::read_capped(path, MAX_INDEX_BYTES)?;
    let weight_map = parse_index(&text, path)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut shards: Vec<&String> = weight_map.values().collect();
    shards.sort_unstable();
    shards.dedup();
    let shards = shards.into_iter().map(|name| shard(path, folder, name));
    let shards = shards.collect::<Result<Vec<_>, _>>()?;
    let files = shards.iter().map(|path| open_file(path));
    let files = files.collect::<Result<Vec<_>, _>>()?;
    let store = WeightStore::of_files(files)?;
    check_index(path, &weight_map, &store)?;
    Ok(store)
}

/// The path of a shard that is there, inside the folder.
fn shard(index: &Path, folder: &Path, name: &str) -> Result<PathBuf, FormatsError> {
    let shard = folder.join(name);
    let (index, named) = (index.to_owned(), name.to_owned());
    if !durable::is_file(&shard) {
        return Err(FormatsError::MissingShard { index, name: named });
    }
    match durable::leads_out(folder, name)? {
        false => Ok(shard),
        true => Err(FormatsError::ShardLink { index, name: named }),
    }
}

/// Reads an index; every shard is a plain file name.
pub(crate) fn parse_index(
    text: &[u8],
    path: &Path,
) -> Result<BTreeMap<String, String>, FormatsError> {
    let mut scanner = Scanner::new(text, MAX_DEPTH);
    let mut budget = Budget::of(text);
    let mut map = None;
    let read = scanner.object(|scanner, key| {
        if key == "weight_map" && scanner.peek() == Some(b'{') {
            map = Some(weight_map(scanner, &mut budget, path)?);
            return Ok(());
        }
        value(scanner, &mut budget)
            .map(drop)
            .map_err(IndexFault::Json)
    });
    match read.and_then(|()| scanner.end().map_err(IndexFault::Json)) {
        Ok(()) => {}
        Err(IndexFault::Json(fault)) => {
            return Err(FormatsError::Json {
                path: path.to_owned(),
                fault,
            });
        }
        Err(IndexFault::Other(error)) => return Err(*error),
    }
    map.ok_or_else(|| FormatsError::MissingKey {
        path: path.to_owned(),
        keys: vec!["weight_map".to_owned()],
    })
}

enum IndexFault {
    Json(JsonFault),
    Other(Box<FormatsError>),
}

impl From<JsonFault> for IndexFault {
    fn from(fault: JsonFault) -> Self {
        Self::Json(fault)
    }
}

/// Read without a tree of values in between: the largest models have hundreds of thousands of tensors.
fn weight_map(
    scanner: &mut Scanner<'_>,
    budget: &mut Budget,
    path: &Path,
) -> Result<BTreeMap<String, String>, IndexFault> {
    let mut map = BTreeMap::new();
    scanner.object(|scanner, tensor| {
        budget.spend(scanner, INDEX_ENTRY_BYTES + tensor.len())?;
        if scanner.peek() != Some(b'"') {
            let found = value(scanner, budget)?;
            let key = format!("weight_map.{tensor}");
            let error = bad_key(path, &key, "a file name", &found);
            return Err(IndexFault::Other(Box::new(error)));
        }
        let shard = scanner.string()?;
        budget.spend(scanner, shard.len())?;
        if durable::plain_name(&shard).is_err() {
            let name = shard.chars().take(128).collect();
            let error = FormatsError::ShardName {
                index: path.to_owned(),
                name,
            };
            return Err(IndexFault::Other(Box::new(error)));
        }
        map.insert(tensor.into_owned(), shard.into_owned());
        Ok(())
    })?;
    Ok(map)
}

fn check_index(
    index: &Path,
    weight_map: &BTreeMap<String, String>,
    store: &WeightStore,
) -> Result<(), FormatsError> {
    let shard_of = |tensor: &String| {
        let (file, _) = store.tensors.get(tensor)?;
        store.files.get(*file).map(StoredFile::name)
    };
    let absent = weight_map
        .iter()
        .filter(|(tensor, shard)| shard_of(tensor).as_ref() != Some(shard));
    let tensors: Vec<_> = absent
        .map(|(tensor, shard)| (tensor.clone(), shard.clone()))
        .collect();
    if !tensors.is_empty() {
        return Err(FormatsError::TensorAbsent {
            index: index.to_owned(),
            tensors,
        });
    }
    let mut unlisted = store
        .tensors
        .iter()
        .filter(|(name, _)| !weight_map.contains_key(*name));
    let Some((_, (file, _))) = unlisted.next() else {
        return Ok(());
    };
    let shard = store
        .files
        .get(*file)
        .map(|file| file.path.clone())
        .unwrap_or_default();
    let others = store
        .tensors
        .iter()
        .filter(|(name, (other, _))| other == file && !weight_map.contains_key(*name));
    let tensors = others.map(|(name, _)| name.clone()).take(8).collect();
    Err(FormatsError::TensorUnlisted { shard, tensors })
}
