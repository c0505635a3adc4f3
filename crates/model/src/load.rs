//! Weights into slots: strict both ways, everything wrong reported at once.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use engine::backend::Backend;
use engine::shapes::{Orient, StoredDtype, StoredMatrix};
use formats::dtype::Dtype;
use formats::weights::{StoredTensor, WeightStore};

use crate::block::Block;
use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::norm::NormSlot;
use crate::parameter::{FrozenMatrix, MatrixSlot, VectorSlot, stored_values};
use crate::projection::Projection;
use crate::spec::{DecoderSpec, Positions, ProjectionName};

impl<B: Backend> Decoder<B> {
    /// Fills every slot from `weights`. Names may come with or without the base model's prefix
    /// (`transformer.`, `model.`), as both kinds of file are about.
    ///
    /// # Errors
    /// [`ModelError::Weights`] listing all missing, unexpected, misshapen tensors and unusable dtypes.
    pub fn load(
        backend: Arc<B>,
        spec: DecoderSpec,
        weights: &WeightStore,
    ) -> Result<Self, ModelError> {
        let mut loader = Loader::new(&*backend, &spec, weights);
        let (hidden_size, names) = (spec.hidden_size, &spec.names);
        let embedding = loader.matrix(&names.embedding, spec.vocab_size, hidden_size);
        let position_table = loader.position_table();
        let embedding_norm = names.embedding_norm.as_ref().map(|path| loader.norm(path));
        let blocks = (0..spec.num_hidden_layers)
            .map(|number| loader.block(number))
            .collect();
        let final_norm = loader.norm(&names.final_norm);
        let head = loader.head(embedding.clone());
        loader.finish()?;
        Ok(Self {
            backend: Arc::clone(&backend),
            embedding,
            position_table,
            embedding_norm,
            blocks,
            final_norm,
            head,
            trained: Vec::new(),
            label_smoothing: 0.0,
            activation_checkpointing: false,
            spec,
        })
    }
}

/// Walks the slots; a fault is noted and the walk goes on with zeros, which nobody sees.
struct Loader<'a, B: Backend> {
    backend: &'a B,
    spec: &'a DecoderSpec,
    weights: &'a WeightStore,
    used: BTreeSet<String>,
    problems: Vec<String>,
}

impl<'a, B: Backend> Loader<'a, B> {
    fn new(backend: &'a B, spec: &'a DecoderSpec, weights: &'a WeightStore) -> Self {
        Self {
            backend,
            spec,
            weights,
            used: BTreeSet::new(),
            problems: Vec::new(),
        }
    }

    fn finish(mut self) -> Result<(), ModelError> {
        let stray: Vec<_> = self
            .weights
            .names()
            .filter(|name| !self.used.contains(*name) && !self.spec.is_unread(name))
            .collect();
        self.problems.extend(
            stray
                .iter()
                .map(|name| format!("unexpected tensor `{name}`")),
        );
        if self.problems.is_empty() {
            return Ok(());
        }
        let folder = self
            .weights
            .files()
            .next()
            .and_then(Path::parent)
            .map(Path::to_path_buf);
        Err(ModelError::Weights {
            folder: folder.unwrap_or_default(),
            problems: self.problems,
        })
    }

    /// The stored tensor of this parameter, if it has the shape that is wanted.
    fn stored(&mut self, name: &str, shape: &[usize]) -> Option<StoredMatrix> {
        let Some(tensor) = stored_tensor(self.weights, self.spec, name) else {
            self.problems
                .push(format!("missing tensor `{name}` of shape {shape:?}"));
            return None;
        };
        self.used.insert(tensor.name.clone());
        if tensor.shape != shape {
            let problem = format!(
                "tensor `{}` must have shape {shape:?}: found {:?}",
                tensor.name, tensor.shape
            );
            self.problems.push(problem);
            return None;
        }
        let Some(dtype) = stored_dtype(tensor.dtype) else {
            let problem = format!(
                "tensor `{}` must be F32, F16 or BF16: found {:?}",
                tensor.name, tensor.dtype
            );
            self.problems.push(problem);
            return None;
        };
        let (rows, cols) = if let [rows, cols] = *shape {
            (rows, cols)
        } else {
            (1, shape[0])
        };
        Some(StoredMatrix {
            bytes: Arc::new(tensor.bytes.clone()),
            dtype,
            rows,
            cols,
        })
    }

