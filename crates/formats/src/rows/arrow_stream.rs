//! Arrow IPC *stream* files, as `datasets` writes them: messages are walked once, batches stay where they are mapped.
//!
//! Every length is compared with the bytes that are left before anything is made of it, and the flatbuffer of a message
//! is verified with tight limits: it may refer to one table many times, which unfolds into far more than the file holds.

use std::ops::Range;

use arrow_ipc::{DictionaryBatch, Message, MessageHeader, MetadataVersion, RecordBatch};
use flatbuffers::VerifierOptions;

use super::arrow::{Column, Parts};
use super::arrow_layout::{Layout, What};
use super::dictionaries::Dictionaries;

/// A record batch: how many rows, and where their cells lie.
pub(super) struct Batch {
    pub(super) rows: usize,
    pub(super) columns: Vec<Column>,
}

/// An offset in the file and what is wrong there.
pub(super) type Fault = (usize, What);

/// What one stream file holds.
pub(super) struct Stream {
    pub(super) fields: Vec<(String, Layout)>,
    pub(super) batches: Vec<Batch>,
    pub(super) dictionaries: Dictionaries,
}

/// A message's metadata is a few hundred bytes for each column.
const MAX_METADATA_BYTES: usize = 64 << 20;
/// Java's limit, and far beyond any batch; a column of nulls can claim any length without a byte behind it.
const MAX_BATCH_ROWS: i64 = i32::MAX as i64;
const CONTINUATION: u32 = u32::MAX;

impl Stream {
    /// Walks the messages of a file, whose columns may take `budget` bytes.
    pub(super) fn read(bytes: &[u8], budget: &mut usize) -> Result<Self, Fault> {
        foreign(bytes)?;
        let mut walk = Walk {
            bytes,
            at: 0,
            budget,
            dictionaries: Dictionaries::default(),
            batches: Vec::new(),
        };
        let Some(first) = walk.next_message()? else {
            return Err((0, "the stream ends before its schema".into()));
        };
        let fields = first.with(|message| schema_of(&message))?;
        while let Some(envelope) = walk.next_message()? {
            envelope.with(|message| walk.take(&message, &fields, &envelope))?;
        }
        Ok(Self {
            fields,
            batches: walk.batches,
            dictionaries: walk.dictionaries,
        })
    }
}

/// Names files that are often found where a stream should be.
fn foreign(bytes: &[u8]) -> Result<(), Fault> {
    let kind = if bytes.is_empty() {
        "the file is empty"
    } else if bytes.starts_with(b"ARROW1") {
        "this is an Arrow file in the random-access format, `datasets` writes the stream format"
    } else if bytes.starts_with(b"version https://git-lfs") {
        "this is a git-lfs pointer, not the data: fetch it with `git lfs pull`"
    } else if bytes.starts_with(b"PAR1") {
        "this is a Parquet file, not an Arrow stream"
    } else {
        return Ok(());
    };
    Err((0, kind.into()))
}

/// A message whose lengths have been checked: its metadata and where its body lies.
struct Envelope<'a> {
    offset: usize,
    metadata: &'a [u8],
    after_metadata: usize,
}

impl Envelope<'_> {
    /// Verifies the metadata and hands it to `act`; what `act` finds wrong is placed at this message.
    fn with<T>(&self, act: impl FnOnce(Message<'_>) -> Result<T, What>) -> Result<T, Fault> {
        // A real schema has one table and a few strings for each column.
        let options = VerifierOptions {
            max_depth: 64,
            max_tables: 16_384,
            max_apparent_size: 64 << 20,
            ignore_missing_null_terminator: false,
        };
        let message =
            arrow_ipc::root_as_message_with_opts(&options, self.metadata).map_err(|error| {
                (
                    self.offset,
                    format!(
                        "message metadata is damaged: {}",
                        first_line(&error.to_string())
                    ),
                )
            })?;
        act(message).map_err(|what| (self.offset, what))
    }
}

fn first_line(text: &str) -> &str {
    text.lines()
        .next()
        .unwrap_or_default()
        .trim_end_matches([' ', '.'])
}

