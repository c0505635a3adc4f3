//! Reads what the Python stack wrote under `goldens/`; `goldens/README.md` says what each file holds.
//!
//! A golden that is missing or broken panics: it is part of the repository.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::repository_root;
use crate::tolerance::{Tol, complaint};

/// One case: its `want.json` and `want.safetensors`.
#[derive(Debug, Clone)]
pub struct Golden {
    folder: PathBuf,
    want: Value,
    tensors: BTreeMap<String, Tensor>,
}

/// A tensor of a golden, widened to f32 (masks come as 0 and 1).
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Row-major.
    pub values: Vec<f32>,
}

/// One row of `batch.json`; labels are not shifted, -100 where nothing is learned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Token ids.
    pub input_ids: Vec<u32>,
    /// As long as `input_ids`.
    pub labels: Vec<i32>,
}

impl Row {
    /// Ids and labels, as a batch takes them.
    pub fn parts(&self) -> (&[u32], &[i32]) {
        (&self.input_ids, &self.labels)
    }
}

/// A trainable parameter as `want.json` lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trainable {
    /// Plain name, or `<module>.lora_A.weight`.
    pub name: String,
    /// Sizes.
    pub shape: Vec<usize>,
    /// The Trainer's weight decay applies.
    pub decay: bool,
}

/// One line of the Trainer's log.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogLine {
    /// From 1.
    pub step: u64,
    /// Of this update alone.
    pub loss: f64,
    /// Before clipping.
    pub grad_norm: f64,
    /// That this update was made with.
    pub learning_rate: f64,
    /// Fraction of the data seen.
    pub epoch: f64,
}

/// `goldens/`.
pub fn goldens() -> PathBuf {
    repository_root().join("goldens")
}

/// Opens a case, as `"bloom/all_linear"`.
///
/// # Panics
/// Where the case is not there or does not parse.
pub fn golden(case: &str) -> Golden {
    let folder = goldens().join(case);
    let want = read_json(&folder.join("want.json"));
    let tensors = read_tensors(&folder.join("want.safetensors"));
    Golden {
        folder,
        want,
        tensors,
    }
}

/// The cases of a family, as `"bloom/all_linear"`, in order of name; `bf16` is not one of them.
///
/// # Panics
/// Where the family is not there.
pub fn cases(family: &str) -> Vec<String> {
    let folder = goldens().join(family);
    let entries =
        std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let names: BTreeSet<String> = entries
        .map(|entry| entry.expect("the folder is readable"))
        .filter(|entry| entry.path().join("adapter").is_dir())
        .map(|entry| format!("{family}/{}", entry.file_name().to_string_lossy()))
        .collect();
    names.into_iter().collect()
}

impl Golden {
    /// `want.json`.
    pub fn want(&self) -> &Value {
        &self.want
    }

    /// A file or folder that `want.json` names: `model`, `config`, `adapter`, `rows`.
    ///
    /// # Panics
    /// Where it names none under this key.
    pub fn path(&self, key: &str) -> PathBuf {
        self.folder.join(
            self.at(key)
                .as_str()
                .unwrap_or_else(|| panic!("`{key}` is no path")),
        )
    }

    /// The number at a key of `want.json`, with dots between as `"f64.loss"`.
    ///
    /// # Panics
    /// Where there is none.
    pub fn number(&self, key: &str) -> f64 {
        number(self.at(key), key)
    }

    /// All rows of the family.
    ///
    /// # Panics
    /// Where `batch.json` is broken.
    pub fn rows(&self) -> Vec<Row> {
        let whole = |value: &Value, key: &str| -> Vec<i64> {
            list(&value[key], key)
                .iter()
                .map(|id| integer(id, key))
                .collect()
        };
        list(&read_json(&self.path("rows")), "rows")
            .iter()
            .map(|row| Row {
                input_ids: whole(row, "input_ids")
                    .into_iter()
                    .map(|id| u32::try_from(id).expect("ids are small"))
                    .collect(),
                labels: whole(row, "labels")
                    .into_iter()
                    .map(|id| i32::try_from(id).expect("labels are small"))
                    .collect(),
            })
            .collect()
    }

    /// Row numbers of each update.
    ///
    /// # Panics
    /// Where `want.json` has none.
    pub fn updates(&self) -> Vec<Vec<usize>> {
        list(self.at("updates"), "updates")
            .iter()
            .map(|update| sizes(update, "updates"))
            .collect()
    }

    /// The trainable parameters in the order of `named_parameters()`.
    ///
    /// # Panics
    /// Where `want.json` has none.
    pub fn trainable(&self) -> Vec<Trainable> {
        list(self.at("trainable"), "trainable")
            .iter()
            .map(|entry| Trainable {
                name: entry["name"].as_str().expect("a name").to_owned(),
                shape: sizes(&entry["shape"], "shape"),
                decay: entry["decay"].as_bool().expect("true or false"),
            })
            .collect()
    }