    fn matrix(&mut self, path: &str, rows: usize, cols: usize) -> MatrixSlot<B> {
        let stored = self
            .stored(&format!("{path}.weight"), &[rows, cols])
            .unwrap_or_else(|| StoredMatrix {
                bytes: Arc::new([0; 0]),
                dtype: StoredDtype::F32,
                rows: 0,
                cols: 0,
            });
        match self.backend.weight(stored.clone()) {
            Ok(weight) => MatrixSlot::Frozen(Arc::new(FrozenMatrix { weight, stored })),
            Err(error) => {
                self.problems
                    .push(format!("tensor `{path}.weight`: {error}"));
                MatrixSlot::Trained {
                    index: 0,
                    rows,
                    cols,
                }
            }
        }
    }

    fn vector(&mut self, name: &str, len: usize) -> VectorSlot<B> {
        // Nothing for one that is missing: its length is only what the config claims.
        let stored = self.stored(name, &[len]);
        let values = stored.map_or_else(Vec::new, |stored| stored_values(&stored));
        VectorSlot::Frozen(self.backend.upload(&values))
    }

    fn norm(&mut self, path: &str) -> NormSlot<B> {
        let hidden_size = self.spec.hidden_size;
        let weight = self.vector(&format!("{path}.weight"), hidden_size);
        let bias = self
            .spec
            .norm_bias
            .then(|| self.vector(&format!("{path}.bias"), hidden_size));
        NormSlot {
            path: path.to_owned(),
            norm: self.spec.norm,
            weight,
            bias,
        }
    }

    fn projection(&mut self, block: &str, name: &ProjectionName) -> Projection<B> {
        let path = format!("{block}.{}", name.path);
        let (in_features, out_features, orient) =
            (name.in_features, name.out_features, self.spec.orient);
        let (rows, cols) = match orient {
            Orient::OutIn => (out_features, in_features),
            Orient::InOut => (in_features, out_features),
        };
        let weight = self.matrix(&path, rows, cols);
        let bias = name
            .bias
            .then(|| self.vector(&format!("{path}.bias"), out_features));
        Projection {
            path,
            weight,
            bias,
            lora: None,
            orient,
            in_features,
            out_features,
        }
    }

    fn block(&mut self, number: usize) -> Block<B> {
        let names = &self.spec.names;
        let block = format!("{}.{number}", names.layers);
        let attention_norm = self.norm(&format!("{block}.{}", names.attention_norm));
        let qkv = names
            .qkv
            .iter()
            .map(|name| self.projection(&block, name))
            .collect();
        let attention_output = self.projection(&block, &names.attention_output);
        let mlp_norm = self.norm(&format!("{block}.{}", names.mlp_norm));
        let mlp_input = names
            .mlp_input
            .iter()
            .map(|name| self.projection(&block, name))
            .collect();
        let mlp_output = self.projection(&block, &names.mlp_output);
        Block {
            attention_norm,
            qkv,
            attention_output,
            mlp_norm,
            mlp_input,
            mlp_output,
        }
    }

    fn position_table(&mut self) -> Option<MatrixSlot<B>> {
        let Positions::Learned { rows } = self.spec.positions else {
            return None;
        };
        let path = self.spec.names.positions.as_ref()?;
        Some(self.matrix(path, rows, self.spec.hidden_size))
    }

    fn head(&mut self, embedding: MatrixSlot<B>) -> Projection<B> {
        let (in_features, out_features) = (self.spec.hidden_size, self.spec.vocab_size);
        let path = self.spec.names.head.clone();
        let weight = if self.spec.tie_word_embeddings {
            embedding
        } else {
            self.matrix(&path, out_features, in_features)
        };
        let orient = Orient::OutIn;
        Projection {
            path,
            weight,
            bias: None,
            lora: None,
            orient,
            in_features,
            out_features,
        }
    }
}

/// The tensor of a parameter of the whole model, under whichever name its files give it.
pub fn stored_tensor(
    weights: &WeightStore,
    spec: &DecoderSpec,
    name: &str,
) -> Option<StoredTensor> {
    let bare = name.strip_prefix(spec.prefix());
    weights.get(name).or_else(|| weights.get(bare?))
}

fn stored_dtype(dtype: Dtype) -> Option<StoredDtype> {
    match dtype {
        Dtype::F32 => Some(StoredDtype::F32),
        Dtype::F16 => Some(StoredDtype::F16),
        Dtype::BF16 => Some(StoredDtype::Bf16),
        _ => None,
    }
}