fn schema_of(message: &Message<'_>) -> Result<Vec<(String, Layout)>, What> {
    let Some(schema) = message.header_as_schema() else {
        return Err(format!(
            "the first message is no schema, but: {:?}",
            message.header_type()
        ));
    };
    if schema.endianness() != arrow_ipc::Endianness::Little {
        return Err("the file is big-endian".into());
    }
    let schema = arrow_ipc::convert::try_fb_to_schema(schema)
        .map_err(|error| format!("schema is damaged: {error}"))?;
    let mut fields: Vec<(String, Layout)> = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        if fields.iter().any(|(name, _)| name == field.name()) {
            return Err(format!("column `{}` is there twice", field.name()));
        }
        fields.push((field.name().clone(), Layout::of(field)?));
    }
    Ok(fields)
}

/// A walk over the messages of a stream.
struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    budget: &'a mut usize,
    dictionaries: Dictionaries,
    batches: Vec<Batch>,
}

impl<'a> Walk<'a> {
    /// The next message, or `None` at the end; a stream may end with a zero length or with the file.
    fn next_message(&mut self) -> Result<Option<Envelope<'a>>, Fault> {
        let offset = self.at;
        if offset == self.bytes.len() {
            return Ok(None);
        }
        let mut length = self.word(offset)?;
        self.at += 4;
        // Before Arrow 0.15 (2019) a message began with its length alone.
        if length == CONTINUATION {
            length = self.word(self.at)?;
            self.at += 4;
        }
        if length == 0 {
            return self.ended().map(|()| None);
        }
        let (length, left) = (length as usize, self.bytes.len() - self.at);
        if length > left.min(MAX_METADATA_BYTES) {
            return Err((
                offset,
                format!("a message claims {length} bytes of metadata, the file has {left} left"),
            ));
        }
        let metadata = &self.bytes[self.at..self.at + length];
        self.at += length;
        Ok(Some(Envelope {
            offset,
            metadata,
            after_metadata: self.at,
        }))
    }

    fn word(&self, at: usize) -> Result<u32, Fault> {
        match self.bytes.get(at..).and_then(<[u8]>::first_chunk) {
            Some(word) => Ok(u32::from_le_bytes(*word)),
            None => Err((at, "the file breaks off inside a message length".into())),
        }
    }

    /// Bytes behind the end would be rows that nobody sees; padding is zero.
    fn ended(&mut self) -> Result<(), Fault> {
        match self.bytes[self.at..].iter().position(|&byte| byte != 0) {
            None => Ok(()),
            Some(at) => Err((
                self.at + at,
                "there are bytes after the end of the stream".into(),
            )),
        }
    }

    fn take(
        &mut self,
        message: &Message<'_>,
        fields: &[(String, Layout)],
        from: &Envelope<'_>,
    ) -> Result<(), What> {
        let (length, left) = (message.bodyLength(), self.bytes.len() - from.after_metadata);
        let length = usize::try_from(length).ok().filter(|&length| length <= left).ok_or_else(|| {
            format!("the file breaks off: a message claims a body of {length} bytes, the file has {left} left")
        })?;
        let body = from.after_metadata..from.after_metadata + length;
        self.at = body.end;
        if message.version() < MetadataVersion::V4 {
            return Err("written by an Arrow before 0.8, whose format is not read".into());
        }
        match message.header_type() {
            MessageHeader::RecordBatch => {
                let batch = message
                    .header_as_record_batch()
                    .ok_or("a record batch without its header")?;
                self.batch(&batch, fields, body)
            }
            MessageHeader::DictionaryBatch => {
                let batch = message
                    .header_as_dictionary_batch()
                    .ok_or("a dictionary without its header")?;
                self.dictionary(&batch, fields, body)
            }
            other => Err(format!(
                "a message of a kind that does not belong here: {other:?}"
            )),
        }
    }

    fn batch(
        &mut self,
        batch: &RecordBatch<'_>,
        fields: &[(String, Layout)],
        body: Range<usize>,
    ) -> Result<(), What> {
        let rows = batch.length();
        if !(0..=MAX_BATCH_ROWS).contains(&rows) {
            return Err(format!("a batch claims {rows} rows"));
        }
        let layouts = fields.iter().map(|(_, layout)| layout);
        let columns = columns_of(self.bytes, batch, layouts, body, self.budget)?;
        for ((name, _), column) in fields.iter().zip(&columns) {
            if column.len() as i64 != rows {
                return Err(format!(
                    "column `{name}` has {} cells in a batch of {rows} rows",
                    column.len()
                ));
            }
        }
        if rows > 0 && columns.is_empty() {
            return Err(format!("a batch claims {rows} rows and has no columns"));
        }
        self.batches.push(Batch {
            rows: rows as usize,
            columns,
        });
        Ok(())
    }

    fn dictionary(
        &mut self,
        batch: &DictionaryBatch<'_>,
        fields: &[(String, Layout)],
        body: Range<usize>,
    ) -> Result<(), What> {
        let id = batch.id();
        let values = fields
            .iter()
            .find_map(|(_, layout)| dictionary_values(layout, id));
        let values = values.ok_or_else(|| format!("dictionary {id} belongs to no column"))?;
        let data = batch
            .data()
            .ok_or_else(|| format!("dictionary {id} has no data"))?;
        let values = [values].into_iter();
        let column = columns_of(self.bytes, &data, values, body, self.budget)?.pop();
        let column = column.ok_or_else(|| format!("dictionary {id} has no column"))?;
        if column.len() as i64 != data.length() {
            let (claimed, found) = (data.length(), column.len());
            return Err(format!(
                "dictionary {id} claims {claimed} values and has {found}"
            ));
        }
        let batches = self.batches.len();
        self.dictionaries.take(id, column, batches, batch.isDelta())
    }
}

