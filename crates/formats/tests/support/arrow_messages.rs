//! Single messages of an Arrow stream, made by hand: they may say what no writer says.

use arrow_ipc::{
    BodyCompressionArgs, Buffer, CompressionType, DictionaryBatchArgs, FieldNode, MessageArgs,
    MessageHeader, MetadataVersion, RecordBatchArgs,
};
use flatbuffers::FlatBufferBuilder;

/// What a message says of itself.
pub(crate) struct Says {
    pub(crate) rows: i64,
    pub(crate) nodes: Vec<(i64, i64)>,
    pub(crate) buffers: Vec<(i64, i64)>,
    pub(crate) views: Option<i64>,
    pub(crate) body_length: i64,
    pub(crate) codec: Option<CompressionType>,
    pub(crate) version: MetadataVersion,
    pub(crate) dictionary: Option<(i64, bool)>,
}

/// A batch of one row of text, `ab`.
pub(crate) fn honest() -> Says {
    Says {
        rows: 1,
        nodes: vec![(1, 0)],
        buffers: vec![(0, 0), (0, 8), (8, 2)],
        views: None,
        body_length: 16,
        codec: None,
        version: MetadataVersion::V5,
        dictionary: None,
    }
}

impl Says {
    /// The message as it stands in a file; its body follows.
    pub(crate) fn message(&self) -> Vec<u8> {
        let mut builder = FlatBufferBuilder::new();
        let nodes: Vec<FieldNode> = self
            .nodes
            .iter()
            .map(|&(length, nulls)| FieldNode::new(length, nulls))
            .collect();
        let buffers: Vec<Buffer> = self
            .buffers
            .iter()
            .map(|&(at, length)| Buffer::new(at, length))
            .collect();
        let (nodes, buffers) = (
            builder.create_vector(&nodes),
            builder.create_vector(&buffers),
        );
        let views = self.views.map(|count| builder.create_vector(&[count]));
        let compression = self.codec.map(|codec| {
            let arguments = BodyCompressionArgs {
                codec,
                ..Default::default()
            };
            arrow_ipc::BodyCompression::create(&mut builder, &arguments)
        });
        let arguments = RecordBatchArgs {
            length: self.rows,
            nodes: Some(nodes),
            buffers: Some(buffers),
            variadicBufferCounts: views,
            compression,
        };
        let batch = arrow_ipc::RecordBatch::create(&mut builder, &arguments);
        let (kind, header) = match self.dictionary {
            None => (MessageHeader::RecordBatch, batch.as_union_value()),
            Some((id, delta)) => {
                let arguments = DictionaryBatchArgs {
                    id,
                    data: Some(batch),
                    isDelta: delta,
                };
                let dictionary = arrow_ipc::DictionaryBatch::create(&mut builder, &arguments);
                (MessageHeader::DictionaryBatch, dictionary.as_union_value())
            }
        };
        let arguments = MessageArgs {
            version: self.version,
            header_type: kind,
            header: Some(header),
            bodyLength: self.body_length,
            ..Default::default()
        };
        let root = arrow_ipc::Message::create(&mut builder, &arguments);
        builder.finish(root, None);
        let mut metadata = builder.finished_data().to_vec();
        metadata.resize(metadata.len().next_multiple_of(8), 0);
        let length = (metadata.len() as u32).to_le_bytes();
        [&[0xff; 4], &length[..], &metadata].concat()
    }
}
