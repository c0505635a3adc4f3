//! The folders of `Dataset.save_to_disk` (`state.json`) and `DatasetDict.save_to_disk` (`dataset_dict.json`).

use std::path::{Path, PathBuf};

use durable::Mapped;
use serde_json::{Map, Value};

use super::{Rows, RowsError, map};

const STATE: &str = "state.json";
const DICT: &str = "dataset_dict.json";
/// `state.json` grows with the number of shards only.
const MAX_STATE_BYTES: u64 = 16 << 20;

pub(super) fn open(folder: &Path, split: Option<&str>) -> Result<Rows, RowsError> {
    if durable::is_file(folder.join(DICT)) {
        return open_dict(folder, split);
    }
    if !durable::is_file(folder.join(STATE)) {
        return Err(not_a_dataset(folder));
    }
    let state = read_object(&folder.join(STATE))?;
    let own = state.get("_split").and_then(Value::as_str);
    match split {
        Some(asked) if own != Some(asked) => Err(RowsError::NoSplit {
            path: folder.to_owned(),
            asked: asked.to_owned(),
            splits: own.map(str::to_owned).into_iter().collect(),
        }),
        _ => Rows::shards(folder, shards(folder, &state)?),
    }
}

fn open_dict(folder: &Path, split: Option<&str>) -> Result<Rows, RowsError> {
    let file = folder.join(DICT);
    let names = read_object(&file)?;
    let splits: Option<Vec<String>> =
        names
            .get("splits")
            .and_then(Value::as_array)
            .and_then(|list| {
                list.iter()
                    .map(|name| {
                        name.as_str()
                            .filter(|name| is_plain(name))
                            .map(str::to_owned)
                    })
                    .collect()
            });
    let state = |why: &str| RowsError::State {
        path: file.clone(),
        why: why.to_owned(),
    };
    let splits = splits.ok_or_else(|| state("`splits` is not a list of plain folder names"))?;
    let path = folder.to_owned();
    let chosen = match (split, splits.as_slice()) {
        (Some(asked), _) if splits.iter().any(|name| name == asked) => asked.to_owned(),
        (Some(asked), _) => {
            return Err(RowsError::NoSplit {
                path,
                asked: asked.to_owned(),
                splits,
            });
        }
        (None, [only]) => only.clone(),
        (None, []) => return Err(state("`splits` is empty")),
        (None, _) => return Err(RowsError::SplitNeeded { path, splits }),
    };
    let inner = folder.join(&chosen);
    if !durable::is_file(inner.join(STATE)) {
        let why = format!("it lists the split `{chosen}`, whose `{chosen}/{STATE}` is not there");
        return Err(state(&why));
    }
    Rows::shards(&inner, shards(&inner, &read_object(&inner.join(STATE))?)?)
}

/// The data files that `state.json` names, in its order; each must be beside it.
fn shards(folder: &Path, state: &Map<String, Value>) -> Result<Vec<(PathBuf, Mapped)>, RowsError> {
    let file = folder.join(STATE);
    let wrong = |why: String| RowsError::State {
        path: file.clone(),
        why,
    };
    let listed = state.get("_data_files").and_then(Value::as_array);
    let listed = listed.ok_or_else(|| wrong("`_data_files` is not a list".into()))?;
    let mut shards = Vec::with_capacity(listed.len());
    for entry in listed {
        let name = entry.get("filename").and_then(Value::as_str);
        let name =
            name.ok_or_else(|| wrong("an entry of `_data_files` has no `filename`".into()))?;
        if !is_plain(name) {
            return Err(wrong(format!(
                "data file `{name}` is not a plain file name"
            )));
        }
        let shard = folder.join(name);
        if !durable::is_file(&shard) {
            return Err(RowsError::MissingShard {
                state: file,
                file: name.to_owned(),
            });
        }
        let bytes = map(&shard)?;
        shards.push((shard, bytes));
    }
    Ok(shards)
}

/// A name from a file must not lead out of its folder.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', '\0', ':'])
}

fn read_object(path: &Path) -> Result<Map<String, Value>, RowsError> {
    let source = |source| RowsError::File {
        path: path.to_owned(),
        source,
    };
    let bytes = durable::read_capped(path, MAX_STATE_BYTES).map_err(source)?;
    let state = |why: String| RowsError::State {
        path: path.to_owned(),
        why,
    };
    serde_json::from_slice(&bytes).map_err(|error| state(format!("not a JSON object: {error}")))
}

/// Names what was found and what is read, for a path that holds no dataset.
pub(super) fn not_a_dataset(path: &Path) -> RowsError {
    let why = if durable::is_dir(path) {
        format!("the folder has neither `{STATE}` nor `{DICT}`")
    } else if durable::exists(path) {
        "its name ends in none of .json, .jsonl, .ndjson, .csv, .arrow".into()
    } else {
        "there is nothing at that path".into()
    };
    RowsError::NotADataset {
        path: path.to_owned(),
        why,
    }
}
