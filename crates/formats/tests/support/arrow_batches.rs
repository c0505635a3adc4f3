//! Record batches as the `arrow-ipc` writer makes them: every type, and streams of them.

use std::sync::Arc;

use arrow_array::builder::{
    FixedSizeListBuilder, Int8Builder, ListBuilder, StringBuilder, StringViewBuilder,
};
use arrow_array::types::Int8Type;
use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, DictionaryArray, Float16Array, Float32Array,
    Float64Array, Int16Array, Int64Array, LargeStringArray, NullArray, RecordBatch, StringArray,
    StructArray, UInt64Array,
};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{DataType, Field};

pub(crate) fn stream(batches: &[RecordBatch]) -> Vec<u8> {
    let mut writer =
        StreamWriter::try_new(Vec::new(), &batches[0].schema()).expect("a schema writes");
    for batch in batches {
        writer.write(batch).expect("a batch writes");
    }
    writer.finish().expect("a stream ends");
    writer
        .into_inner()
        .expect("a finished stream gives its bytes")
}

pub(crate) fn text_batch(texts: &[Option<&str>]) -> RecordBatch {
    let column: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
    RecordBatch::try_from_iter_with_nullable([("text", column, true)]).expect("one column")
}

fn lists() -> (ArrayRef, ArrayRef) {
    let mut words = ListBuilder::new(StringBuilder::new());
    words.append_value([Some("一"), None, Some("drei")]);
    words.append_null();
    words.append_value([] as [Option<&str>; 0]);
    let mut pairs = FixedSizeListBuilder::new(Int8Builder::new(), 2);
    for pair in [[1, -2], [3, 4], [-128, 127]] {
        pair.iter()
            .for_each(|&value| pairs.values().append_value(value));
        pairs.append(pair[0] != 3);
    }
    (Arc::new(words.finish()), Arc::new(pairs.finish()))
}

pub(crate) fn every_type() -> RecordBatch {
    let (words, pairs) = lists();
    let mut views = StringViewBuilder::new().with_fixed_block_size(64);
    views.append_value("short");
    views.append_null();
    views.append_value("longer than twelve bytes, 中文");
    let inner: ArrayRef = Arc::new(Int16Array::from(vec![Some(-300), None, Some(7)]));
    let name: ArrayRef = Arc::new(StringArray::from(vec!["x", "y", "z"]));
    let fields = vec![
        Field::new("n", DataType::Int16, true),
        Field::new("name", DataType::Utf8, false),
    ];
    let nulls = vec![true, true, false].into();
    let structure = StructArray::new(fields.into(), vec![inner, name], Some(nulls));
    let half = [1.5, -2.0, f32::NAN].map(half::f16::from_f32);
    let columns: Vec<(&str, ArrayRef)> = vec![
        (
            "text",
            Arc::new(StringArray::from(vec![Some("a"), None, Some("é\n")])),
        ),
        (
            "large",
            Arc::new(LargeStringArray::from(vec!["", "b", "长"])),
        ),
        ("view", Arc::new(views.finish())),
        (
            "int64",
            Arc::new(Int64Array::from(vec![i64::MIN, 0, i64::MAX])),
        ),
        ("uint64", Arc::new(UInt64Array::from(vec![u64::MAX, 1, 2]))),
        ("half", Arc::new(Float16Array::from(half.to_vec()))),
        (
            "float",
            Arc::new(Float32Array::from(vec![0.5, 1e30, f32::INFINITY])),
        ),
        (
            "double",
            Arc::new(Float64Array::from(vec![Some(0.1), None, Some(-0.25)])),
        ),
        (
            "flag",
            Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])),
        ),
        ("nothing", Arc::new(NullArray::new(3))),
        ("words", words),
        ("pairs", pairs),
        ("struct", Arc::new(structure)),
        (
            "kind",
            Arc::new(DictionaryArray::<Int8Type>::from_iter([
                Some("cat"),
                None,
                Some("dog"),
            ])),
        ),
        (
            "image",
            Arc::new(BinaryArray::from_vec(vec![b"\x89PNG", b"", b"x"])),
        ),
        ("day", Arc::new(Date32Array::from(vec![1, 2, 3]))),
    ];
    RecordBatch::try_from_iter_with_nullable(
        columns
            .into_iter()
            .map(|(name, column)| (name, column, true)),
    )
    .expect("columns of three rows")
}
