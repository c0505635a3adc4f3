//! The safetensors reader and writer: one literal file per fault, and round trips against the upstream crate.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test may"
)]

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};

use lowrank_formats::Dtype;
use lowrank_formats::FormatsError;
use lowrank_formats::safetensors::{
    Contents, Header, SafetensorsFault as Fault, TensorToWrite, write,
};
use proptest::prelude::*;

fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend((0..data).map(|i| i as u8));
    bytes
}

fn one(entry: &str, data: usize) -> Fault {
    Header::parse(&file(&format!("{{\"a\":{entry}}}"), data)).expect_err("a fault")
}

#[test]
fn a_header_that_lies_about_its_length_is_refused() {
    assert_eq!(
        Header::parse(b"1234567").expect_err("short"),
        Fault::TooShort(7)
    );
    let claims = |length: u64| {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend(b"{}");
        Header::parse(&bytes).err()
    };
    assert_eq!(claims(2), None);
    assert_eq!(
        claims(3),
        Some(Fault::HeaderBeyondFile {
            header: 3,
            file: 10
        })
    );
    assert_eq!(
        claims(100_000_000),
        Some(Fault::HeaderBeyondFile {
            header: 100_000_000,
            file: 10
        })
    );
    assert_eq!(claims(100_000_001), Some(Fault::HeaderTooLong(100_000_001)));
    assert_eq!(claims(1 << 63), Some(Fault::HeaderTooLong(1 << 63)));
    assert_eq!(claims(0), Some(Fault::NotAnObject));
}

