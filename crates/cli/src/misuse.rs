//! Misuse of the command line or the run file: exit code 2, as clap's own.

/// What was wrong.
#[derive(Debug)]
pub(crate) struct Misuse(pub(crate) String);

impl std::fmt::Display for Misuse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Misuse {}

/// An error that is the user's to mend before anything is begun: its own text and hint.
pub(crate) fn misused(error: impl std::error::Error + Send + Sync + 'static) -> anyhow::Error {
    let text = error.to_string();
    anyhow::Error::new(error).context(Misuse(text))
}
