//! One error for the whole library: each room's own, with its hint.

/// What went wrong, in the words of the room where it did.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LowrankError {
    /// A file.
    #[error(transparent)]
    Durable(#[from] durable::DurableError),
    /// A file's contents.
    #[error(transparent)]
    Formats(#[from] formats::FormatsError),
    /// A data set's rows.
    #[error(transparent)]
    Rows(#[from] formats::rows::RowsError),
    /// Tokenizer, template, encoding.
    #[error(transparent)]
    Data(#[from] data::DataError),
    /// A model's config.
    #[error(transparent)]
    Config(#[from] model::families::ConfigError),
    /// A model's weights, or running it.
    #[error(transparent)]
    Model(#[from] model::ModelError),
    /// An adapter.
    #[error(transparent)]
    Peft(Box<peft::PeftError>),
    /// A training run.
    #[error(transparent)]
    Train(Box<train::TrainError>),
}

// Boxed: an error of 128 bytes in every `Result` is what clippy warns a caller of.
impl From<peft::PeftError> for LowrankError {
    fn from(error: peft::PeftError) -> Self {
        Self::Peft(Box::new(error))
    }
}

impl From<train::TrainError> for LowrankError {
    fn from(error: train::TrainError) -> Self {
        Self::Train(Box::new(error))
    }
}

/// Results of this library.
pub type Result<T> = std::result::Result<T, LowrankError>;

impl LowrankError {
    /// How to mend it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Durable(error) => error.hint(),
            Self::Formats(error) => error.hint(),
            Self::Rows(error) => error.hint(),
            Self::Data(error) => error.hint(),
            Self::Config(error) => error.hint(),
            Self::Model(error) => error.hint(),
            Self::Peft(error) => error.hint(),
            Self::Train(error) => error.hint(),
        }
    }
}

/// How to mend any error of this library, whichever room's it is: `?` in a function that returns a boxed error
/// keeps the room's own type.
pub fn hint(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    if let Some(error) = error.downcast_ref::<LowrankError>() {
        return error.hint();
    }
    macro_rules! first_of {
        ($($room:ty),+ $(,)?) => {
            None$( .or_else(|| Some(error.downcast_ref::<$room>()?.hint())) )+.flatten()
        };
    }
    first_of!(
        durable::DurableError,
        formats::FormatsError,
        formats::rows::RowsError,
        data::DataError,
        model::families::ConfigError,
        model::ModelError,
        peft::PeftError,
        train::TrainError,
    )
}
