//! Row 46: indexes of shards that lie. Nothing outside of the folder is opened, which the kernel watches.

use std::os::unix::fs::symlink;
use std::path::Path;

use lowrank_formats::Dtype;
use lowrank_formats::safetensors::{TensorToWrite, write};
use lowrank_formats::weights::WeightStore;
use rustix::fs::inotify;
use tempfile::TempDir;
use testkit::Hostile;

use crate::{shortened, told_of};

const ONE: &str = "m-1.safetensors";
const TWO: &str = "m-2.safetensors";

fn save(path: &Path, names: &[&str]) {
    let views = names
        .iter()
        .map(|name| TensorToWrite::bytes(name, Dtype::U8, &[2], &[1, 2]));
    let mut file = Vec::new();
    write(&mut file, views.collect(), &[]).expect("written");
    std::fs::write(path, file).expect("a temporary folder can be written");
}

/// Says whether anything that lies directly in a folder was opened, where the kernel can tell.
struct Watch(Option<rustix::fd::OwnedFd>);

impl Watch {
    fn on(folder: &Path) -> Self {
        let watch = || {
            let flags = inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC;
            let fd = inotify::init(flags).ok()?;
            let events = inotify::WatchFlags::OPEN | inotify::WatchFlags::ACCESS;
            inotify::add_watch(&fd, folder, events).ok()?;
            Some(fd)
        };
        Self(watch())
    }

    /// Names of files that were opened since the last call.
    fn opened(&self) -> Vec<String> {
        let mut buffer = [const { std::mem::MaybeUninit::uninit() }; 4_096];
        let Some(fd) = &self.0 else {
            return Vec::new();
        };
        let mut reader = inotify::Reader::new(fd, &mut buffer);
        let mut names = Vec::new();
        while let Ok(event) = reader.next() {
            names.extend(
                event
                    .file_name()
                    .map(|name| name.to_string_lossy().into_owned()),
            );
        }
        names
    }
}

/// The folder of a model beside files that it must not reach.
fn neighbours(root: &Path) {
    let model = root.join("model");
    std::fs::create_dir(&model).expect("a temporary folder can be written");
    std::fs::create_dir(model.join("sub")).expect("a temporary folder can be written");
    for outside in ["outside.safetensors", "model/sub/inside.safetensors"] {
        save(&root.join(outside), &["a"]);
    }
    save(&model.join(ONE), &["a"]);
    save(&model.join(TWO), &["b", "c"]);
    symlink("../outside.safetensors", model.join("link.safetensors")).expect("a link");
    symlink("nothing", model.join("dangling.safetensors")).expect("a link");
    symlink("round.safetensors", model.join("round.safetensors")).expect("a link");
    symlink("..", model.join("up.safetensors")).expect("a link");
    symlink(
        root.join("outside.safetensors"),
        model.join("far.safetensors"),
    )
    .expect("a link");
}

fn map(entries: &[(&str, &str)]) -> String {
    let map: serde_json::Map<String, serde_json::Value> = entries
        .iter()
        .map(|(tensor, shard)| ((*tensor).to_owned(), (*shard).into()))
        .collect();
    serde_json::json!({ "metadata": { "total_size": 6 }, "weight_map": map }).to_string()
}

fn names(root: &Path) -> Vec<(&'static str, String)> {
    let absolute = root.join("outside.safetensors").display().to_string();
    vec![
        (
            "a shard in the folder above",
            map(&[("a", "../outside.safetensors")]),
        ),
        ("a shard by its absolute path", map(&[("a", &absolute)])),
        (
            "a shard behind a backslash",
            map(&[("a", "..\\outside.safetensors")]),
        ),
        (
            "a shard in a folder below",
            map(&[("a", "sub/inside.safetensors")]),
        ),
        ("the folder above", map(&[("a", "..")])),
        ("the folder itself", map(&[("a", ".")])),
        ("a name of no characters", map(&[("a", "")])),
        ("a name with NUL", map(&[("a", "m-1.safetensors\u{0}.txt")])),
        (
            "a good shard and one outside",
            map(&[("a", ONE), ("b", "../outside.safetensors")]),
        ),
        (
            "a link out of the folder",
            map(&[("a", "link.safetensors")]),
        ),
        (
            "a link to an absolute path",
            map(&[("a", "far.safetensors")]),
        ),
        ("a link to nothing", map(&[("a", "dangling.safetensors")])),
        ("a link to itself", map(&[("a", "round.safetensors")])),
        ("a link to a folder", map(&[("a", "up.safetensors")])),
        ("a folder as a shard", map(&[("a", "sub")])),
    ]
}

