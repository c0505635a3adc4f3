//! What every kernel is handed: the workers and the instruction set.

use crate::{Isa, Threads};

/// The workers and the instruction set that kernels run with. Results depend on neither.
pub struct Context {
    pub(crate) threads: Threads,
    /// At most what the processor has: kernels for it are called unasked.
    pub(crate) isa: Isa,
}

impl Context {
    /// `num_threads` of `None` takes every core that the process may use; `isa` of `None`, or one
    /// that this processor lacks, takes the best there is.
    pub fn new(num_threads: Option<usize>, isa: Option<Isa>) -> Self {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let best = Isa::detect();
        Self {
            threads: Threads::new(num_threads.unwrap_or_else(cores)),
            isa: isa.map_or(best, |wanted| wanted.min(best)),
        }
    }

    /// Persistent workers.
    pub fn threads(&self) -> &Threads {
        &self.threads
    }

    /// The instruction set in effect.
    pub fn isa(&self) -> Isa {
        self.isa
    }
}

impl Default for Context {
    fn default() -> Self {
        Self::new(None, None)
    }
}
