//! Arrow streams of many small messages.

use std::sync::Arc;

use arrow_array::types::Int8Type;
use arrow_array::{ArrayRef, DictionaryArray, RecordBatch};
use arrow_ipc::writer::StreamWriter;

use crate::arrow_messages::{Says, honest};

/// The schema of a batch, as a stream begins.
fn schema(batch: &RecordBatch) -> Vec<u8> {
    let writer = StreamWriter::try_new(Vec::new(), &batch.schema()).expect("a schema writes");
    writer.get_ref().clone()
}

/// `total` bytes: a dictionary of one text, then by turns a further text and a batch of no rows.
pub(crate) fn additions(total: usize) -> Vec<u8> {
    let texts: ArrayRef = Arc::new(DictionaryArray::<Int8Type>::from_iter(["a"]));
    let mut file = schema(&RecordBatch::try_from_iter([("kind", texts)]).expect("one column"));
    let dictionary = |added: bool| {
        let says = Says {
            dictionary: Some((0, added)),
            ..honest()
        };
        let body = [0, 0, 0, 0, 2, 0, 0, 0, b'a', b'b', 0, 0, 0, 0, 0, 0];
        [&says.message()[..], &body].concat()
    };
    file.extend(dictionary(false));
    let batch = Says {
        rows: 0,
        nodes: vec![(0, 0)],
        buffers: vec![(0, 0); 2],
        body_length: 0,
        ..honest()
    };
    let pair = [dictionary(true), batch.message()].concat();
    file.extend(pair.repeat((total - file.len()) / pair.len()));
    file
}