    /// The Trainer's log, a line for each update.
    ///
    /// # Panics
    /// Where `want.json` has none.
    pub fn log(&self) -> Vec<LogLine> {
        list(self.at("log"), "log")
            .iter()
            .map(|line| LogLine {
                step: line["step"].as_u64().expect("a step"),
                loss: number(&line["loss"], "loss"),
                grad_norm: number(&line["grad_norm"], "grad_norm"),
                learning_rate: number(&line["learning_rate"], "learning_rate"),
                epoch: number(&line["epoch"], "epoch"),
            })
            .collect()
    }

    /// Names of tensors that begin with `prefix`, without it.
    pub fn names(&self, prefix: &str) -> BTreeSet<String> {
        self.tensors
            .keys()
            .filter_map(|name| name.strip_prefix(prefix))
            .map(str::to_owned)
            .collect()
    }

    /// A tensor of `want.safetensors`.
    ///
    /// # Panics
    /// Where it is not there.
    pub fn tensor(&self, name: &str) -> &Tensor {
        self.tensors
            .get(name)
            .unwrap_or_else(|| panic!("{} holds no `{name}`", self.folder.display()))
    }

    /// Compares one tensor.
    ///
    /// # Panics
    /// Where an element is out of tolerance; `final.x` leaves out the elements that `noise.x` marks.
    pub fn check_close(&self, name: &str, got: &[f32], tol: Tol) {
        if let Some(complaint) = self.complaint(name, got, tol) {
            panic!("{}: {complaint}", self.folder.display());
        }
    }

    /// Compares all tensors under a prefix, as `"grad."`, with `got` by the names after it, and reports all that is
    /// wrong together.
    ///
    /// # Panics
    /// Where a name is missing, is not wanted, or a value is out of tolerance.
    pub fn check_all<N: AsRef<str>, V: AsRef<[f32]>>(
        &self,
        prefix: &str,
        got: impl IntoIterator<Item = (N, V)>,
        tol: Tol,
    ) {
        let mut missing = self.names(prefix);
        assert!(
            !missing.is_empty(),
            "{} holds nothing under `{prefix}`",
            self.folder.display()
        );
        let mut wrong = Vec::new();
        for (name, values) in got {
            let name = name.as_ref();
            if missing.remove(name) {
                wrong.extend(self.complaint(&format!("{prefix}{name}"), values.as_ref(), tol));
            } else {
                wrong.push(format!("`{prefix}{name}` is not wanted, or came twice"));
            }
        }
        wrong.extend(
            missing
                .iter()
                .map(|name| format!("`{prefix}{name}` is missing")),
        );
        assert!(
            wrong.is_empty(),
            "{}:\n  {}",
            self.folder.display(),
            wrong.join("\n  ")
        );
    }

    fn complaint(&self, name: &str, got: &[f32], tol: Tol) -> Option<String> {
        let noise = name
            .strip_prefix("final.")
            .and_then(|name| self.tensors.get(&format!("noise.{name}")));
        let skip: Vec<u8> = noise.map_or_else(Vec::new, |mask| {
            mask.values
                .iter()
                .map(|&one| u8::from(one != 0.0))
                .collect()
        });
        complaint(name, got, &self.tensor(name).values, &skip, tol)
    }

    fn at(&self, key: &str) -> &Value {
        let found = self.want.pointer(&format!("/{}", key.replace('.', "/")));
        found.unwrap_or_else(|| panic!("{}/want.json has no `{key}`", self.folder.display()))
    }
}

/// Reads a JSON file of the goldens.
///
/// # Panics
/// Where it is not there or does not parse.
pub fn read_json(path: &Path) -> Value {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Reads all tensors of a safetensors file, widened to f32.
///
/// # Panics
/// Where it is not there, does not parse, or holds another dtype than F32, F16, BF16, U8.
pub fn read_tensors(path: &Path) -> BTreeMap<String, Tensor> {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let file = SafeTensors::deserialize(&bytes)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let widen = |view: &safetensors::tensor::TensorView<'_>| Tensor {
        shape: view.shape().to_vec(),
        values: widened(view.dtype(), view.data()),
    };
    file.tensors()
        .into_iter()
        .map(|(name, view)| (name, widen(&view)))
        .collect()
}

fn widened(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    match dtype {
        Dtype::F32 => bytes
            .chunks_exact(4)
            .map(bytemuck::pod_read_unaligned::<f32>)
            .collect(),
        Dtype::F16 => bytes
            .chunks_exact(2)
            .map(|two| bytemuck::pod_read_unaligned::<half::f16>(two).to_f32())
            .collect(),
        Dtype::BF16 => bytes
            .chunks_exact(2)
            .map(|two| bytemuck::pod_read_unaligned::<half::bf16>(two).to_f32())
            .collect(),
        Dtype::U8 => bytes.iter().map(|&byte| f32::from(byte)).collect(),
        other => panic!("goldens hold no {other:?}"),
    }
}

