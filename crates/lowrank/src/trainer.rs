//! `Trainer`.

use std::collections::BTreeMap;
use std::sync::Arc;

use data::Tokenizer;
use durable::Disk;
use train::{
    AdapterFiles, DecoderLearner, Examples, Observer, Plan, StopFlag, TrainOutput,
    TrainingArguments,
};

use crate::dataset::TokenizedDataset;
use crate::error::Result;
use crate::peft_model::PeftModel;

/// Refuses a run that its output folder alone makes impossible: there is another run's work in it, or nothing to resume
/// from. Only reads, so that it can be asked before a model is loaded.
///
/// # Errors
/// What is wrong with the folder, or with each checkpoint in it.
pub fn check_output(args: &TrainingArguments) -> Result<()> {
    Ok(train::check_output(&Disk::real(), args)?)
}

/// Trains the adapter of a model.
pub struct Trainer<'a> {
    /// What learns.
    pub model: &'a mut PeftModel,
    /// How.
    pub args: TrainingArguments,
    /// What is learnt.
    pub train_dataset: &'a TokenizedDataset,
    /// What is evaluated on, where `args` ask for it.
    pub eval_dataset: Option<&'a TokenizedDataset>,
    /// Saved beside the adapter.
    pub processing_class: Option<Arc<Tokenizer>>,
}

impl Trainer<'_> {
    /// Trains in silence; see [`Trainer::train_observed`].
    ///
    /// # Errors
    /// As [`Trainer::train_observed`].
    pub fn train(&mut self) -> Result<TrainOutput> {
        self.train_observed(&mut (), StopFlag::default())
    }

    /// Trains; `observer` hears of everything, `stop` ends the run after the update at hand, with a checkpoint.
    ///
    /// # Errors
    /// Arguments that make no sense together, a checkpoint of another run, a loss that is not finite, a disk that
    /// fails. Checkpoints already published stay as they are.
    pub fn train_observed(
        &mut self,
        observer: &mut dyn Observer,
        stop: StopFlag,
    ) -> Result<TrainOutput> {
        self.train_dataset.refuse_unlabelled()?;
        let plan = Plan::new(
            &self.args,
            self.train_dataset.len(),
            self.eval_dataset.map(TokenizedDataset::len),
        )?;
        let identity = self.identity()?;
        // Where the base may differ, its digest in a checkpoint is no reason to refuse the adapter in it.
        let changed = &self.args.resume_with_changed.0;
        let any_base = changed.iter().any(|name| name == peft::BASE_DIGEST);
        let base = &mut self.model.base;
        let files = AdapterFiles {
            plan: &self.model.plan,
            tree: &base.tree,
            base: Some(&base.weights),
            any_base,
            tokenizer: self.processing_class.as_deref(),
        };
        let num_parameters_without_embeddings =
            self.model.plan.tree.num_parameters_without_embeddings();
        let mut learner = DecoderLearner {
            decoder: &mut base.decoder,
            files: &files,
            num_parameters_without_embeddings,
        };
        let run = train::Trainer {
            plan: &plan,
            learner: &mut learner,
            examples: &self.train_dataset.encoded,
            eval_examples: self
                .eval_dataset
                .map(|dataset| &dataset.encoded as &dyn Examples),
            identity,
            stop,
            observer,
            disk: Disk::real(),
        };
        Ok(run.train()?)
    }

    /// What decides the result beside the arguments.
    fn identity(&self) -> Result<BTreeMap<String, String>> {
        let base = &self.model.base;
        let mut identity = BTreeMap::from([
            (peft::BASE_DIGEST.to_owned(), base.fingerprint()),
            (
                train::DATASET.to_owned(),
                self.train_dataset.fingerprint.clone(),
            ),
            (
                train::LORA.to_owned(),
                peft::planned_config(&self.model.plan)?,
            ),
            (
                "compute_dtype".to_owned(),
                format!("{:?}", base.compute_dtype()),
            ),
        ]);
        if base.decoder.has_dropout() {
            identity.insert("dropout_masks".to_owned(), model::DROPOUT_MASKS.to_owned());
        }
        if let Some(dataset) = self.eval_dataset {
            identity.insert(train::EVAL_DATASET.to_owned(), dataset.fingerprint.clone());
        }
        Ok(identity)
    }
}
