//! The rows of the table: what is raced against what, and what is to be reached.

use super::dtype::Dtype;
use super::race::Reach::{self, AtMost, Ratio};

/// One row.
#[derive(Debug)]
pub(crate) struct Row {
    /// For `--row`.
    pub(crate) name: &'static str,
    /// In words.
    pub(crate) what: &'static str,
    pub(crate) kind: Kind,
}

/// What runs.
#[derive(Debug)]
pub(crate) enum Kind {
    /// Ours against PEFT and the Trainer.
    Train(Training),
    /// Ours with one thread and with all.
    Threads,
    /// Ours with few updates and with many.
    Flat,
    Decode,
    Merge,
    Tokenize,
    Gemm,
    Kernels,
    Isa,
}

/// How a training row differs from the mission's.
#[derive(Debug)]
pub(crate) struct Training {
    /// Of ours and of the peer.
    pub(crate) dtypes: [Dtype; 2],
    /// The peer under `torch.compile(dynamic=True)`.
    pub(crate) compiled: bool,
    pub(crate) base: Base,
    /// Tokens of every row, where they are not Chinese Alpaca's.
    pub(crate) fixed: Option<usize>,
    /// Tokens before each row's prompt, the same for all.
    pub(crate) system_prompt: usize,
    pub(crate) reach: Reaches,
}

/// The base model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Base {
    Bloom,
    Smollm2,
}

/// What the issue asks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reaches {
    pub(crate) tokens_per_second: Option<Reach>,
    pub(crate) first_update: Option<Reach>,
    pub(crate) peak_memory: Option<Reach>,
    pub(crate) own_memory: Option<Reach>,
}

const fn speed(least: f64) -> Reaches {
    Reaches {
        tokens_per_second: Some(Ratio(least)),
        first_update: None,
        peak_memory: None,
        own_memory: None,
    }
}

/// The mission's own.
pub(crate) const MISSION: Training = Training {
    dtypes: [Dtype::Bf16; 2],
    compiled: false,
    base: Base::Bloom,
    fixed: None,
    system_prompt: 0,
    reach: Reaches {
        tokens_per_second: Some(Ratio(1.6)),
        first_update: Some(Ratio(5.0)),
        peak_memory: Some(Ratio(1.0 / 0.7)),
        own_memory: Some(AtMost(0.8)),
    },
};

const fn row(name: &'static str, what: &'static str, kind: Kind) -> Row {
    Row { name, what, kind }
}

/// All of them, in the order.
pub(crate) const ROWS: [Row; 16] = [
    row(
        "mission",
        "the mission's run, bf16 against PEFT bf16",
        Kind::Train(MISSION),
    ),
    row(
        "mission-compiled",
        "the mission's run, bf16 against PEFT bf16 under torch.compile(dynamic=True)",
        Kind::Train(Training {
            compiled: true,
            reach: speed(1.4),
            ..MISSION
        }),
    ),
    row(
        "mission-peer-f32",
        "the mission's run, bf16 against PEFT f32, the tutorial's own way",
        Kind::Train(Training {
            dtypes: [Dtype::Bf16, Dtype::F32],
            reach: speed(4.5),
            ..MISSION
        }),
    ),
    row(
        "mission-f32",
        "the mission's run, f32 against PEFT f32",
        Kind::Train(Training {
            dtypes: [Dtype::F32; 2],
            reach: speed(1.8),
            ..MISSION
        }),
    ),
    row(
        "rows-256",
        "rows of 256 tokens, bf16 against PEFT bf16",
        Kind::Train(Training {
            fixed: Some(256),
            reach: speed(1.35),
            ..MISSION
        }),
    ),
    row(
        "rows-1024",
        "rows of 1,024 tokens, bf16 against PEFT bf16",
        Kind::Train(Training {
            fixed: Some(1024),
            reach: speed(1.5),
            ..MISSION
        }),
    ),
    row(
        "system-prompt",
        "the mission's rows behind one system prompt of 200 tokens, bf16 against PEFT bf16",
        Kind::Train(Training {
            system_prompt: 200,
            reach: speed(1.6),
            ..MISSION
        }),
    ),
    row(
        "smollm2",
        "SmolLM2-135M, mission settings, bf16 against PEFT bf16",
        Kind::Train(Training {
            base: Base::Smollm2,
            reach: speed(2.0),
            ..MISSION
        }),
    ),
    row(
        "gemm",
        "frozen products against torch, both directions",
        Kind::Gemm,
    ),
    row(
        "kernels",
        "attention, norm, activation and loss against torch's, forward and backward",
        Kind::Kernels,
    ),
    row(
        "decode",
        "greedy decoding, batch 1, against transformers",
        Kind::Decode,
    ),
    row(
        "merge",
        "merge and save against merge_and_unload and save_pretrained",
        Kind::Merge,
    ),
    row(
        "tokenize",
        "tokenising 20,000 rows against datasets.map",
        Kind::Tokenize,
    ),
    row(
        "threads",
        "the mission's run, all threads against one, both ours",
        Kind::Threads,
    ),
    row(
        "flat",
        "the mission's run, five times the updates against once, both ours: memory must not grow",
        Kind::Flat,
    ),
    row(
        "isa",
        "what each instruction set reaches in products and attention, ours alone",
        Kind::Isa,
    ),
];

/// For the command line.
pub(crate) fn names() -> [&'static str; ROWS.len()] {
    ROWS.each_ref().map(|row| row.name)
}
