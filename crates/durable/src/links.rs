//! Where paths lead once their links are followed.

use std::path::Path;

use crate::error::{DurableError, Result};

/// Whether two paths are of the same place, whatever the links on the way. What cannot be resolved is compared as it is
/// written.
pub fn same_place(one: impl AsRef<Path>, other: impl AsRef<Path>) -> bool {
    let (one, other) = (one.as_ref(), other.as_ref());
    let real = |path: &Path| std::fs::canonicalize(Path::new(".").join(path)).ok();
    match (real(one), real(other)) {
        (Some(one), Some(other)) => one == other,
        _ => one == other,
    }
}

/// Whether a plain name in a folder is a link to something outside of that folder.
///
/// The cache of the Hugging Face hub keeps its files as links from `snapshots/<revision>/` to `blobs/` beside it:
/// these do not count as outside.
///
/// # Errors
/// [`DurableError::NotFound`] for a dangling link, [`DurableError::Io`].
pub fn leads_out(folder: impl AsRef<Path>, name: &str) -> Result<bool> {
    let real = |path: &Path| {
        std::fs::canonicalize(path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => DurableError::NotFound {
                path: path.to_owned(),
            },
            _ => DurableError::io("resolve", path, source),
        })
    };
    // An empty path is the working folder.
    let home = real(&Path::new(".").join(folder.as_ref()))?;
    let target = real(&home.join(name))?;
    if target.starts_with(&home) {
        return Ok(false);
    }
    let snapshots = home.parent().filter(|path| path.ends_with("snapshots"));
    let blobs = snapshots
        .and_then(Path::parent)
        .map(|cache| cache.join("blobs"));
    Ok(blobs.is_none_or(|blobs| target.parent() != Some(&blobs)))
}
