//! Row 45: files cut while they are in use. Adapters are read, not mapped; a mapped model that was cut is found
//! before its numbers are used.

use std::path::Path;

use lowrank_formats::Dtype;
use lowrank_formats::safetensors::{TensorToWrite, write};
use lowrank_formats::weights::WeightStore;
use tempfile::TempDir;
use testkit::Hostile;

fn save(path: &Path, values: &[f32]) {
    let bytes: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let shape = [values.len()];
    let tensor = TensorToWrite::bytes("w", Dtype::F32, &shape, &bytes);
    let mut file = Vec::new();
    write(&mut file, vec![tensor], &[]).expect("written");
    std::fs::write(path, file).expect("a temporary folder can be written");
}

fn cut(path: &Path, bytes: u64) {
    let file = std::fs::OpenOptions::new().write(true).open(path);
    file.and_then(|file| file.set_len(bytes))
        .expect("a file that may be written");
}

#[test]
fn row_45_a_file_cut_while_open_never_gives_wrong_numbers() {
    let folder = TempDir::new().expect("a temporary folder");
    let values: Vec<f32> = (0..8_192).map(|at| at as f32 + 0.5).collect();
    let mut row = Hostile::new("row 45, files cut while open");
    let adapter = folder.path().join("adapter_model.safetensors");
    let model = folder.path().join("model.safetensors");
    for at in [0, 1, 8, 100, 4_096, 32_000] {
        save(&adapter, &values);
        let open = WeightStore::open_adapter(folder.path()).expect("it is whole");
        cut(&adapter, at);
        row.harmless(&format!("an adapter cut at {at}"), 33_000, || {
            let read = open
                .get("w")
                .and_then(|tensor| tensor.to_f32())
                .ok_or("lost")?;
            (read == values)
                .then_some("all values as they were")
                .ok_or("other values")
        });
        save(&model, &values);
        let open = WeightStore::open(folder.path()).expect("it is whole");
        cut(&model, at);
        row.refused(&format!("a model cut at {at}"), 33_000, || {
            open.check_unchanged()
        });
        row.refused(
            &format!("a model cut at {at}, opened again"),
            33_000,
            || WeightStore::open(folder.path()).map(drop),
        );
    }
    row.finish(10);
}
