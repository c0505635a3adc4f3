//! Row 50: torch checkpoints outside of the allow-list. Nothing of them is run.

use lowrank_formats::weights::WeightStore;
use tempfile::TempDir;
use testkit::Hostile;

use crate::torch_zip::{Entry, entry, tensor_pickle, zip, zip64};
use crate::{shortened, told_of};

fn of_pickle(pickle: &[u8]) -> Vec<u8> {
    zip(&[entry("m/data.pkl", pickle), entry("m/data/0", &[0; 24])])
}

fn of_tensor(elements: u8, offset: u8, shape: [u8; 2], strides: [u8; 2]) -> Vec<u8> {
    of_pickle(&tensor_pickle(elements, offset, shape, strides))
}

/// A good file with one thing changed.
fn with(change: impl FnOnce(&mut Vec<Entry>)) -> Vec<u8> {
    let mut entries = vec![
        entry("m/data.pkl", &tensor_pickle(6, 0, [2, 3], [3, 1])),
        entry("m/data/0", &[7; 24]),
        entry("m/byteorder", b"little"),
    ];
    change(&mut entries);
    zip(&entries)
}

/// Pickles that would run something, or ask for what no state dict needs.
fn codes() -> Vec<(&'static str, Vec<u8>)> {
    let pickles: Vec<(&str, &[u8])> = vec![
        ("os.system", b"\x80\x02cos\nsystem\nX\x04\0\0\0true\x85R."),
        (
            "builtins.eval on the stack",
            b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.",
        ),
        ("posix.system", b"cposix\nsystem\n(X\x04\0\0\0truetR."),
        ("subprocess.Popen", b"csubprocess\nPopen\n)R."),
        (
            "getattr on a storage",
            b"c__builtin__\ngetattr\n(ctorch\nFloatStorage\nX\x08\0\0\0__init__tR.",
        ),
        ("torch.load inside", b"ctorch\nload\n)R."),
        (
            "a rebuild function of another version",
            b"ctorch._utils\n_rebuild_tensor_v3\n)R.",
        ),
        ("numpy's scalar", b"cnumpy.core.multiarray\nscalar\n)R."),
        ("a class of the model's own code", b"cmodel\nNet\n)\x81."),
        ("NEWOBJ", b"ccollections\nOrderedDict\n)\x81."),
        ("NEWOBJ_EX", b"ccollections\nOrderedDict\n)}\x92."),
        ("INST", b"(ios\nsystem\n."),
        ("OBJ", b"(ccollections\nOrderedDict\no."),
        ("EXT1", b"\x82\x01."),
        ("PERSID", b"Pstorage\n."),
        ("BUILD on a global", b"ctorch\nFloatStorage\n}b."),
        (
            "a global called as a function",
            b"ctorch\nFloatStorage\n(K\x01tR.",
        ),
        ("a text opcode", b"S'os'\n."),
        ("a byte array", b"\x96\x01\0\0\0\0\0\0\0a."),
        ("text of 4 GiB", b"X\xff\xff\xff\xffab."),
        ("memo that was never put", b"h\x05."),
        ("a dict in itself", b"}q\0X\x01\0\0\0ah\0s."),
        ("marks without end", &[b'('; 2_000]),
        ("no end", b"}"),
        ("no pickle at all", b""),
        ("a list", b"]."),
        ("a number", b"K\x01."),
    ];
    pickles
        .into_iter()
        .map(|(name, pickle)| (name, of_pickle(pickle)))
        .collect()
}

fn zips() -> Vec<(&'static str, Vec<u8>)> {
    let good = with(|_| {});
    let mut renamed = good.clone();
    renamed[30] = b'x';
    let mut moved = good.clone();
    let at = moved.len() - 6;
    moved[at] ^= 1;
    vec![
        (
            "a compressed storage",
            with(|entries| entries[1].method = 8),
        ),
        ("an encrypted storage", with(|entries| entries[1].flags = 1)),
        (
            "entries that overlap",
            with(|entries| entries[0].longer = 40),
        ),
        (
            "an entry beyond the file",
            with(|entries| entries[2].longer = 1_000),
        ),
        (
            "an entry twice",
            with(|entries| entries[2] = entries[1].clone()),
        ),
        (
            "an entry of 4 GiB without zip64",
            with(|entries| entries[1].longer = u32::MAX - 24),
        ),
        ("another name in the local header", renamed),
        ("a directory that lies elsewhere", moved),
        ("a zip that was cut", good[..good.len() - 1].to_vec()),
        ("half a zip", good[..good.len() / 2].to_vec()),
        (
            "big-endian numbers",
            with(|entries| entries[2].bytes = b"big".to_vec()),
        ),
        ("no pickle", with(|entries| drop(entries.remove(0)))),
        (
            "two pickles",
            with(|entries| entries.push(entry("n/data.pkl", b"."))),
        ),
        (
            "the format before torch 1.6",
            b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.".to_vec(),
        ),
        ("not a zip", b"<html>404</html>                ".to_vec()),
        ("a zip64 end that is missing", {
            let mut bytes = zip64(&[entry("m/data.pkl", b".")]);
            let at = bytes
                .windows(4)
                .rposition(|four| four == b"PK\x06\x07")
                .expect("there");
            bytes[at] = b'Q';
            bytes
        }),
    ]
}

fn storages() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        (
            "a storage shorter than it says",
            of_tensor(7, 0, [2, 3], [3, 1]),
        ),
        (
            "a storage longer than it says",
            of_tensor(5, 0, [1, 1], [1, 1]),
        ),
        (
            "a tensor beyond its storage",
            of_tensor(6, 1, [2, 3], [3, 1]),
        ),
        (
            "an empty tensor beyond its storage",
            of_tensor(6, 200, [0, 3], [3, 1]),
        ),
        (
            "strides beyond the storage",
            of_tensor(6, 0, [2, 3], [4, 1]),
        ),
        (
            "a view that repeats elements",
            of_tensor(6, 0, [2, 4], [1, 1]),
        ),
        (
            "a storage that is not there",
            with(|entries| entries[1].name = "m/data/1"),
        ),
    ]
}

#[test]
fn row_50_a_torch_file_outside_of_the_list_is_refused_by_name() {
    let folder = TempDir::new().expect("a temporary folder");
    let path = folder.path().join("pytorch_model.bin");
    let open = |bytes: &[u8]| {
        std::fs::write(&path, bytes).expect("a temporary folder can be written");
        WeightStore::open_file(&path).map_err(|error| told_of(&error, folder.path()))
    };
    open(&with(|_| {})).expect("the file that the others are made of is good");
    let mut row = Hostile::new("row 50, torch files");
    for (name, bytes) in codes().into_iter().chain(zips()).chain(storages()) {
        row.refused(name, bytes.len(), || open(&bytes));
    }
    insta::assert_snapshot!(shortened(&row.finish(30)));
}
