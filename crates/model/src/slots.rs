//! Opening slots: low-rank deltas, trained copies of frozen values, and values from outside.

use std::sync::Arc;

use engine::backend::Backend;

use crate::block::Block;
use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::norm::NormSlot;
use crate::parameter::{LoraInit, LoraSlot, MatrixSlot, Parameter, VectorSlot, stored_values};
use crate::projection::Projection;

impl<B: Backend> Decoder<B> {
    /// Puts a low-rank delta on the projection at `path`; its parameters are `<path>.lora_A.weight`
    /// and `<path>.lora_B.weight`.
    ///
    /// # Errors
    /// [`ModelError::NoSlot`] when `path` is no projection or has a delta already, [`ModelError::Size`] when
    /// `init` does not fit it.
    pub fn add_lora(&mut self, path: &str, init: LoraInit) -> Result<(), ModelError> {
        let (a, b) = (self.trained.len(), self.trained.len() + 1);
        let number = self.trained.len() as u64;
        let projection = self.projection_mut(path)?;
        if projection.lora.is_some() {
            return Err(ModelError::NoSlot {
                path: path.to_owned(),
                reason: "it has one already",
            });
        }
        let (in_features, out_features) = (projection.in_features, projection.out_features);
        let LoraInit {
            rank,
            scaling,
            dropout,
            a: values_a,
            b: values_b,
        } = init;
        let shapes = [
            ("lora_A", vec![rank, in_features], values_a),
            ("lora_B", vec![out_features, rank], values_b),
        ];
        for (part, shape, values) in &shapes {
            expect_size(
                &format!("{path}.{part}.weight"),
                shape.iter().product(),
                values.len(),
            )?;
        }
        projection.lora = Some(LoraSlot {
            a,
            b,
            rank,
            scaling,
            dropout,
            number,
        });
        for (part, shape, values) in shapes {
            self.push(format!("{path}.{part}.weight"), shape, &values);
        }
        Ok(())
    }

    /// Turns a frozen parameter of the plain model (named as by `named_parameters()`, or the tied head's own
    /// name) into a trained copy. Where two modules share one matrix, the other keeps the frozen
    /// one, as PEFT's `modules_to_save` does, unless `tie` is set.
    ///
    /// # Errors
    /// [`ModelError::NoParameter`].
    pub fn make_trainable(&mut self, name: &str, tie: bool) -> Result<(), ModelError> {
        if self.trained.iter().any(|parameter| parameter.name == name) {
            return Ok(());
        }
        if let Some(tied) = tie.then(|| self.tied_twin(name)).flatten() {
            return self.share_twin(name, &tied);
        }
        let backend = Arc::clone(&self.backend);
        let index = self.trained.len();
        let (shape, values) = match self.slot_mut(name)? {
            SlotMut::Matrix(slot) => {
                let MatrixSlot::Frozen(frozen) = &*slot else {
                    return Ok(());
                };
                let (rows, cols) = (frozen.stored.rows, frozen.stored.cols);
                let values = stored_values(&frozen.stored);
                *slot = MatrixSlot::Trained { index, rows, cols };
                (vec![rows, cols], values)
            }
            SlotMut::Vector(slot) => {
                let VectorSlot::Frozen(frozen) =
                    std::mem::replace(slot, VectorSlot::Trained(index))
                else {
                    return Ok(());
                };
                let values = backend.download(&frozen)?;
                (vec![values.len()], values)
            }
        };
        self.push(name.to_owned(), shape, &values);
        Ok(())
    }

    /// Replaces a trained parameter's values.
    ///
    /// # Errors
    /// [`ModelError::NoParameter`] for a name that is not trained, [`ModelError::Size`].
    pub fn set_values(&mut self, name: &str, values: &[f32]) -> Result<(), ModelError> {
        let backend = Arc::clone(&self.backend);
        let parameter = self
            .trained
            .iter_mut()
            .find(|parameter| parameter.name == name)
            .ok_or_else(|| ModelError::NoParameter {
                name: name.to_owned(),
            })?;
        expect_size(name, parameter.shape.iter().product(), values.len())?;
        parameter.value = backend.upload(values);
        Ok(())
    }

