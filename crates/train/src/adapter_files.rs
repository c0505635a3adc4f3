//! The files of a trained adapter: PEFT's, with the tokenizer's beside them.

use std::path::Path;

use data::Tokenizer;
use durable::StagedFolder;
use engine::backend::Backend;
use formats::weights::WeightStore;
use model::tree::ModuleTree;
use model::{Decoder, ModelError};
use peft::{AdapterPlan, BaseModel, read_adapter, stage_adapter};

use crate::decoder_learner::ModelFiles;
use crate::error::TrainError;

/// How an adapter on a decoder is written, so that `PeftModel.from_pretrained` opens it, and read.
pub struct AdapterFiles<'a> {
    /// What the adapter is.
    pub plan: &'a AdapterPlan,
    /// The plain model's modules.
    pub tree: &'a ModuleTree,
    /// The base's weights; needed where the adapter copies some of them.
    pub base: Option<&'a WeightStore>,
    /// What is read may be of another base.
    pub any_base: bool,
    /// Whose files are copied into each checkpoint.
    pub tokenizer: Option<&'a Tokenizer>,
}

impl<B: Backend> ModelFiles<B> for AdapterFiles<'_> {
    fn save(&self, decoder: &Decoder<B>, folder: &mut StagedFolder) -> Result<(), TrainError> {
        stage_adapter(decoder, self.plan, self.base, folder)?;
        if let Some(tokenizer) = self.tokenizer {
            tokenizer.save_pretrained(folder)?;
        }
        Ok(())
    }

    fn load(&self, decoder: &mut Decoder<B>, folder: &Path) -> Result<(), TrainError> {
        let base = BaseModel {
            spec: decoder.spec(),
            tree: self.tree,
            weights: self.base,
            any_base: self.any_base,
        };
        let adapter = read_adapter(folder, base)?;
        // Every value of the folder has a place by `set_values`; the other way round is asked here.
        let untouched = decoder
            .trainable()
            .iter()
            .find(|one| !adapter.values.contains_key(&one.name));
        if let Some(parameter) = untouched {
            let name = parameter.name.clone();
            return Err(ModelError::NoParameter { name }.into());
        }
        for (name, values) in &adapter.values {
            decoder.set_values(name, values)?;
        }
        Ok(())
    }
}
