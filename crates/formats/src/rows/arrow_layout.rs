//! How the buffers of an Arrow column are to be read, from its type in the schema.

use arrow_schema::{DataType, Field};

/// Why a cell or a batch is refused; the caller knows file and offset.
pub(super) type What = String;

/// How the buffers of one column are to be read.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Layout {
    Null,
    Bool,
    Int {
        width: usize,
        signed: bool,
    },
    Float {
        width: usize,
    },
    Text {
        wide: bool,
    },
    TextView,
    List {
        wide: bool,
        item: Box<Layout>,
    },
    FixedList {
        size: usize,
        item: Box<Layout>,
    },
    Struct(Vec<(String, Layout)>),
    Dictionary {
        id: i64,
        width: usize,
        values: Box<Layout>,
    },
    /// Stepped over: this many buffers (and, for a view, those that the batch adds), then the children.
    Unreadable {
        type_name: String,
        buffers: usize,
        view: bool,
        children: Vec<Layout>,
    },
}

impl Layout {
    pub(super) fn of(field: &Field) -> Result<Self, What> {
        Self::of_type(field.data_type(), field)
    }

    #[expect(
        deprecated,
        reason = "the id by which a batch names its dictionary is still only kept here"
    )]
    fn of_type(data_type: &DataType, field: &Field) -> Result<Self, What> {
        let int = |width, signed| Ok(Self::Int { width, signed });
        let item = |field: &Field| Self::of(field).map(Box::new);
        match data_type {
            DataType::Null => Ok(Self::Null),
            DataType::Boolean => Ok(Self::Bool),
            DataType::Int8 => int(1, true),
            DataType::Int16 => int(2, true),
            DataType::Int32 => int(4, true),
            DataType::Int64 => int(8, true),
            DataType::UInt8 => int(1, false),
            DataType::UInt16 => int(2, false),
            DataType::UInt32 => int(4, false),
            DataType::UInt64 => int(8, false),
            DataType::Float16 => Ok(Self::Float { width: 2 }),
            DataType::Float32 => Ok(Self::Float { width: 4 }),
            DataType::Float64 => Ok(Self::Float { width: 8 }),
            DataType::Utf8 => Ok(Self::Text { wide: false }),
            DataType::LargeUtf8 => Ok(Self::Text { wide: true }),
            DataType::Utf8View => Ok(Self::TextView),
            DataType::List(child) => Ok(Self::List {
                wide: false,
                item: item(child)?,
            }),
            DataType::LargeList(child) => Ok(Self::List {
                wide: true,
                item: item(child)?,
            }),
            DataType::FixedSizeList(child, size) => {
                let size =
                    usize::try_from(*size).map_err(|_| format!("negative list size {size}"))?;
                Ok(Self::FixedList {
                    size,
                    item: item(child)?,
                })
            }
            DataType::Struct(fields) => fields
                .iter()
                .map(|field| Ok((field.name().clone(), Self::of(field)?)))
                .collect::<Result<_, _>>()
                .map(Self::Struct),
            DataType::Dictionary(index, values) => {
                let Self::Int { width, .. } = Self::of_type(index, field)? else {
                    return Err("dictionary indices are not integers".into());
                };
                let id = field.dict_id().ok_or("a dictionary column without an id")?;
                Ok(Self::Dictionary {
                    id,
                    width,
                    values: Box::new(Self::of_type(values, field)?),
                })
            }
            other => Self::unreadable(other),
        }
    }

    /// Types without a JSON value are only stepped over, by the number of buffers that each has.
    fn unreadable(data_type: &DataType) -> Result<Self, What> {
        use DataType::{
            BinaryView, LargeBinary, LargeListView, ListView, Map, RunEndEncoded, Union,
        };
        let (buffers, view, children) = match data_type {
            DataType::Binary | LargeBinary => (3, false, vec![]),
            BinaryView => (2, true, vec![]),
            ListView(child) | LargeListView(child) => (3, false, vec![Self::of(child)?]),
            Map(child, _) => (2, false, vec![Self::of(child)?]),
            RunEndEncoded(ends, values) => (0, false, vec![Self::of(ends)?, Self::of(values)?]),
            Union(fields, mode) => {
                let offsets = usize::from(*mode == arrow_schema::UnionMode::Dense);
                let children = fields
                    .iter()
                    .map(|(_, field)| Self::of(field))
                    .collect::<Result<_, _>>()?;
                (1 + offsets, false, children)
            }
            _ => (2, false, vec![]),
        };
        Ok(Self::Unreadable {
            type_name: data_type.to_string(),
            buffers,
            view,
            children,
        })
    }

    /// The type that keeps this column from being shown, if one does.
    pub(super) fn unreadable_type(&self) -> Option<&str> {
        match self {
            Self::Unreadable { type_name, .. } => Some(type_name),
            Self::List { item, .. } | Self::FixedList { item, .. } => item.unreadable_type(),
            Self::Dictionary { values, .. } => values.unreadable_type(),
            Self::Struct(fields) => fields
                .iter()
                .find_map(|(_, layout)| layout.unreadable_type()),
            _ => None,
        }
    }

    /// Buffers of this node itself, and whether a batch may add more.
    pub(super) fn buffers(&self) -> (usize, bool) {
        match self {
            Self::Null => (0, false),
            Self::FixedList { .. } | Self::Struct(_) => (1, false),
            Self::Bool | Self::Int { .. } | Self::Float { .. } => (2, false),
            Self::List { .. } | Self::Dictionary { .. } => (2, false),
            Self::Text { .. } => (3, false),
            Self::TextView => (2, true),
            Self::Unreadable { buffers, view, .. } => (*buffers, *view),
        }
    }

    pub(super) fn children(&self) -> Vec<&Layout> {
        match self {
            Self::List { item, .. } | Self::FixedList { item, .. } => vec![item],
            Self::Struct(fields) => fields.iter().map(|(_, layout)| layout).collect(),
            Self::Unreadable { children, .. } => children.iter().collect(),
            _ => vec![],
        }
    }
}