/// The layout of the values of dictionary `id`, where a column uses it.
fn dictionary_values(layout: &Layout, id: i64) -> Option<&Layout> {
    match layout {
        Layout::Dictionary {
            id: own, values, ..
        } if *own == id => Some(values),
        Layout::Dictionary { values: inner, .. } => dictionary_values(inner, id),
        Layout::List { item, .. } | Layout::FixedList { item, .. } => dictionary_values(item, id),
        Layout::Struct(fields) => fields
            .iter()
            .find_map(|(_, layout)| dictionary_values(layout, id)),
        Layout::Unreadable { children, .. } => children
            .iter()
            .find_map(|layout| dictionary_values(layout, id)),
        _ => None,
    }
}

fn columns_of<'l>(
    bytes: &[u8],
    batch: &RecordBatch<'_>,
    layouts: impl ExactSizeIterator<Item = &'l Layout>,
    body: Range<usize>,
    budget: &mut usize,
) -> Result<Vec<Column>, What> {
    if batch.compression().is_some() {
        return Err(
            "the batch is compressed, which `datasets` never does and this does not read".into(),
        );
    }
    let nodes = batch.nodes().ok_or("the batch has no nodes")?;
    let buffers = batch.buffers().ok_or("the batch has no buffers")?;
    let mut parts = Parts {
        bytes,
        nodes: nodes
            .iter()
            .map(|node| node_of(node.length(), node.null_count())),
        buffers: buffers
            .iter()
            .map(|buffer| within(&body, buffer.offset(), buffer.length())),
        view_counts: batch.variadicBufferCounts().into_iter().flatten(),
        budget,
    };
    let mut columns = Vec::with_capacity(layouts.len());
    for layout in layouts {
        columns.push(parts.column(layout)?);
    }
    let left = parts.nodes.next().is_some() || parts.buffers.next().is_some();
    if left || parts.view_counts.next().is_some() {
        return Err("the batch has more columns than the schema".into());
    }
    Ok(columns)
}

fn node_of(length: i64, null_count: i64) -> Result<(usize, usize), What> {
    match (usize::try_from(length), usize::try_from(null_count)) {
        (Ok(cells), Ok(nulls)) if nulls <= cells => Ok((cells, nulls)),
        _ => Err(format!(
            "a column claims {length} cells, {null_count} of them null"
        )),
    }
}

fn within(body: &Range<usize>, offset: i64, length: i64) -> Result<Range<usize>, What> {
    let range = || {
        let start = body.start.checked_add(usize::try_from(offset).ok()?)?;
        Some(start..start.checked_add(usize::try_from(length).ok()?)?)
            .filter(|range| range.end <= body.end)
    };
    range().ok_or_else(|| {
        format!(
            "a buffer of {length} bytes at {offset} is outside a body of {} bytes",
            body.len()
        )
    })
}
