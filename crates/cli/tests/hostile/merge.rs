//! Row 85: `merge` refuses whatever is at its target, and gives the same bytes each time.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;

use durable::faults::Tally;

use crate::finish;
use crate::sandbox::{Sandbox, bytes, train};

fn merge(output: &str) -> String {
    format!("merge --model model --adapter lora --output {output} --no-proof")
}

fn files(sandbox: &Sandbox, folder: &str) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(sandbox.path(folder)).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .map(|path| {
            (
                path.file_name().unwrap().to_string_lossy().into_owned(),
                bytes(&path),
            )
        })
        .collect()
}

/// Everything that may be where the merged folder is to be.
fn targets(sandbox: &Sandbox) -> Vec<&'static str> {
    std::fs::create_dir(sandbox.path("empty")).unwrap();
    sandbox.write("file", "mine");
    sandbox.write("full/note.txt", "mine");
    symlink("full", sandbox.path("link")).unwrap();
    symlink("nothing", sandbox.path("dangling")).unwrap();
    symlink("round", sandbox.path("round")).unwrap();
    symlink("/dev/null", sandbox.path("device")).unwrap();
    vec![
        "empty", "file", "full", "link", "dangling", "round", "device", "model", "lora", ".", "..",
        "/",
    ]
}

#[test]
fn row_85_merge_takes_the_place_of_nothing_and_gives_the_same_bytes() {
    let sandbox = Sandbox::new("bloom");
    sandbox.done(&train("--learning-rate 0.5"));
    let (model, adapter) = (
        files(&sandbox, "model"),
        bytes(&sandbox.path("lora/adapter_model.safetensors")),
    );
    let mut tally = Tally::new();
    for target in targets(&sandbox) {
        tally.inject();
        let output = sandbox.run(&merge(target));
        let told = sandbox.told(&output);
        if output.status.code() != Some(1) || !told.contains("mend:") || told.contains("panicked") {
            tally.differ(format!("{target}: {told}"));
        }
    }
    let kept = (
        files(&sandbox, "model"),
        bytes(&sandbox.path("lora/adapter_model.safetensors")),
    );
    assert!(
        kept == (model, adapter),
        "model and adapter are as they were"
    );
    assert_eq!(
        files(&sandbox, "full"),
        BTreeMap::from([("note.txt".to_owned(), b"mine".to_vec())])
    );
    assert_eq!(bytes(&sandbox.path("file")), b"mine");
    assert_eq!(std::fs::read_dir(sandbox.path("empty")).unwrap().count(), 0);
    same_bytes(&sandbox, &mut tally);
    // With the proof: merged and adapter agree within its bound, or the command fails.
    tally.inject();
    sandbox.done("merge --model model --adapter lora --output proved --prompt hello");
    let left = std::fs::read_dir(sandbox.path("")).unwrap();
    let left: Vec<_> = left
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(
        !left.iter().any(|name| name.starts_with('.')),
        "nothing half-made is left: {left:?}"
    );
    finish(85, "`merge` into what is there, twice", &tally, 12);
}

fn same_bytes(sandbox: &Sandbox, tally: &mut Tally) {
    sandbox.done(&merge("one"));
    for (name, more) in [
        ("two", ""),
        ("three", "--threads 1"),
        ("four", "--threads 3"),
    ] {
        tally.inject();
        sandbox.done(&format!("{} {more}", merge(name)));
        if files(sandbox, "one") != files(sandbox, name) {
            tally.differ(format!("merge into `{name}` gives other bytes"));
        }
    }
}
