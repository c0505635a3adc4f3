//! What can go wrong in a run.

/// One thing wrong with the arguments of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The argument.
    pub name: String,
    /// What is wrong with it, to be read after its name.
    pub message: String,
    /// How to mend it, where the message does not say so.
    pub mend: Option<String>,
}

impl Problem {
    pub(crate) fn new(name: &str, message: String) -> Self {
        Self {
            name: name.to_owned(),
            message,
            mend: None,
        }
    }

    pub(crate) fn mend(self, mend: &str) -> Self {
        Self {
            mend: Some(mend.to_owned()),
            ..self
        }
    }
}

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// Arguments that are unknown, of the wrong kind, or make no sense together: all of them.
    #[error("{}", list(.problems))]
    Arguments {
        /// What is wrong, one by one.
        problems: Vec<Problem>,
    },
}

fn list(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems
        .iter()
        .map(|problem| format!("argument `{}` {}", problem.name, problem.message))
        .collect();
    lines.join("\n")
}

impl TrainError {
    /// How to mend it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Arguments { problems } => {
                let mut mends: Vec<&str> = problems
                    .iter()
                    .filter_map(|problem| problem.mend.as_deref())
                    .collect();
                mends.dedup();
                (!mends.is_empty()).then(|| mends.join("; "))
            }
        }
    }
}
