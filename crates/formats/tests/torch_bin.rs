//! Torch checkpoints: what `torch.save` wrote (tools/python/formats_torch_bin.py), and hostile ones made here.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test may"
)]

use std::path::{Path, PathBuf};

use durable::Mapped;
use lowrank_formats::Dtype;
use lowrank_formats::torch_bin::{TorchFault as Fault, TorchFile};
use lowrank_formats::weights::WeightStore;

#[path = "support/torch_zip.rs"]
mod torch_zip;

use torch_zip::{Entry, entry, tensor_pickle, zip, zip64};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/torch_bin")
        .join(name)
}

fn fixture_fault(name: &str) -> Fault {
    let bytes = std::fs::read(fixture(name)).expect("the fixture is there");
    TorchFile::parse(&Mapped::from_vec(bytes)).expect_err("refused")
}

#[test]
fn a_state_dict_has_the_tensors_that_safetensors_has() {
    let store = WeightStore::open_file(&fixture("state_dict.bin")).expect("read");
    let want = WeightStore::open_file(&fixture("state_dict.safetensors")).expect("read");
    assert_eq!(
        store.names().collect::<Vec<_>>(),
        want.names().collect::<Vec<_>>()
    );
    assert_eq!(store.len(), 16);
    for want in want.iter() {
        let found = store.get(&want.name).expect("there");
        assert_eq!(
            (found.dtype, &found.shape),
            (want.dtype, &want.shape),
            "{}",
            want.name
        );
        assert_eq!(&found.bytes[..], &want.bytes[..], "{}", want.name);
    }
    let tied = [store.get("embed.weight"), store.get("head.weight")]
        .map(|tensor| tensor.expect("there").bytes.as_ptr());
    assert_eq!(tied[0], tied[1], "a shared storage is not copied");
}

#[test]
fn a_pickle_of_protocol_4_is_read() {
    let store = WeightStore::open_file(&fixture("protocol4.bin")).expect("read");
    let tensor = store.get("a").expect("there");
    assert_eq!(
        (tensor.shape.as_slice(), tensor.to_f32()),
        (&[2, 3][..], Some(vec![0., 1., 2., 3., 4., 5.]))
    );
}

#[test]
fn files_that_torch_writes_and_we_do_not_read_are_refused_by_name() {
    assert_eq!(fixture_fault("legacy.bin"), Fault::Legacy);
    assert!(
        matches!(fixture_fault("expanded.bin"), Fault::NotContiguous { tensor, .. } if tensor == "b")
    );
    let checkpoint = fixture_fault("checkpoint.bin");
    assert_eq!(
        checkpoint,
        Fault::NotATensor {
            key: "model".into(),
            found: "a dict"
        }
    );
    assert!(matches!(
        fixture_fault("whole_module.bin"),
        Fault::Global(_) | Fault::Opcode { .. }
    ));
    assert!(checkpoint.hint().is_some());
}

#[test]
fn strangers_bin_files_are_read_or_refused_by_name() {
    let Some(inputs) = testkit::shared_inputs() else {
        println!("skipped: no shared inputs");
        return;
    };
    let adapters = inputs.join("adapters");
    let store =
        WeightStore::open_adapter(&adapters.join("bloom-560m-oldformat-bin")).expect("read");
    assert_eq!(store.len(), 48);
    assert!(
        store
            .iter()
            .all(|tensor| tensor.dtype == Dtype::F32 && tensor.elements() == 16_384)
    );
    let parse = |path: &str| TorchFile::parse(&Mapped::open(adapters.join(path)).expect("there"));
    let pickled = parse("qwen2.5-3b-trainer-checkpoint/training_args.bin").expect_err("refused");
    assert!(
        matches!(pickled, Fault::Global(_) | Fault::Opcode { .. }),
        "{pickled}"
    );
    let optimizer = parse("qwen2.5-3b-trainer-checkpoint/optimizer.pt").expect_err("refused");
    assert!(matches!(optimizer, Fault::NotATensor { .. }), "{optimizer}");
    let rng = parse("qwen2.5-3b-trainer-checkpoint/rng_state.pth").expect_err("refused");
    assert!(
        matches!(
            rng,
            Fault::Global(_) | Fault::Opcode { .. } | Fault::NotATensor { .. }
        ),
        "{rng}"
    );
}

fn parse(entries: &[Entry]) -> Result<TorchFile, Fault> {
    TorchFile::parse(&Mapped::from_vec(zip(entries)))
}

fn of_pickle(pickle: &[u8]) -> Fault {
    parse(&[entry("m/data.pkl", pickle), entry("m/data/0", &[0; 24])]).expect_err("refused")
}

fn of_tensor(
    elements: u8,
    offset: u8,
    shape: [u8; 2],
    strides: [u8; 2],
) -> Result<TorchFile, Fault> {
    let pickle = tensor_pickle(elements, offset, shape, strides);
    parse(&[entry("m/data.pkl", &pickle), entry("m/data/0", &[7; 24])])
}

