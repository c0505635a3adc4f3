//! `PeftModel`: a base with an adapter in its slots.

use std::path::Path;

use data::Tokenizer;
use engine::cpu::Cpu;
use model::{Decoder, GenerationConfig};
use peft::{AdapterPlan, LoraConfig};

use crate::causal_lm::CausalLm;
use crate::dataset::TokenizedDataset;
use crate::error::Result;
use crate::generation::{Generated, generate};

/// A base model with an adapter, to be trained, used or merged.
pub struct PeftModel {
    pub(crate) base: CausalLm,
    pub(crate) plan: AdapterPlan,
}

/// Puts a fresh adapter on a model.
///
/// # Errors
/// A config that the model cannot take: no target found, an unsupported variant.
pub fn get_peft_model(mut base: CausalLm, config: &LoraConfig, seed: u64) -> Result<PeftModel> {
    let mut config = config.clone();
    if config.base_model_name_or_path.is_none() {
        config.base_model_name_or_path = Some(base.folder.to_string_lossy().into_owned());
    }
    let plan = peft::get_peft_model(&mut base.decoder, &base.tree, &config, seed)?;
    Ok(PeftModel { base, plan })
}

impl PeftModel {
    /// Puts an adapter folder, ours or PEFT's, on a model. Every tensor of it is used.
    ///
    /// # Errors
    /// An adapter that is broken, of another base, or of an unsupported kind.
    pub fn from_pretrained(mut base: CausalLm, folder: impl AsRef<Path>) -> Result<Self> {
        let plan = peft::load_adapter(
            &mut base.decoder,
            &base.tree,
            folder.as_ref(),
            Some(&base.weights),
        )?;
        Ok(Self { base, plan })
    }

    /// The base.
    pub fn base(&self) -> &CausalLm {
        &self.base
    }

    /// What the adapter is on this base: targets, parameters, coverage, notices.
    pub fn plan(&self) -> &AdapterPlan {
        &self.plan
    }

    /// The config, targets resolved.
    pub fn config(&self) -> &LoraConfig {
        &self.plan.config
    }

    /// `trainable params: … || all params: … || trainable%: …`
    pub fn trainable_parameters_line(&self) -> String {
        self.plan.trainable_line()
    }

    /// Names and shapes of all parameters, as PEFT names them, and whether each is trained.
    pub fn named_parameters(&self) -> Vec<(String, Vec<usize>, bool)> {
        let named = peft::named_parameters(&self.plan).into_iter();
        named
            .map(|one| (one.name, one.shape, one.trained))
            .collect()
    }

    /// Writes `adapter_model.safetensors`, `adapter_config.json` and `README.md`.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn save_pretrained(&self, folder: impl AsRef<Path>) -> Result<()> {
        Ok(peft::save_adapter(
            &self.base.decoder,
            &self.plan,
            Some(&self.base.weights),
            folder.as_ref(),
        )?)
    }

    /// The plain model with the adapter folded into its weights: in f32, rounded once to the type that they are
    /// stored in. Weights that the adapter does not change stay the base's mapped bytes.
    ///
    /// # Errors
    /// A merged value that is not finite.
    pub fn merge_and_unload(self) -> Result<CausalLm> {
        self.base.merged(&self.plan)
    }

    /// Generates behind `prompt`; `on_text` gets each piece as it comes.
    ///
    /// # Errors
    /// Settings out of range, or a prompt that does not fit the model.
    pub fn generate(
        &self,
        tokenizer: &Tokenizer,
        prompt: &str,
        config: &GenerationConfig,
        on_text: impl FnMut(&str),
    ) -> Result<Generated> {
        generate(&self.base.decoder, tokenizer, prompt, config, on_text)
    }

    /// Loss and perplexity of a data set; `progress` hears of (done, total).
    ///
    /// # Errors
    /// A row that does not fit the model.
    pub fn evaluate(
        &self,
        dataset: &TokenizedDataset,
        progress: impl FnMut(usize, usize),
    ) -> Result<train::Evaluation> {
        Ok(train::evaluate(
            &self.base.decoder,
            &dataset.encoded,
            progress,
        )?)
    }

    /// The decoder with the adapter in place.
    pub fn decoder(&self) -> &Decoder<Cpu> {
        &self.base.decoder
    }
}

/// The module tree with the adapter in place, as torch prints it.
impl std::fmt::Display for PeftModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.plan.tree.fmt(f)
    }
}
