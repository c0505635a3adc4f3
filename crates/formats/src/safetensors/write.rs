//! The writer: the header first, then one tensor after the other.

use std::borrow::Cow;
use std::io::{self, Write};

use super::{MAX_HEADER_BYTES, MAX_NAME_BYTES};
use crate::dtype::Dtype;
use crate::error::FormatsError;

/// A tensor to be written.
pub struct TensorToWrite<'a> {
    /// Its name.
    pub name: Cow<'a, str>,
    /// Type of its elements.
    pub dtype: Dtype,
    /// Its sides, slowest first.
    pub shape: Cow<'a, [usize]>,
    /// Its bytes, little-endian.
    pub contents: Contents<'a>,
}

/// Bytes, or how to make them when their turn comes: a merged model is written one tensor at a time.
pub enum Contents<'a> {
    /// There already.
    Bytes(Cow<'a, [u8]>),
    /// Made once, just before they are written, and dropped after.
    Made(Box<dyn FnOnce() -> io::Result<Vec<u8>> + 'a>),
}

impl<'a> TensorToWrite<'a> {
    /// A tensor whose bytes are there.
    pub fn bytes(name: &'a str, dtype: Dtype, shape: &'a [usize], bytes: &'a [u8]) -> Self {
        let contents = Contents::Bytes(Cow::Borrowed(bytes));
        Self {
            name: Cow::Borrowed(name),
            dtype,
            shape: Cow::Borrowed(shape),
            contents,
        }
    }

    /// Bytes of its shape.
    ///
    /// # Errors
    /// [`FormatsError::TensorTooLarge`].
    pub fn size_bytes(&self) -> Result<usize, FormatsError> {
        let size = self.dtype.tensor_bytes(&self.shape);
        size.ok_or_else(|| FormatsError::TensorTooLarge {
            name: self.name.to_string(),
        })
    }
}

/// Writes a file: what Python's `save_file` gives for the same tensors and metadata. Returns its size.
///
/// Tensors are written by type (the last of [`Dtype`] first), then by name, in whatever order they come.
///
/// # Errors
/// [`FormatsError::TensorNamed`] for a name that is there twice, empty, too long, or `__metadata__`;
/// [`FormatsError::TensorBytes`] when bytes are not of the shape's size; [`FormatsError::Write`] when `out`
/// fails. What was written until then is of no use.
pub fn write(
    out: &mut dyn Write,
    mut tensors: Vec<TensorToWrite<'_>>,
    metadata: &[(&str, &str)],
) -> Result<u64, FormatsError> {
    tensors.sort_by(|a, b| b.dtype.cmp(&a.dtype).then_with(|| a.name.cmp(&b.name)));
    check_names(&tensors)?;
    let header = header(&tensors, metadata)?;
    let failed = |source| FormatsError::Write { source };
    out.write_all(&(header.len() as u64).to_le_bytes())
        .map_err(failed)?;
    out.write_all(&header).map_err(failed)?;
    let mut written = 8 + header.len() as u64;
    for tensor in tensors {
        let want = tensor.size_bytes()?;
        let bytes = match tensor.contents {
            Contents::Bytes(bytes) => bytes,
            Contents::Made(make) => Cow::Owned(make().map_err(failed)?),
        };
        if bytes.len() != want {
            let (name, found) = (tensor.name.into_owned(), bytes.len());
            return Err(FormatsError::TensorBytes { name, want, found });
        }
        out.write_all(&bytes).map_err(failed)?;
        written += want as u64;
    }
    Ok(written)
}

fn check_names(tensors: &[TensorToWrite<'_>]) -> Result<(), FormatsError> {
    let mut names: Vec<&str> = tensors.iter().map(|tensor| &*tensor.name).collect();
    names.sort_unstable();
    let refused = |name: &str, why| FormatsError::TensorNamed {
        name: name.to_owned(),
        why,
    };
    for pair in names.windows(2) {
        if let &[a, b] = pair
            && a == b
        {
            return Err(refused(a, "there twice"));
        }
    }
    for name in names {
        match name {
            "" => return Err(refused(name, "empty")),
            "__metadata__" => return Err(refused(name, "reserved")),
            _ if name.len() > MAX_NAME_BYTES => return Err(refused(name, "too long")),
            _ => {}
        }
    }
    Ok(())
}

fn header(
    tensors: &[TensorToWrite<'_>],
    metadata: &[(&str, &str)],
) -> Result<Vec<u8>, FormatsError> {
    let mut text = String::from("{");
    if !metadata.is_empty() {
        let entries: Vec<String> = metadata
            .iter()
            .map(|(key, value)| format!("{}:{}", quoted(key), quoted(value)))
            .collect();
        text.push_str(&format!("\"__metadata__\":{{{}}}", entries.join(",")));
    }
    let mut offset = 0_usize;
    for tensor in tensors {
        if text.len() > 1 {
            text.push(',');
        }
        let too_large = || FormatsError::TensorTooLarge {
            name: tensor.name.to_string(),
        };
        let end = offset
            .checked_add(tensor.size_bytes()?)
            .ok_or_else(too_large)?;
        let shape: Vec<String> = tensor.shape.iter().map(usize::to_string).collect();
        let (name, dtype, shape) = (quoted(&tensor.name), tensor.dtype, shape.join(","));
        text.push_str(&format!(
            r#"{name}:{{"dtype":"{dtype}","shape":[{shape}],"data_offsets":[{offset},{end}]}}"#
        ));
        offset = end;
    }
    text.push('}');
    let mut bytes = text.into_bytes();
    bytes.resize(bytes.len().next_multiple_of(8), b' ');
    if bytes.len() > MAX_HEADER_BYTES {
        return Err(FormatsError::HeaderTooLong(bytes.len()));
    }
    Ok(bytes)
}

/// A JSON string as serde writes it, which the Python package uses: no escapes beyond the needed ones.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