#[test]
fn a_tensor_beyond_its_storage_is_refused() {
    let good = of_tensor(6, 0, [2, 3], [3, 1]).expect("read");
    assert_eq!(
        (good.tensors[0].name.as_str(), good.tensors[0].bytes.len()),
        ("w", 24)
    );
    assert!(matches!(
        of_tensor(7, 0, [2, 3], [3, 1]),
        Err(Fault::StorageSize {
            want: 28,
            found: 24,
            ..
        })
    ));
    assert!(matches!(
        of_tensor(5, 0, [1, 1], [1, 1]),
        Err(Fault::StorageSize {
            want: 20,
            found: 24,
            ..
        })
    ));
    assert!(matches!(
        of_tensor(6, 1, [2, 3], [3, 1]),
        Err(Fault::Beyond { offset: 1, .. })
    ));
    assert!(matches!(
        of_tensor(6, 200, [0, 3], [3, 1]),
        Err(Fault::Beyond { .. })
    ));
    assert!(matches!(
        of_tensor(6, 0, [2, 3], [4, 1]),
        Err(Fault::Beyond { .. })
    ));
    assert!(matches!(
        of_tensor(6, 0, [2, 4], [1, 1]),
        Err(Fault::NotContiguous { .. })
    ));
    let turned = of_tensor(6, 0, [3, 2], [1, 3]).expect("a transposed view is put in order");
    assert_eq!(turned.tensors[0].shape, [3, 2]);
    let pickle = tensor_pickle(6, 0, [2, 3], [3, 1]);
    let missing = parse(&[entry("m/data.pkl", &pickle), entry("m/data/1", &[7; 24])]);
    assert!(matches!(missing, Err(Fault::MissingStorage { storage, .. }) if storage == "0"));
}

#[test]
fn nothing_outside_of_the_list_is_imported_or_run() {
    let system = b"\x80\x02cos\nsystem\nX\x04\0\0\0true\x85R.";
    assert_eq!(of_pickle(system), Fault::Global("os.system".into()));
    let stacked = b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.";
    assert_eq!(of_pickle(stacked), Fault::Global("builtins.eval".into()));
    for name in [
        "torch\nload",
        "torch._utils\n_rebuild_tensor_v3",
        "collections\nCounter",
        "torch\nQuintStorage",
    ] {
        let pickle = format!("c{name}\n)R.");
        assert_eq!(
            of_pickle(pickle.as_bytes()),
            Fault::Global(name.replace('\n', "."))
        );
    }
    let allowed: &[u8] = b"\x80\x95().N\x88\x89JKM\x8aGX\x8c)]}\x85\x86\x87taesuqr\x94hjc\x93RbQ";
    for code in 0..=255_u8 {
        let fault = of_pickle(&[code]);
        let refused = matches!(fault, Fault::Opcode { code: found, at: 0, .. } if found == code);
        assert_eq!(refused, !allowed.contains(&code), "{code:#04x}: {fault}");
    }
    let text = of_pickle(b"}\x81.").to_string();
    assert!(text.contains("NEWOBJ") && text.contains("byte 1"), "{text}");
}

#[test]
fn a_pickle_that_does_not_hold_together_is_refused() {
    let cases: [&[u8]; 22] = [
        b"",
        b"}",
        b".",
        b"t.",
        b"u.",
        b"}K\x01s.",
        b"(K\x01u.",
        b"}(K\x01u.",
        b"]K\x01K\x02s.",
        b"}K\x01a.",
        b"h\x05.",
        b"q\x05.",
        b"K\x01K\x02R.",
        b"K\x01)R.",
        b"ccollections\nOrderedDict\nK\x01\x85R.",
        b"ctorch._utils\n_rebuild_tensor_v2\n)R.",
        b"ctorch._utils\n_rebuild_parameter\nN\x85R.",
        b"X\xff\xff\xff\xffab.",
        b"X\x02\0\0\0\xff\xfe.",
        b"K\x01Q.",
        b"K\x01K\x02b.",
        b"\x8a\x09\x01\x02\x03\x04\x05\x06\x07\x08\x09.",
    ];
    for pickle in cases {
        let fault = of_pickle(pickle);
        assert!(
            matches!(fault, Fault::Pickle { .. } | Fault::PickleEnd),
            "{pickle:?}: {fault}"
        );
    }
    assert_eq!(of_pickle(b"K\x01."), Fault::NotAStateDict("an integer"));
    assert_eq!(
        of_pickle(b"}X\x01\0\0\0aNs."),
        Fault::NotATensor {
            key: "a".into(),
            found: "nothing"
        }
    );
    assert!(matches!(of_pickle(b"}K\x01Ns."), Fault::NotAStateDict(_)));
    let mut cycle = b"}q\0X\x01\0\0\0ah\0s.".to_vec();
    assert!(matches!(
        of_pickle(&cycle),
        Fault::NotATensor {
            found: "a dict",
            ..
        }
    ));
    cycle.splice(0..0, std::iter::repeat_n(b']', 500_000));
    assert_eq!(of_pickle(&cycle), Fault::TooManyValues(500_000));
    let twice = tensor_pickle(6, 0, [2, 3], [3, 1]);
    let item = &twice[3..twice.len() - 2];
    let twice = [b"}(", item, item, b"u."].concat();
    assert_eq!(of_pickle(&twice), Fault::DuplicateKey("w".into()));
}