#[test]
fn a_header_that_is_not_the_expected_json_is_refused() {
    let fault = |header: &str| Header::parse(&file(header, 0)).expect_err("a fault");
    assert_eq!(fault(" {}"), Fault::NotAnObject);
    assert_eq!(fault("[]"), Fault::NotAnObject);
    let mut bytes = file("{\"a", 0);
    bytes.extend(b"\xff");
    bytes[0] = 4;
    assert_eq!(
        Header::parse(&bytes).expect_err("a fault"),
        Fault::NotUtf8(3)
    );
    assert!(matches!(fault("{\"a\":"), Fault::WrongKind { .. }));
    assert!(matches!(fault("{\"a\""), Fault::Json(_)));
    assert!(matches!(fault("{} x"), Fault::Json(_)));
    assert!(matches!(
        fault(&"{\"a\":".repeat(10_000)),
        Fault::UnknownKey { .. }
    ));
    let deep = format!("{{\"a\":{{\"shape\":[{}", "[".repeat(10_000));
    assert!(matches!(fault(&deep), Fault::WrongKind { .. }));
    assert!(matches!(
        fault(r#"{"__metadata__":1}"#),
        Fault::WrongKind { .. }
    ));
    assert!(matches!(
        fault(r#"{"__metadata__":{"a":1}}"#),
        Fault::WrongKind { .. }
    ));
    let twice = r#"{"__metadata__":{},"__metadata__":{}}"#;
    assert_eq!(fault(twice), Fault::DuplicateKey("__metadata__".into()));
    let twice = r#"{"__metadata__":{"k":"1","k":"2"}}"#;
    assert_eq!(fault(twice), Fault::DuplicateKey("k".into()));
    let tensor = r#"{"dtype":"U8","shape":[0],"data_offsets":[0,0]}"#;
    let twice = format!(r#"{{"t":{tensor},"u":{tensor},"t":{tensor}}}"#);
    assert_eq!(fault(&twice), Fault::DuplicateKey("t".into()));
}

#[test]
fn a_tensor_entry_that_does_not_hold_together_is_refused() {
    let missing = one(r#"{"shape":[1],"data_offsets":[0,1]}"#, 1);
    assert_eq!(
        missing,
        Fault::MissingKey {
            tensor: "a".into(),
            key: "dtype"
        }
    );
    let missing = one(r#"{"dtype":"U8","data_offsets":[0,1]}"#, 1);
    assert_eq!(
        missing,
        Fault::MissingKey {
            tensor: "a".into(),
            key: "shape"
        }
    );
    let missing = one(r#"{"dtype":"U8","shape":[1]}"#, 1);
    assert_eq!(
        missing,
        Fault::MissingKey {
            tensor: "a".into(),
            key: "data_offsets"
        }
    );
    let unknown = one(
        r#"{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1}"#,
        1,
    );
    assert_eq!(
        unknown,
        Fault::UnknownKey {
            tensor: "a".into(),
            key: "x".into()
        }
    );
    let twice = one(
        r#"{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}"#,
        1,
    );
    assert_eq!(twice, Fault::DuplicateKey("dtype".into()));
    for dtype in ["F99", "F4", "F6_E2M3", "f32", ""] {
        let unknown = one(
            &format!(r#"{{"dtype":"{dtype}","shape":[1],"data_offsets":[0,1]}}"#),
            1,
        );
        assert_eq!(
            unknown,
            Fault::UnknownDtype {
                tensor: "a".into(),
                dtype: dtype.into()
            }
        );
    }
    for shape in [
        "[-1]",
        "[1.0]",
        "[true]",
        "[[1]]",
        "[\"1\"]",
        "1",
        "[18446744073709551616]",
    ] {
        let entry = format!(r#"{{"dtype":"U8","shape":{shape},"data_offsets":[0,1]}}"#);
        assert!(
            matches!(one(&entry, 1), Fault::WrongKind { key, .. } if key == "shape"),
            "{shape}"
        );
    }
    for offsets in ["[0]", "[0,1,2]", "[]", "[0,-1]", "[0,1.0]", "{}", "null"] {
        let entry = format!(r#"{{"dtype":"U8","shape":[1],"data_offsets":{offsets}}}"#);
        let fault = one(&entry, 1);
        assert!(
            matches!(fault, Fault::WrongKind { key, .. } if key == "data_offsets"),
            "{offsets}"
        );
    }
}

#[test]
fn a_tensor_whose_shape_and_bytes_disagree_is_refused() {
    let sides = |n: usize| vec!["1"; n].join(",");
    let entry = |n| {
        format!(
            r#"{{"dtype":"U8","shape":[{}],"data_offsets":[0,1]}}"#,
            sides(n)
        )
    };
    assert!(Header::parse(&file(&format!("{{\"a\":{}}}", entry(16)), 1)).is_ok());
    assert_eq!(one(&entry(17), 1), Fault::Rank("a".into()));
    let huge = one(
        r#"{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,1]}"#,
        1,
    );
    assert!(matches!(huge, Fault::Overflow { .. }));
    let huge = one(
        r#"{"dtype":"F64","shape":[4611686018427387904],"data_offsets":[0,1]}"#,
        1,
    );
    assert!(matches!(huge, Fault::Overflow { .. }));
    let back = one(r#"{"dtype":"U8","shape":[1],"data_offsets":[2,1]}"#, 1);
    assert_eq!(
        back,
        Fault::Backwards {
            tensor: "a".into(),
            begin: 2,
            end: 1
        }
    );
    let size = one(r#"{"dtype":"F32","shape":[2,3],"data_offsets":[0,23]}"#, 23);
    assert!(matches!(
        size,
        Fault::Size {
            want: 24,
            found: 23,
            ..
        }
    ));
}

#[test]
fn a_layout_with_holes_overlaps_or_a_tail_is_refused() {
    let two = |first: &str, second: &str, data| {
        let tensor =
            |offsets: &str| format!(r#"{{"dtype":"U8","shape":[4],"data_offsets":{offsets}}}"#);
        let header = format!(r#"{{"a":{},"b":{}}}"#, tensor(first), tensor(second));
        Header::parse(&file(&header, data)).err()
    };
    let name = String::from("b");
    assert_eq!(two("[0,4]", "[4,8]", 8), None);
    assert_eq!(two("[4,8]", "[0,4]", 8), None);
    assert_eq!(
        two("[0,4]", "[3,7]", 7),
        Some(Fault::Overlap {
            tensor: name.clone(),
            begin: 3,
            before: 4
        })
    );
    assert_eq!(
        two("[0,4]", "[0,4]", 4),
        Some(Fault::Overlap {
            tensor: name.clone(),
            begin: 0,
            before: 4
        })
    );
    assert_eq!(
        two("[0,4]", "[5,9]", 9),
        Some(Fault::Hole {
            tensor: name,
            begin: 5,
            before: 4
        })
    );
    assert_eq!(
        two("[1,5]", "[5,9]", 9),
        Some(Fault::Hole {
            tensor: "a".into(),
            begin: 1,
            before: 0
        })
    );
    assert_eq!(two("[0,4]", "[4,8]", 9), Some(Fault::Tail(1)));
    assert_eq!(
        two("[0,4]", "[4,8]", 7),
        Some(Fault::Cut { want: 8, found: 7 })
    );
}

#[test]
fn a_name_that_cannot_be_shown_is_refused() {
    let named = |name: &str| {
        let tensor = r#"{"dtype":"U8","shape":[0],"data_offsets":[0,0]}"#;
        Header::parse(&file(&format!("{{\"{name}\":{tensor}}}"), 0)).err()
    };
    assert_eq!(named("model.层.weight"), None);
    assert_eq!(named(&"n".repeat(4_096)), None);
    assert!(matches!(
        named(&"n".repeat(4_097)),
        Some(Fault::Name {
            why: "longer than 4096 bytes",
            ..
        })
    ));
    assert!(matches!(named(""), Some(Fault::Name { why: "empty", .. })));
    assert!(matches!(
        named("a\\u0000b"),
        Some(Fault::Name {
            why: "not printable",
            ..
        })
    ));
}

#[test]
fn more_than_a_million_tensors_are_refused() {
    let tensor = r#":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}"#;
    let header = |n: usize| {
        let entries: Vec<String> = (0..n).map(|i| format!("\"{i:x}\"{tensor}")).collect();
        file(&format!("{{{}}}", entries.join(",")), 0)
    };
    let read = Header::parse(&header(1_000_000)).expect("as many as allowed");
    assert_eq!(read.tensors.len(), 1_000_000);
    assert_eq!(
        Header::parse(&header(1_000_001)).expect_err("one more"),
        Fault::TooManyTensors
    );
}

#[test]
fn more_than_ten_thousand_texts_of_metadata_are_refused() {
    let header = |n: usize| {
        let entries: Vec<String> = (0..n).map(|i| format!("\"{i:x}\":\"\"")).collect();
        Header::parse(&file(
            &format!("{{\"__metadata__\":{{{}}}}}", entries.join(",")),
            0,
        ))
        .err()
    };
    assert_eq!(header(10_000), None);
    assert_eq!(header(10_001), Some(Fault::TooMuchMetadata));
}

#[test]
fn the_writer_refuses_what_the_reader_would() {
    let refused = |tensors: Vec<TensorToWrite<'_>>| {
        write(&mut Vec::new(), tensors, &[]).expect_err("refused")
    };
    let tensor = |name, shape, bytes| TensorToWrite::bytes(name, Dtype::F32, shape, bytes);
    let twice = refused(vec![tensor("a", &[1], &[0; 4]), tensor("a", &[1], &[0; 4])]);
    assert!(matches!(
        twice,
        FormatsError::TensorNamed {
            why: "there twice",
            ..
        }
    ));
    assert!(matches!(
        refused(vec![tensor("", &[1], &[0; 4])]),
        FormatsError::TensorNamed { .. }
    ));
    let reserved = refused(vec![tensor("__metadata__", &[1], &[0; 4])]);
    assert!(matches!(
        reserved,
        FormatsError::TensorNamed {
            why: "reserved",
            ..
        }
    ));
    let short = refused(vec![tensor("a", &[2], &[0; 4])]);
    assert!(matches!(
        short,
        FormatsError::TensorBytes {
            want: 8,
            found: 4,
            ..
        }
    ));
    let large = refused(vec![tensor("a", &[usize::MAX, 2], &[0; 4])]);
    assert!(matches!(large, FormatsError::TensorTooLarge { .. }));
}

#[test]
fn a_header_that_readers_refuse_is_not_written() {
    let names: Vec<String> = (0..25_000).map(|i| format!("{i:04096}")).collect();
    let tensors = names
        .iter()
        .map(|name| TensorToWrite::bytes(name, Dtype::U8, &[0], &[]));
    let refused = write(&mut Vec::new(), tensors.collect(), &[]).expect_err("refused");
    assert!(matches!(&refused, FormatsError::HeaderTooLong(bytes) if *bytes > 100_000_000));
    assert!(refused.hint().is_some());
}

/// Takes some bytes, then says that the disk is full.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self
            .0
            .checked_sub(bytes.len())
            .ok_or(io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_writer_that_fails_is_reported_wherever_it_fails() {
    let make = || {
        let made = |bytes: Vec<u8>| Contents::Made(Box::new(move || Ok(bytes)));
        let tensor = |name: &'static str, contents| TensorToWrite {
            name: name.into(),
            dtype: Dtype::F16,
            shape: vec![2].into(),
            contents,
        };
        vec![
            tensor("b", made(vec![5, 6, 7, 8])),
            tensor("a", made(vec![1, 2, 3, 4])),
        ]
    };
    let mut whole = Vec::new();
    write(&mut whole, make(), &[]).expect("written");
    assert!(
        whole.ends_with(&[1, 2, 3, 4, 5, 6, 7, 8]),
        "made tensors are written in order"
    );
    for room in 0..whole.len() {
        let failed = write(&mut Full(room), make(), &[]);
        let full = |source: &io::Error| source.kind() == io::ErrorKind::StorageFull;
        assert!(
            matches!(&failed, Err(FormatsError::Write { source }) if full(source)),
            "{room}"
        );
    }
    write(&mut Full(whole.len()), make(), &[]).expect("just enough room");
}

#[test]
fn files_that_python_wrote_are_written_again_byte_for_byte() {
    let ours = include_bytes!("fixtures/torch_bin/state_dict.safetensors");
    assert!(rewritten(ours) == ours);
    let Some(inputs) = testkit::shared_inputs() else {
        println!("skipped: no shared inputs");
        return;
    };
    let mut seen = 0;
    for folder in std::fs::read_dir(inputs.join("adapters")).expect("a folder") {
        let path = folder
            .expect("an entry")
            .path()
            .join("adapter_model.safetensors");
        let Ok(bytes) = std::fs::read(&path) else {
            continue;
        };
        assert!(rewritten(&bytes) == bytes, "{path:?}");
        seen += 1;
    }
    assert!(seen >= 7);
}

fn rewritten(bytes: &[u8]) -> Vec<u8> {
    let header = Header::parse(bytes).expect("read");
    let views = header.tensors.iter().map(|tensor| {
        TensorToWrite::bytes(
            &tensor.name,
            tensor.dtype,
            &tensor.shape,
            &bytes[tensor.range.clone()],
        )
    });
    let mut out = Vec::new();
    write(&mut out, views.collect(), &[("format", "pt")]).expect("written");
    out
}

#[derive(Debug, Clone)]
struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

fn tensors() -> impl Strategy<Value = BTreeMap<String, Tensor>> {
    use Dtype::{BF16, BOOL, F16, F32, F64, I8, I64, U8};
    let dtype = prop::sample::select(vec![F32, F16, BF16, F64, I64, I8, U8, BOOL]);
    let tensor =
        (dtype, prop::collection::vec(0_usize..5, 0..4)).prop_flat_map(|(dtype, shape)| {
            let size = dtype.tensor_bytes(&shape).expect("small");
            prop::collection::vec(any::<u8>(), size).prop_map(move |bytes| Tensor {
                dtype,
                shape: shape.clone(),
                bytes,
            })
        });
    prop::collection::btree_map("[a-z.\"\\\\é空]{1,12}", tensor, 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn what_is_written_reads_back_and_is_upstreams_bytes(tensors in tensors()) {
        let mut ours = Vec::new();
        let views = tensors.iter().map(|(name, tensor)| {
            TensorToWrite::bytes(name, tensor.dtype, &tensor.shape, &tensor.bytes)
        });
        let size = write(&mut ours, views.collect(), &[("format", "pt")]).expect("written");
        prop_assert_eq!(size, ours.len() as u64);
        let header = Header::parse(&ours).expect("read");
        prop_assert_eq!(header.tensors.len(), tensors.len());
        prop_assert_eq!(header.metadata.get("format").map(String::as_str), Some("pt"));
        for (name, tensor) in &tensors {
            let found = header.get(name).expect("there");
            prop_assert_eq!((found.dtype, &*found.shape), (tensor.dtype, &*tensor.shape));
            prop_assert_eq!(&ours[found.range.clone()], &*tensor.bytes);
        }
        prop_assert_eq!(header.get("no such tensor"), None);
        let upstream = tensors.iter().map(|(name, tensor)| (name, upstream_view(tensor)));
        let metadata = Some(HashMap::from([("format".to_owned(), "pt".to_owned())]));
        let upstream = safetensors::serialize(upstream, metadata).expect("upstream writes it");
        prop_assert_eq!(ours, upstream);
    }
}

fn upstream_view(tensor: &Tensor) -> safetensors::tensor::TensorView<'_> {
    let dtype = serde_json::from_value(tensor.dtype.name().into()).expect("upstream has it");
    let shape = tensor.shape.clone();
    safetensors::tensor::TensorView::new(dtype, shape, &tensor.bytes).expect("a view")
}
