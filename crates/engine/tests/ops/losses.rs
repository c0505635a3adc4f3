//! Cross-entropy.

use super::{Output, collect, random, span, view_mut};
use lowrank_engine::backend::Backend;
use lowrank_engine::shapes::LossMode;
use proptest::prelude::*;

/// Cross-entropy in two chunks.
#[derive(Debug, Clone)]
pub(crate) struct Losses {
    rows: usize,
    vocabulary: usize,
    gap: usize,
    smoothing: f32,
    gradient: bool,
    key: u64,
}

impl Losses {
    pub(crate) fn any() -> impl Strategy<Value = Self> {
        (
            1usize..9,
            2usize..2000,
            0usize..4,
            prop::sample::select(vec![0.0f32, 0.1]),
            any::<bool>(),
            any::<u64>(),
        )
            .prop_map(|(rows, vocabulary, gap, smoothing, gradient, key)| Self {
                rows,
                vocabulary,
                gap,
                smoothing,
                gradient,
                key,
            })
    }

    pub(super) fn run<B: Backend>(&self, backend: &B) -> Vec<Output> {
        let all = self.rows + 3;
        let targets: Vec<u32> = (0..all)
            .map(|r| (r * 977 % self.vocabulary) as u32)
            .collect();
        let targets = backend.upload_ids(&targets);
        let weights = backend.upload(&random(all, self.key ^ 1));
        let mut losses = backend.zeros(all);
        let mode = if self.gradient {
            LossMode::LossAndGradient
        } else {
            LossMode::Loss
        };
        let mut outputs = Vec::new();
        for (first, rows) in [(0, 3), (3, self.rows)] {
            let at = span(rows, self.vocabulary, self.gap);
            let logits: Vec<f32> = random(at.end(), self.key ^ 2)
                .iter()
                .map(|x| 9.0 * x)
                .collect();
            let mut logits = backend.upload(&logits);
            let chunk = view_mut(&mut logits, at);
            backend.cross_entropy(
                chunk,
                &targets,
                &weights,
                first,
                self.smoothing,
                mode,
                &mut losses,
            );
            if self.gradient {
                outputs.push(collect(backend, "dlogits", &logits));
            }
        }
        outputs.push(collect(backend, "losses", &losses));
        outputs
    }
}