#[test]
fn a_zip_that_torch_does_not_write_is_refused() {
    let pickle = tensor_pickle(6, 0, [2, 3], [3, 1]);
    let good = [
        entry("m/data.pkl", &pickle),
        entry("m/data/0", &[7; 24]),
        entry("m/byteorder", b"little"),
    ];
    assert!(parse(&good).is_ok());
    let with = |change: &dyn Fn(&mut Vec<Entry>)| {
        let mut entries = good.to_vec();
        change(&mut entries);
        parse(&entries).expect_err("refused")
    };
    let why = |fault: Fault| match fault {
        Fault::Entry { why, .. } => why,
        other => panic!("{other}"),
    };
    assert_eq!(why(with(&|entries| entries[1].method = 8)), "is compressed");
    assert_eq!(why(with(&|entries| entries[1].flags = 1)), "is encrypted");
    assert_eq!(
        why(with(&|entries| entries[2].longer = 1_000)),
        "lies outside of the file"
    );
    assert_eq!(
        why(with(&|entries| entries[0].longer = 40)),
        "shares bytes with another"
    );
    assert_eq!(
        why(with(&|entries| entries[2] = entries[1].clone())),
        "is there twice"
    );
    assert_eq!(
        why(with(&|entries| entries[1].longer = u32::MAX - 24)),
        "lacks its zip64 sizes"
    );
    assert_eq!(
        with(&|entries| entries[2].bytes = b"big".to_vec()),
        Fault::ByteOrder
    );
    assert_eq!(
        with(&|entries| entries.remove(0).bytes.clear()),
        Fault::Pickles(0)
    );
    assert_eq!(
        with(&|entries| entries.push(entry("n/data.pkl", b"."))),
        Fault::Pickles(2)
    );
    let bytes = zip(&good);
    for length in 0..bytes.len() {
        let cut =
            TorchFile::parse(&Mapped::from_vec(bytes[..length].to_vec())).expect_err("refused");
        assert_eq!(cut, Fault::NotAZip, "{length}");
    }
    let mut moved = bytes.clone();
    let at = moved.len() - 6;
    moved[at] ^= 1; // the directory's start
    assert!(matches!(
        TorchFile::parse(&Mapped::from_vec(moved)),
        Err(Fault::Zip(_))
    ));
    let mut renamed = bytes;
    renamed[30] = b'x';
    assert!(matches!(
        TorchFile::parse(&Mapped::from_vec(renamed)),
        Err(Fault::Entry {
            why: "has another name in its local header",
            ..
        })
    ));
}

#[test]
fn sizes_are_found_where_large_files_have_them() {
    let pickle = tensor_pickle(6, 0, [2, 3], [3, 1]);
    let entries = [entry("m/data.pkl", &pickle), entry("m/data/0", &[7; 24])];
    let bytes = zip64(&entries);
    let file = TorchFile::parse(&Mapped::from_vec(bytes.clone())).expect("read");
    assert_eq!(&file.tensors[0].bytes[..], &[7; 24]);
    let changed = |pattern: &[u8], offset: usize| {
        let mut bytes = bytes.clone();
        let at = bytes
            .windows(pattern.len())
            .rposition(|window| window == pattern)
            .expect("there");
        bytes[at + offset] ^= 0x40;
        TorchFile::parse(&Mapped::from_vec(bytes)).expect_err("refused")
    };
    assert!(matches!(
        changed(b"PK\x06\x07", 0),
        Fault::Zip("its zip64 end record is missing")
    ));
    assert!(matches!(
        changed(b"PK\x06\x07", 15),
        Fault::Zip("its zip64 end record is missing")
    ));
    assert!(matches!(
        changed(b"PK\x06\x06", 55),
        Fault::Zip("its directory lies outside of the file")
    ));
    assert!(matches!(changed(b"PK\x06\x06", 39), Fault::TooManyEntries));
    let no_sizes = changed(b"\x01\0\x18\0", 0);
    assert!(
        matches!(
            no_sizes,
            Fault::Entry {
                why: "lacks its zip64 sizes",
                ..
            }
        ),
        "{no_sizes}"
    );
    let two_sizes = changed(b"\x01\0\x18\0", 4);
    assert!(
        matches!(
            two_sizes,
            Fault::Entry {
                why: "has two sizes",
                ..
            }
        ),
        "{two_sizes}"
    );
    let outside = changed(b"\x01\0\x18\0", 27);
    assert!(
        matches!(
            outside,
            Fault::Entry {
                why: "lies outside of the file",
                ..
            }
        ),
        "{outside}"
    );
}
