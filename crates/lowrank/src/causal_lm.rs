//! `AutoModelForCausalLM`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use data::Tokenizer;
use engine::cpu::Cpu;
use engine::shapes::ComputeDtype;
use formats::hf_config::HfConfig;
use formats::weights::WeightStore;
use model::tree::ModuleTree;
use model::{Compute, Decoder, GenerationConfig, families};
use peft::{AdapterPlan, MergeReport, ModelFolder};

use crate::dataset::TokenizedDataset;
use crate::error::Result;
use crate::generation::{Generated, generate};

/// Settings of [`CausalLm::load`].
#[derive(Debug, Clone, Copy, Default)]
pub struct LoadOptions {
    /// How the products are computed.
    pub compute_dtype: Compute,
    /// Worker threads; all cores where not given. The results do not depend on it.
    pub threads: Option<usize>,
    /// The most that the CPU's instruction set may be used for; everything that it has where not given.
    pub isa: Option<kernels::Isa>,
}

/// A base model: its folder's config, its mapped weights, and a decoder that reads them.
pub struct CausalLm {
    pub(crate) folder: PathBuf,
    config: HfConfig,
    generation: formats::hf_config::GenerationConfig,
    pub(crate) tree: ModuleTree,
    pub(crate) weights: WeightStore,
    pub(crate) decoder: Decoder<Cpu>,
    notices: Vec<String>,
}

impl CausalLm {
    /// Opens a model folder; weights are mapped, not read.
    ///
    /// # Errors
    /// A config or weights that are missing, broken, of an unsupported family, or do not fit each other.
    pub fn from_pretrained(folder: impl AsRef<Path>) -> Result<Self> {
        Self::load(folder, LoadOptions::default())
    }

    /// The same, with settings.
    ///
    /// # Errors
    /// As [`CausalLm::from_pretrained`].
    pub fn load(folder: impl AsRef<Path>, options: LoadOptions) -> Result<Self> {
        let folder = folder.as_ref();
        let config = HfConfig::open(folder)?;
        let spec = families::decoder_spec(&config)?;
        let generation = formats::hf_config::GenerationConfig::open(folder, &config)?;
        let weights = WeightStore::open(folder)?;
        let (config, untied) = model::config_as_stored(config, &spec, &weights);
        let spec = families::decoder_spec(&config)?;
        let tree = families::module_tree(&config)?;
        let best = Cpu::best_compute_dtype();
        let (compute, rounds) = options.compute_dtype.settle(&spec, &weights, best);
        let notices = (untied.into_iter().chain(rounds)).chain(families::notices(&config)?);
        let backend = Arc::new(Cpu::new(options.threads, compute, options.isa));
        let decoder = Decoder::load(backend, spec, &weights)?;
        Ok(Self {
            folder: folder.to_path_buf(),
            config,
            generation,
            tree,
            weights,
            decoder,
            notices: notices.collect(),
        })
    }

    /// The folder that it was opened from.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its modules.
    pub fn tree(&self) -> &ModuleTree {
        &self.tree
    }

    /// What a user should know of how it was loaded.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// How products are computed.
    pub fn compute_dtype(&self) -> ComputeDtype {
        engine::backend::Backend::compute_dtype(self.decoder.backend())
    }

    /// The instruction set in effect: the processor's best, or what [`LoadOptions::isa`] leaves of it.
    pub fn isa(&self) -> kernels::Isa {
        self.decoder.backend().isa()
    }

    /// The decoder itself.
    pub fn decoder(&self) -> &Decoder<Cpu> {
        &self.decoder
    }

    /// What `generation_config.json` says, with the tokenizer's end-of-text id where it says nothing.
    pub fn generation_config(&self, tokenizer: &Tokenizer) -> GenerationConfig {
        let mut config = GenerationConfig::from_stored(&self.generation);
        if config.eos_token_ids.is_empty() {
            config.eos_token_ids.extend(tokenizer.eos_token_id());
        }
        config
    }

    /// Says which keys of `generation_config.json` change what transformers generates with `config`, but nothing here.
    pub fn generation_notice(&self, config: &GenerationConfig) -> Option<String> {
        config.notice(&self.generation)
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
        generate(&self.decoder, tokenizer, prompt, config, on_text)
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
        Ok(train::evaluate(&self.decoder, &dataset.encoded, progress)?)
    }

    /// Writes the model as a folder that `AutoModelForCausalLM` opens: config, generation config, the tokenizer
    /// files of the folder that it came from, and safetensors, in shards above [`peft::MAX_SHARD_BYTES`].
    /// `folder` must not exist: shards of another model that lay there would mix with these.
    ///
    /// # Errors
    /// A folder that is there already or cannot be written; nothing is at `folder` then.
    pub fn save_pretrained(&self, folder: impl AsRef<Path>) -> Result<MergeReport> {
        self.save_sharded(folder, peft::MAX_SHARD_BYTES)
    }

    /// The same, with weights files of at most `max_shard_bytes`.
    ///
    /// # Errors
    /// As [`CausalLm::save_pretrained`].
    pub fn save_sharded(
        &self,
        folder: impl AsRef<Path>,
        max_shard_bytes: u64,
    ) -> Result<MergeReport> {
        let beside = ModelFolder {
            config: &self.config,
            files_of: &self.folder,
            max_shard_bytes,
        };
        let spec = self.decoder.spec();
        Ok(peft::save_model(
            beside,
            spec,
            &self.weights,
            folder.as_ref(),
        )?)
    }

    /// The same model with `adapter`'s trained values folded into its weights.
    pub(crate) fn merged(self, adapter: &AdapterPlan) -> Result<Self> {
        let values = peft::trained_values(&self.decoder, adapter)?;
        let (weights, untied) =
            peft::merge_weights(self.decoder.spec(), &self.weights, adapter, &values)?;
        let config = peft::merged_config(&self.config, untied);
        let backend = self.decoder.shared_backend();
        let decoder = Decoder::load(backend, families::decoder_spec(&config)?, &weights)?;
        Ok(Self {
            tree: families::module_tree(&config)?,
            config,
            weights,
            decoder,
            ..self
        })
    }

    /// SHA-256 over the weights' headers and samples of every tensor: names a base model.
    pub fn fingerprint(&self) -> String {
        self.weights.digest()
    }
}

/// The module tree, as torch prints it.
impl std::fmt::Display for CausalLm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.tree.fmt(f)
    }
}