fn list<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value
        .as_array()
        .unwrap_or_else(|| panic!("`{key}` is no list"))
}

fn number(value: &Value, key: &str) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("`{key}` is no number"))
}

fn integer(value: &Value, key: &str) -> i64 {
    value
        .as_i64()
        .unwrap_or_else(|| panic!("`{key}` is no whole number"))
}

fn sizes(value: &Value, key: &str) -> Vec<usize> {
    list(value, key)
        .iter()
        .map(|size| usize::try_from(integer(size, key)).expect("sizes are not negative"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXACT: Tol = Tol { abs: 0.0, rel: 0.0 };
    const FAMILIES: [&str; 5] = ["bloom", "gpt2", "llama", "mistral", "qwen2"];

    #[test]
    fn every_case_is_whole() {
        for family in FAMILIES {
            let cases = cases(family);
            assert!(
                cases.len() >= 4 && cases.contains(&format!("{family}/all_linear")),
                "{cases:?}"
            );
            for case in cases {
                let golden = golden(&case);
                let named: BTreeSet<String> = golden
                    .trainable()
                    .into_iter()
                    .map(|parameter| parameter.name)
                    .collect();
                assert_eq!(golden.names("grad."), named, "{case}");
                assert_eq!(golden.names("final."), named, "{case}");
                assert_eq!(
                    (
                        golden.updates().len(),
                        golden.log().len(),
                        golden.rows().len()
                    ),
                    (20, 20, 8),
                    "{case}"
                );
                assert!(
                    golden.path("config").is_file() && golden.path("adapter").is_dir(),
                    "{case}"
                );
            }
        }
    }

    #[test]
    fn no_trainable_gradient_is_all_zero() {
        for case in FAMILIES.iter().flat_map(|family| cases(family)) {
            let golden = golden(&case);
            for name in golden.names("grad.") {
                let values = &golden.tensor(&format!("grad.{name}")).values;
                assert!(
                    values.iter().any(|value| value.abs() > 1e-6),
                    "{case}: {name}"
                );
            }
        }
    }

    #[test]
    fn loss_is_the_sum_of_losses_over_num_items() {
        for case in FAMILIES.iter().flat_map(|family| cases(family)) {
            let golden = golden(&case);
            let sum: f64 = golden
                .tensor("losses")
                .values
                .iter()
                .map(|&loss| f64::from(loss))
                .sum();
            let loss = sum / golden.number("num_items_in_batch");
            assert!((loss - golden.number("f64.loss")).abs() < 1e-5, "{case}");
            assert!((loss - golden.log()[0].loss).abs() < 1e-5, "{case}");
        }
    }

    #[test]
    fn missing_extra_and_wrong_are_all_named() {
        let golden = golden("bloom/attention");
        let mut got: Vec<(String, Vec<f32>)> = golden
            .names("grad.")
            .into_iter()
            .map(|name| {
                (
                    name.clone(),
                    golden.tensor(&format!("grad.{name}")).values.clone(),
                )
            })
            .collect();
        golden.check_all("grad.", got.clone(), EXACT);
        got[0].1[3] += 1.0;
        let dropped = got.pop().expect("there are gradients").0;
        got.push(("stray".into(), vec![0.0]));
        let panic = std::panic::catch_unwind(|| golden.check_all("grad.", got.clone(), EXACT))
            .expect_err("three things are wrong");
        let said = panic.downcast_ref::<String>().expect("a formatted panic");
        for part in [
            "worst at 3",
            "`grad.stray` is not wanted",
            &format!("`grad.{dropped}` is missing"),
        ] {
            assert!(said.contains(part), "{said}");
        }
    }

    #[test]
    fn noise_is_left_out_of_final_weights_only() {
        let golden = golden("bloom/bias_all");
        let name = golden
            .names("noise.")
            .into_iter()
            .next()
            .expect("bloom's key bias is noise");
        let mask = golden.tensor(&format!("noise.{name}")).values.clone();
        let shift = |values: &[f32]| -> Vec<f32> {
            values
                .iter()
                .zip(&mask)
                .map(|(value, one)| value + one)
                .collect()
        };
        let shifted = shift(&golden.tensor(&format!("final.{name}")).values);
        golden.check_close(&format!("final.{name}"), &shifted, EXACT);
        let shifted = shift(&golden.tensor(&format!("grad.{name}")).values);
        assert!(
            std::panic::catch_unwind(|| golden.check_close(
                &format!("grad.{name}"),
                &shifted,
                EXACT
            ))
            .is_err()
        );
    }
}
