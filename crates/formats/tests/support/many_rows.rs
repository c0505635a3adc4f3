//! Arrow streams of many small messages.

use std::sync::Arc;

use arrow_array::types::Int8Type;
use arrow_array::{ArrayRef, DictionaryArray, RecordBatch, new_empty_array};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::DataType;

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

/// `total` bytes: batches of no rows in 4,000 columns of one type, whose buffers are empty.
pub(crate) fn empty_columns(total: usize, kind: DataType) -> Vec<u8> {
    let columns = (0..4_000).map(|at| (at.to_string(), new_empty_array(&kind)));
    let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
    let buffers = match kind {
        DataType::Null => 0,
        _ => 2 * batch.num_columns(),
    };
    let says = Says {
        rows: 0,
        nodes: vec![(0, 0); batch.num_columns()],
        buffers: vec![(0, 0); buffers],
        body_length: 0,
        ..honest()
    };
    let (mut file, message) = (schema(&batch), says.message());
    file.extend(message.repeat((total - file.len()) / message.len()));
    file
}