    /// Both users of a tied matrix read one trained copy.
    fn share_twin(&mut self, name: &str, twin: &str) -> Result<(), ModelError> {
        if !self.trained.iter().any(|parameter| parameter.name == twin) {
            let first = if name == format!("{}.weight", self.spec.names.head) {
                twin
            } else {
                name
            };
            self.make_trainable(first, false)?;
        }
        let shared = if self.embedding.trained().is_some() {
            self.embedding.clone()
        } else {
            self.head.weight.clone()
        };
        self.embedding = shared.clone();
        self.head.weight = shared;
        Ok(())
    }

    /// The other name of a tied matrix.
    fn tied_twin(&self, name: &str) -> Option<String> {
        let names = &self.spec.names;
        let (embedding, head) = (
            format!("{}.weight", names.embedding),
            format!("{}.weight", names.head),
        );
        let twin = if name == embedding {
            head
        } else if name == head {
            embedding
        } else {
            return None;
        };
        self.spec.tie_word_embeddings.then_some(twin)
    }

    fn push(&mut self, name: String, shape: Vec<usize>, values: &[f32]) {
        let decay = shape.len() > 1;
        let (value, grad) = (
            self.backend.upload(values),
            self.backend.zeros(values.len()),
        );
        self.trained.push(Parameter {
            name,
            shape,
            value,
            grad,
            decay,
        });
    }

    fn projection_mut(&mut self, path: &str) -> Result<&mut Projection<B>, ModelError> {
        let blocks = self.blocks.iter_mut().flat_map(Block::projections_mut);
        blocks
            .chain(std::iter::once(&mut self.head))
            .find(|projection| projection.path == path)
            .ok_or_else(|| ModelError::NoSlot {
                path: path.to_owned(),
                reason: "it is no linear projection of this model",
            })
    }

    fn norm_mut(&mut self, path: &str) -> Option<&mut NormSlot<B>> {
        let blocks = self
            .blocks
            .iter_mut()
            .flat_map(|block| [&mut block.attention_norm, &mut block.mlp_norm]);
        let ends = self
            .embedding_norm
            .iter_mut()
            .chain(std::iter::once(&mut self.final_norm));
        blocks.chain(ends).find(|norm| norm.path == path)
    }

    fn slot_mut(&mut self, name: &str) -> Result<SlotMut<'_, B>, ModelError> {
        let missing = || ModelError::NoParameter {
            name: name.to_owned(),
        };
        let (path, part) = name.rsplit_once('.').ok_or_else(missing)?;
        let names = &self.spec.names;
        if part == "weight" && path == names.embedding {
            return Ok(SlotMut::Matrix(&mut self.embedding));
        }
        if part == "weight" && Some(path) == names.positions.as_deref() {
            return self
                .position_table
                .as_mut()
                .map(SlotMut::Matrix)
                .ok_or_else(missing);
        }
        if self.norm_mut(path).is_some() {
            let slot = self.norm_mut(path).and_then(|norm| match part {
                "weight" => Some(&mut norm.weight),
                "bias" => norm.bias.as_mut(),
                _ => None,
            });
            return slot.map(SlotMut::Vector).ok_or_else(missing);
        }
        let projection = self.projection_mut(path).map_err(|_| missing())?;
        match part {
            "weight" => Ok(SlotMut::Matrix(&mut projection.weight)),
            "bias" => projection
                .bias
                .as_mut()
                .map(SlotMut::Vector)
                .ok_or_else(missing),
            _ => Err(missing()),
        }
    }
}

enum SlotMut<'a, B: Backend> {
    Matrix(&'a mut MatrixSlot<B>),
    Vector(&'a mut VectorSlot<B>),
}

fn expect_size(name: &str, want: usize, found: usize) -> Result<(), ModelError> {
    if want == found {
        return Ok(());
    }
    Err(ModelError::Size {
        name: name.to_owned(),
        want,
        found,
    })
}
