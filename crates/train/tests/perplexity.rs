//! A data set's loss under a real decoder is the mean of PEFT's losses, and each row's is of its own tokens.

use std::sync::Arc;

use engine::cpu::Cpu;
use engine::shapes::ComputeDtype;
use formats::hf_config::HfConfig;
use formats::weights::WeightStore;
use lowrank_train::{Examples, Row, TrainError, evaluate};
use model::Decoder;
use model::families::{decoder_spec, module_tree};
use peft::load_adapter;
use testkit::{Golden, golden};

struct Rows(Vec<testkit::Row>);

impl Examples for Rows {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn example(&self, index: usize) -> Result<Row, TrainError> {
        let row = self.0[index].clone();
        Ok(Row {
            index,
            input_ids: row.input_ids,
            labels: row.labels,
        })
    }
}

fn adapted(case: &Golden) -> Decoder<Cpu> {
    let config = HfConfig::open_file(&case.path("config")).unwrap();
    let weights = WeightStore::open(&case.path("model")).unwrap();
    let backend = Arc::new(Cpu::new(Some(2), ComputeDtype::F32, None));
    let spec = decoder_spec(&config).unwrap();
    let tree = module_tree(&config).unwrap();
    let mut decoder = Decoder::load(backend, spec, &weights).unwrap();
    load_adapter(&mut decoder, &tree, &case.path("adapter"), Some(&weights)).unwrap();
    decoder
}

fn mean(losses: &[f32]) -> f64 {
    let sum: f64 = losses.iter().map(|loss| f64::from(*loss)).sum();
    sum / losses.len() as f64
}

#[test]
fn losses_of_a_data_set_and_of_its_rows_are_pefts() {
    for family in ["bloom", "gpt2", "llama", "mistral", "qwen2"] {
        let case = golden(&format!("{family}/all_linear"));
        let mut told = Vec::new();
        let rows = Rows(case.rows());
        let found = evaluate(&adapted(&case), &rows, |done, total| {
            told.push((done, total))
        });
        let found = found.unwrap();

        // PEFT's losses of all rows, one behind the other.
        let want = &case.tensor("losses").values;
        assert_eq!(found.tokens as usize, want.len(), "{family}");
        assert!((found.loss - mean(want)).abs() < 1e-5, "{family}");
        assert_eq!(found.perplexity, found.loss.exp(), "{family}");
        let mut rest = &want[..];
        for (index, row) in found.rows.iter().enumerate() {
            let (own, others) = rest.split_at(row.tokens as usize);
            match row.loss {
                Some(loss) => assert!((loss - mean(own)).abs() < 1e-5, "{family}, row {index}"),
                None => assert!(own.is_empty(), "{family}, row {index}"),
            }
            assert_eq!(row.row, index, "{family}");
            rest = others;
        }
        let count = rows.len();
        assert!(told.into_iter().eq((1..=count).map(|done| (done, count))));
    }
}
