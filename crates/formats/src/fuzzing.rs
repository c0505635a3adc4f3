//! Fuzz targets as plain functions, for `cargo fuzz` and for the deterministic mutator of the tests.
//!
//! "No crash" is not an oracle: each target panics when something that it accepted does not hold.

use std::path::Path;

use durable::Mapped;

use crate::adapter_config::AdapterConfig;
use crate::error::FormatsError;
use crate::hf_config::{GenerationConfig, HfConfig};
use crate::pyjson::{Style, parse, to_string};
use crate::safetensors::{Header, SafetensorsFault, TensorToWrite, write};
use crate::torch_bin::TorchFile;
use crate::trainer_state::TrainerState;

/// Where the upstream crate accepts and this one refuses, it is for one of the reasons that `safetensors` lists; where
/// this one accepts, upstream finds the same tensors. Accepted: every tensor lies inside the file, and what is
/// written from them reads back as the same tensors.
pub fn fuzz_safetensors(bytes: &[u8]) {
    let upstream = safetensors::SafeTensors::deserialize(bytes);
    let header = match Header::parse(bytes) {
        Ok(header) => header,
        Err(fault) => {
            assert!(
                upstream.is_err() || is_stricter(&fault, bytes),
                "upstream reads it: {fault}"
            );
            return;
        }
    };
    let upstream = upstream.expect("upstream reads what is read here");
    assert_eq!(
        upstream.len(),
        header.tensors.len(),
        "as many tensors as upstream"
    );
    for tensor in &header.tensors {
        let theirs = upstream.tensor(&tensor.name).expect("upstream has it");
        assert_eq!(theirs.shape(), &*tensor.shape, "upstream's shape");
        assert_eq!(
            Some(theirs.data()),
            bytes.get(tensor.range.clone()),
            "upstream's bytes"
        );
    }
    let views = header.tensors.iter().map(|tensor| {
        let data = bytes
            .get(tensor.range.clone())
            .expect("a tensor lies inside the file");
        TensorToWrite::bytes(&tensor.name, tensor.dtype, &tensor.shape, data)
    });
    let metadata = header
        .metadata
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()));
    let mut again = Vec::new();
    let written = write(&mut again, views.collect(), &metadata.collect::<Vec<_>>());
    written.expect("what was read can be written");
    let second = Header::parse(&again).expect("what was written can be read");
    assert_eq!(
        (&second.metadata, second.tensors.len()),
        (&header.metadata, header.tensors.len())
    );
    for tensor in &header.tensors {
        let found = second.get(&tensor.name).expect("no tensor is lost");
        assert_eq!((found.dtype, &found.shape), (tensor.dtype, &tensor.shape));
        assert_eq!(
            again.get(found.range.clone()),
            bytes.get(tensor.range.clone())
        );
    }
}

/// What upstream takes and this reader does not.
fn is_stricter(fault: &SafetensorsFault, bytes: &[u8]) -> bool {
    use SafetensorsFault::{
        DuplicateKey, Name, NotAnObject, Rank, TooManyTensors, TooMuchMetadata, UnknownDtype,
        UnknownKey,
    };
    match fault {
        DuplicateKey(_)
        | Name { .. }
        | Rank(_)
        | TooManyTensors
        | TooMuchMetadata
        | UnknownDtype { .. }
        | UnknownKey { .. } => true,
        // The format wants `{` first; upstream passes over spaces.
        NotAnObject => bytes.get(8).is_some_and(u8::is_ascii_whitespace),
        _ => false,
    }
}

/// Accepted: every shard is a plain file name.
pub fn fuzz_shard_index(bytes: &[u8]) {
    let Ok(index) = crate::weights::parse_index(bytes, Path::new("index")) else {
        return;
    };
    for shard in index.values() {
        let components: Vec<_> = Path::new(shard).components().collect();
        assert!(
            matches!(components.as_slice(), [std::path::Component::Normal(_)]),
            "{shard:?}"
        );
    }
}

/// Accepted: the text written from it is a fixed point.
pub fn fuzz_adapter_config(bytes: &[u8]) {
    let path = Path::new("adapter_config.json");
    let Ok(config) = AdapterConfig::parse(bytes, path) else {
        return;
    };
    let text = config.to_json();
    let again = AdapterConfig::parse(text.as_bytes(), path).expect("our own text is read");
    assert_eq!(again.to_json(), text);
}

/// Accepted: the text written from it is a fixed point (unless a number that only Python has, whose form for
/// serde is one level deeper, takes it over a limit), and its generation keys are read or refused.
pub fn fuzz_hf_config(bytes: &[u8]) {
    use crate::pyjson::JsonFaultKind::{Depth, Memory};
    let path = Path::new("config.json");
    let Ok(config) = HfConfig::parse(bytes, path) else {
        return;
    };
    let text = config.to_json();
    match HfConfig::parse(text.as_bytes(), path) {
        Ok(again) => assert_eq!(again.to_json(), text),
        Err(FormatsError::Json { fault, .. }) => {
            assert!(matches!(fault.kind, Depth(_) | Memory))
        }
        Err(error) => panic!("our own text is not read: {error}"),
    }
    let _ = GenerationConfig::of(&config);
}

/// Accepted: the text written from it is a fixed point.
pub fn fuzz_trainer_state(bytes: &[u8]) {
    let path = Path::new("trainer_state.json");
    let Ok(state) = TrainerState::parse(bytes, path) else {
        return;
    };
    let text = state.to_json();
    let again = TrainerState::parse(text.as_bytes(), path).expect("our own text is read");
    assert_eq!(again.to_json(), text);
}

/// Accepted: written in every style, it reads back and writes the same.
pub fn fuzz_pyjson(bytes: &[u8]) {
    let Ok(value) = parse(bytes) else {
        return;
    };
    let raw = Style {
        ensure_ascii: false,
        ..Style::PRETTY
    };
    for style in [Style::LINE, Style::PRETTY, Style::COMPACT, raw] {
        let text = to_string(&value, style);
        let again = parse(text.as_bytes()).expect("our own text is read");
        assert_eq!(to_string(&again, style), text);
    }
}

/// Accepted: every tensor has the bytes of its shape.
pub fn fuzz_torch_bin(bytes: &[u8]) {
    let Ok(file) = TorchFile::parse(&Mapped::from_vec(bytes.to_vec())) else {
        return;
    };
    for tensor in &file.tensors {
        assert_eq!(
            tensor.dtype.tensor_bytes(&tensor.shape),
            Some(tensor.bytes.len())
        );
    }
}