fn contents() -> Vec<(&'static str, String)> {
    vec![
        (
            "a shard that is missing",
            map(&[("a", ONE), ("b", "m-3.safetensors")]),
        ),
        (
            "tensors that their shard lacks",
            map(&[("a", ONE), ("b", TWO), ("c", TWO), ("d", TWO), ("e", ONE)]),
        ),
        (
            "tensors in the other shard",
            map(&[("a", TWO), ("b", ONE), ("c", TWO)]),
        ),
        (
            "a tensor that is not listed",
            map(&[("a", ONE), ("b", TWO)]),
        ),
        ("no map", "{\"metadata\": {}}".into()),
        (
            "a map that is a list",
            "{\"weight_map\": [\"m-1.safetensors\"]}".into(),
        ),
        (
            "a shard that is a number",
            "{\"weight_map\": {\"a\": 1}}".into(),
        ),
        ("a list", "[]".into()),
        (
            "an index that breaks off",
            "{\"weight_map\": {\"a\": \"m-1".into(),
        ),
        (
            "a depth of 10,000",
            format!("{{\"metadata\": {}", "[".repeat(10_000)),
        ),
        (
            "a lone surrogate",
            "{\"weight_map\": {\"\\ud800\": \"m-1.safetensors\"}}".into(),
        ),
    ]
}

#[test]
fn row_46_an_index_reaches_nothing_outside_of_its_folder() {
    let folder = TempDir::new().expect("a temporary folder");
    let root = folder.path();
    neighbours(root);
    let model = root.join("model");
    let mut row = Hostile::new("row 46, shard index");
    let watch = Watch::on(root);
    if watch.0.is_none() {
        println!("skipped: this system does not say which files are opened");
    }
    for (name, text) in names(root).into_iter().chain(contents()) {
        std::fs::write(model.join("model.safetensors.index.json"), &text).expect("written");
        watch.opened();
        row.refused(name, text.len(), || {
            WeightStore::open(&model).map_err(|e| told_of(&e, root))
        });
        let opened = watch.opened();
        // The folder of the model is looked up by its name; what lies beside it is not touched.
        assert!(
            !opened.iter().any(|file| file == "outside.safetensors"),
            "{name}: {opened:?}"
        );
    }
    save(&model.join(TWO), &["a", "b"]);
    let twice = map(&[("a", ONE), ("b", TWO)]);
    std::fs::write(model.join("model.safetensors.index.json"), &twice).expect("written");
    row.refused("a tensor in two shards", twice.len(), || {
        WeightStore::open(&model).map_err(|e| told_of(&e, root))
    });
    let said = row.finish(15);
    insta::assert_snapshot!(shortened(&said));
}

#[test]
fn the_watch_sees_what_is_opened() {
    let folder = TempDir::new().expect("a temporary folder");
    save(&folder.path().join("outside.safetensors"), &["a"]);
    let watch = Watch::on(folder.path());
    WeightStore::open_file(&folder.path().join("outside.safetensors")).expect("opened");
    let seen = watch.opened();
    assert!(watch.0.is_none() || seen.iter().any(|name| name == "outside.safetensors"));
}

#[test]
fn the_cache_of_the_hub_keeps_its_files_elsewhere() {
    let folder = TempDir::new().expect("a temporary folder");
    let (blobs, model) = (
        folder.path().join("blobs"),
        folder.path().join("snapshots/abc"),
    );
    std::fs::create_dir(&blobs).expect("a temporary folder can be written");
    std::fs::create_dir_all(&model).expect("a temporary folder can be written");
    save(&blobs.join("0123"), &["a"]);
    symlink("../../blobs/0123", model.join(ONE)).expect("a link");
    std::fs::write(
        model.join("model.safetensors.index.json"),
        map(&[("a", ONE)]),
    )
    .expect("written");
    let opened = WeightStore::open(&model).expect("as transformers reads it");
    assert_eq!(opened.len(), 1);
}
