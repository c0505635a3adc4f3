//! C23 to C32, D39, D40: damage at rest, and checkpoints that belong to something else.

use std::path::{Path, PathBuf};

use durable::CheckpointStore;
use durable::faults::{Dice, Tally};

use crate::run::*;

const GO_ON: &str = "--resume-from-checkpoint latest";

fn inside(step: u64, name: &str) -> PathBuf {
    Path::new(&format!("checkpoint-{step}")).join(name)
}

/// The files of a checkpoint of the half done run.
fn files_of(step: u64) -> Vec<PathBuf> {
    let folder = format!("checkpoint-{step}");
    let files = half().keys().filter(|path| path.starts_with(&folder));
    files.cloned().collect()
}

/// The half done run, damaged: the command must say what it skips, take the checkpoint of `want`, and end the same.
fn goes_on_from(
    world: &World,
    want: u64,
    tally: &mut Tally,
    what: &str,
    damage: impl FnOnce(&mut Contents),
) {
    let mut files = half().clone();
    damage(&mut files);
    if files == *half() {
        return;
    }
    tally.inject();
    let path = world.path("damaged");
    put_tree(&files, &path);
    let told = follow(world.command(&words("damaged", GO_ON)), |_, _| {});
    let skipped = told
        .lines
        .iter()
        .filter(|line| line.starts_with("skipped checkpoint"))
        .count() as u64;
    let resumed = told.says(&format!("checkpoint-{want}` after step {want}"));
    if !resumed || skipped < (30 - want) / 2 || !told.status.success() {
        tally.lose(format!("{what}: {:?}: {}", told.status, told.text()));
    } else {
        same_as_whole(&path, tally, what);
    }
    std::fs::remove_dir_all(path).unwrap();
}

fn edit<'a>(
    path: &'a Path,
    change: impl FnOnce(&mut Vec<u8>) + 'a,
) -> impl FnOnce(&mut Contents) + 'a {
    move |files| change(files.get_mut(path).unwrap())
}

/// One changed file of the newest checkpoint on disk: it must be found without a run.
fn is_found(
    folder: &Path,
    path: &Path,
    change: impl FnOnce(&mut Vec<u8>),
    tally: &mut Tally,
    what: &str,
) {
    let good = &half()[path];
    let mut bytes = good.clone();
    change(&mut bytes);
    if bytes == *good {
        return;
    }
    tally.inject();
    std::fs::write(folder.join(path), bytes).unwrap();
    match CheckpointStore::new(folder).newest() {
        Ok(newest) if newest.checkpoint.step() == 28 && newest.skipped.len() == 1 => {}
        other => tally.lose(format!("{what} of {}: {other:?}", path.display())),
    }
    std::fs::write(folder.join(path), good).unwrap();
}

#[test]
fn one_flipped_bit_in_a_checkpoint_of_the_command_is_found() {
    let (world, mut tally, mut dice) = (World::new(), Tally::new(), Dice::new(230));
    let files = files_of(30);
    let folder = world.half_in("flipped");
    let flip = |path: &Path, dice: &mut Dice| {
        let bit = dice.below(half()[path].len() * 8);
        (bit, move |bytes: &mut Vec<u8>| {
            bytes[bit / 8] ^= 1 << (bit % 8)
        })
    };
    for _ in 0..reach(50, 2_000, 2_000) {
        let path = &files[dice.below(files.len())];
        let (bit, change) = flip(path, &mut dice);
        is_found(&folder, path, change, &mut tally, &format!("bit {bit}"));
    }
    for _ in 0..reach(3, 50, 100) {
        let path = &files[dice.below(files.len())];
        let (bit, change) = flip(path, &mut dice);
        goes_on_from(
            &world,
            28,
            &mut tally,
            &format!("bit {bit} of {}", path.display()),
            edit(path, change),
        );
    }
    finish(23, "flipped bits in the command's files", &tally, 50);
}

#[test]
fn a_cut_file_in_a_checkpoint_of_the_command_is_found() {
    let (world, mut tally, mut dice) = (World::new(), Tally::new(), Dice::new(240));
    let files = files_of(30);
    let folder = world.half_in("cut");
    for _ in 0..reach(50, 500, 500) {
        let path = &files[dice.below(files.len())];
        let len = dice.below(half()[path].len());
        is_found(
            &folder,
            path,
            |bytes| bytes.truncate(len),
            &mut tally,
            &format!("cut to {len}"),
        );
    }
    let picked = &files[..reach(1, 100, 100).min(files.len() as u64) as usize];
    for path in picked {
        let size = half()[path].len();
        for len in [0, 1, 8, size / 2, size - 1] {
            let what = format!("{} cut to {len}", path.display());
            goes_on_from(
                &world,
                28,
                &mut tally,
                &what,
                edit(path, |bytes| bytes.truncate(len)),
            );
        }
    }
    finish(24, "cut files of the command", &tally, 50);
}

#[test]
fn a_missing_empty_or_zeroed_file_is_never_a_fresh_start() {
    let (world, mut gone, mut blank) = (World::new(), Tally::new(), Tally::new());
    for path in files_of(30) {
        let what = path.display().to_string();
        goes_on_from(&world, 28, &mut gone, &what, |files| {
            drop(files.remove(&path))
        });
        goes_on_from(&world, 28, &mut blank, &what, edit(&path, Vec::clear));
        let pages = half()[&path].len().div_ceil(4096);
        for page in 0..pages.min(reach(1, 9, 9) as usize) {
            let zero = |bytes: &mut Vec<u8>| {
                let end = bytes.len().min(page * 4096 + 4096);
                bytes[page * 4096..end].fill(0);
            };
            goes_on_from(
                &world,
                28,
                &mut blank,
                &format!("{what}, page {page}"),
                edit(&path, zero),
            );
        }
    }
    finish(25, "removed files of the command", &gone, 8);
    finish(27, "empty and zeroed files of the command", &blank, 16);
}

#[test]
fn files_swapped_between_checkpoints_of_the_command_are_found() {
    let (world, mut tally) = (World::new(), Tally::new());
    for path in files_of(30) {
        let other = inside(28, &path.file_name().unwrap().to_string_lossy());
        goes_on_from(
            &world,
            26,
            &mut tally,
            &path.display().to_string(),
            |files| {
                let (one, two) = (files[&path].clone(), files[&other].clone());
                files.insert(path.clone(), two);
                files.insert(other.clone(), one);
            },
        );
    }
    finish(26, "swapped files of the command", &tally, 3);
}

/// Seals a manifest again, as another version of this program would have written it.
fn resealed(manifest: &[u8], edit: impl Fn(String) -> String) -> Vec<u8> {
    let text = String::from_utf8(manifest.to_vec()).unwrap();
    let opened = edit(text[..text.len() - 64 - 4].to_owned());
    let seal = durable::sha256_hex(opened.as_bytes());
    format!("{opened}{seal}\"\n}}\n").into_bytes()
}

#[test]
fn a_damaged_manifest_is_skipped_and_a_newer_one_named() {
    let (world, mut tally, mut dice) = (World::new(), Tally::new(), Dice::new(280));
    let path = inside(30, "manifest.json");
    for round in 0..reach(4, 40, 40) {
        let damage = |bytes: &mut Vec<u8>| {
            let at = dice.below(bytes.len());
            match round % 4 {
                0 => bytes[at] = dice.bits() as u8,
                1 => bytes.insert(at, b'7'),
                2 => drop(bytes.remove(at)),
                _ => bytes[at..].reverse(),
            }
        };
        goes_on_from(
            &world,
            28,
            &mut tally,
            &format!("manifest, round {round}"),
            edit(&path, damage),
        );
    }
    for newer in [2, 3, 4_000_000_000_u64] {
        let folder = world.half_in("newer");
        let to = format!("\"format_version\": {newer}, \"shards\": []");
        let bytes = resealed(&half()[&path], |text| {
            text.replace("\"format_version\": 1", &to)
        });
        std::fs::write(folder.join(&path), bytes).unwrap();
        let told = follow(world.command(&words("newer", GO_ON)), |_, _| {});
        tally.inject();
        if told.status.code() != Some(1)
            || !told.says(&format!("format_version {newer}"))
            || !told.says("mend: ")
        {
            tally.differ(format!("version {newer}: {}", told.text()));
        }
    }
    finish(28, "manifests of the command", &tally, 5);
}

#[test]
fn strays_beside_checkpoints_are_not_looked_at() {
    let (world, mut tally) = (World::new(), Tally::new());
    let foreign = [
        "checkpoint-best",
        "checkpoint-9999999999999999999999999",
        "checkpoint-70.tmp",
        "Checkpoint-70",
    ];
    let ours = [".staging-checkpoint-70-77-0", ".trash-checkpoint-2-77-5"];
    for name in foreign.iter().chain(&ours) {
        let path = world.path("strays");
        let copies = half()
            .iter()
            .filter(|(path, _)| path.starts_with("checkpoint-30"));
        let copies = copies.map(|(path, bytes)| {
            (
                Path::new(name).join(path.file_name().unwrap()),
                bytes.clone(),
            )
        });
        let copies: Contents = copies.collect();
        put_tree(half(), &path);
        put_tree(&copies, &path);
        let shown = world.run("inspect --output-dir strays");
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        let mut lines = shown.lines();
        let named = lines.find(|line| line.starts_with(&format!("stray `strays/{name}`: ")));
        let removed = named.map(|line| line.contains("the next one that writes there removes it"));
        let want = (*name != "Checkpoint-70").then_some(ours.contains(name));
        if removed != want || !shown.contains("3 checkpoints of 3 can be resumed from") {
            tally.differ(format!("{name}: inspect says: {shown}"));
        }
        let told = world.must(&words("strays", GO_ON));
        tally.inject();
        if !told.says("checkpoint-30` after step 30")
            || path.join(name).exists() == ours.contains(name)
        {
            tally.differ(format!("{name}: {}", told.text()));
        }
        let _ = std::fs::remove_dir_all(path.join(name));
        same_as_whole(&path, &mut tally, name);
        std::fs::remove_dir_all(&path).unwrap();
    }
    finish(29, "strays beside the command's checkpoints", &tally, 6);
}

#[test]
fn where_every_checkpoint_is_bad_nothing_starts() {
    let (world, mut tally) = (World::new(), Tally::new());
    for round in 0..5 {
        let path = world.half_in("bad");
        for step in [26, 28, 30] {
            let name = [
                "optimizer.safetensors",
                "manifest.json",
                "resume_state.json",
            ][(round + step) % 3];
            let file = path.join(format!("checkpoint-{step}/{name}"));
            std::fs::write(&file, &std::fs::read(&file).unwrap()[..round]).unwrap();
        }
        let before = tree(&path);
        let told = follow(world.command(&words("bad", GO_ON)), |_, _| {});
        tally.inject();
        let reasons = [26, 28, 30]
            .iter()
            .all(|step| told.says(&format!("checkpoint-{step}: ")));
        if told.status.code() != Some(1) || !reasons || told.says("'loss'") {
            tally.differ(format!("round {round}: {}", told.text()));
        }
        let afresh = follow(world.command(&words("bad", "")), |_, _| {});
        if afresh.status.code() != Some(1) || checkpoints(&tree(&path)) != checkpoints(&before) {
            tally.differ(format!(
                "round {round}, without resuming: {}",
                afresh.text()
            ));
        }
        std::fs::remove_dir_all(&path).unwrap();
    }
    finish(30, "every checkpoint of the command bad", &tally, 5);
}

/// Resuming with other words is refused, names what differs, and touches no checkpoint.
fn is_refused(world: &World, line: &str, names: &[&str], tally: &mut Tally) {
    let path = world.half_in("other");
    let before = checkpoints(&tree(&path));
    let told = follow(world.command(line), |_, _| {});
    tally.inject();
    let named = names
        .iter()
        .all(|name| told.says(&format!("`{name}` was ")));
    let plain =
        told.status.code() == Some(1) && told.says("belongs to another run") && told.says("mend: ");
    if !plain || !named || checkpoints(&tree(&path)) != before {
        tally.differ(format!("{line}: {names:?}: {}", told.text()));
    }
    std::fs::remove_dir_all(&path).unwrap();
}

/// With the difference named, the run goes on to its end and says what changed.
fn is_taken(world: &World, line: &str, name: &str, tally: &mut Tally) {
    let path = world.half_in("other");
    let line = format!("{line} --resume-with-changed {name}");
    let told = follow(world.command(&line), |_, _| {});
    tally.inject();
    let at_end = path.join(format!("checkpoint-{STEPS}")).exists();
    if !told.status.success() || !at_end || !told.says(&format!("note: `{name}` was ")) {
        tally.differ(format!("{line}: {}", told.text()));
    }
    std::fs::remove_dir_all(&path).unwrap();
}

fn with(from: &str, to: &str) -> String {
    let line = words("other", GO_ON);
    assert!(line.contains(from), "{line}");
    line.replace(from, to)
}

fn more(flags: &str) -> String {
    with("--threads 1", &format!("--threads 1 {flags}"))
}

#[test]
fn a_checkpoint_of_another_run_is_refused_with_all_that_differs() {
    let (world, mut shape) = (World::new(), Tally::new());
    testkit::tiny_model("gpt2", &world.path("gpt2"));
    testkit::tiny_model("llama", &world.path("llama"));
    for family in ["gpt2", "llama"] {
        is_refused(
            &world,
            &with("--model model", &format!("--model {family}")),
            &["base_model"],
            &mut shape,
        );
    }
    for (flags, name) in [
        ("--r 4", "lora.r"),
        ("--lora-alpha 3", "lora.lora_alpha"),
        ("--target-modules dense", "lora.target_modules"),
        ("--use-rslora", "lora.use_rslora"),
        ("--bias all", "lora.bias"),
        ("--layers-to-transform 0", "lora.layers_to_transform"),
        ("--modules-to-save word_embeddings", "lora.modules_to_save"),
        ("--init-lora-weights gaussian", "lora.init_lora_weights"),
        (
            "--rank-pattern {\"query_key_value\":2}",
            "lora.rank_pattern",
        ),
        ("--exclude-modules .*h.0.*", "lora.exclude_modules"),
    ] {
        is_refused(&world, &more(flags), &[name], &mut shape);
    }
    is_refused(
        &world,
        &with("--lora-dropout 0.1", "--lora-dropout 0.2"),
        &["lora.lora_dropout"],
        &mut shape,
    );
    is_refused(
        &world,
        &with("--lora-dropout 0.1", "--lora-dropout 0.0"),
        &["lora.lora_dropout", "dropout_masks"],
        &mut shape,
    );
    is_refused(
        &world,
        &more("--compute-dtype bf16"),
        &["compute_dtype"],
        &mut shape,
    );
    is_refused(
        &world,
        &more("--r 4 --seed 7 --weight-decay 0.1"),
        &["lora.r", "seed", "weight_decay"],
        &mut shape,
    );
    finish(31, "checkpoints of another run", &shape, 16);
}

#[test]
fn other_settings_are_refused_unless_named() {
    let (world, mut settings) = (World::new(), Tally::new());
    for (flags, name) in [
        ("--seed 7", "seed"),
        ("--lr-scheduler-type cosine", "lr_scheduler_type"),
        ("--warmup-steps 3", "warmup_steps"),
        ("--weight-decay 0.1", "weight_decay"),
        ("--max-grad-norm 0.5", "max_grad_norm"),
        ("--adam-beta2 0.9", "adam_beta2"),
        (
            "--train-sampling-strategy sequential",
            "train_sampling_strategy",
        ),
        ("--data-seed 3", "data_seed"),
    ] {
        is_refused(&world, &more(flags), &[name], &mut settings);
    }
    is_refused(
        &world,
        &with("--learning-rate 0.01", "--learning-rate 0.02"),
        &["learning_rate"],
        &mut settings,
    );
    is_refused(
        &world,
        &with("--max-steps 60", "--max-steps 80"),
        &["max_steps"],
        &mut settings,
    );
    is_refused(
        &world,
        &with("batch-size 1", "batch-size 2"),
        &["per_device_train_batch_size"],
        &mut settings,
    );
    let accumulation = with("accumulation-steps 3", "accumulation-steps 2");
    is_refused(
        &world,
        &accumulation,
        &["gradient_accumulation_steps"],
        &mut settings,
    );
    is_taken(
        &world,
        &more("--weight-decay 0.1"),
        "weight_decay",
        &mut settings,
    );
    is_taken(&world, &more("--seed 7"), "seed", &mut settings);
    finish(39, "other settings at a resume", &settings, 14);
}

#[test]
fn changed_weights_of_the_base_are_refused_unless_named() {
    let mut tally = Tally::new();
    for (tensor, at) in [
        ("word_embeddings.weight", 5),
        ("h.1.mlp.dense_h_to_4h.weight", 7),
        ("ln_f.bias", 0),
    ] {
        let world = World::new();
        let path = world.path("model/model.safetensors");
        let mut tensors = testkit::read_tensors(&path);
        let name = tensors
            .keys()
            .find(|name| name.ends_with(tensor))
            .unwrap()
            .clone();
        tensors.get_mut(&name).unwrap().values[at] += 0.25;
        testkit::write_tensors(&path, &tensors);
        is_refused(&world, &words("other", GO_ON), &["base_model"], &mut tally);
        is_taken(&world, &words("other", GO_ON), "base_model", &mut tally);
    }
    finish(32, "changed weights under the same path", &tally, 6);
}

#[test]
fn changed_rows_are_refused_unless_named() {
    let world = World::new();
    let rows = std::fs::read_to_string(world.path("rows.jsonl")).unwrap();
    let lines: Vec<&str> = rows.lines().collect();
    let mut tally = Tally::new();
    let edited = rows.replace("Red is", "Blue is");
    let added = format!("{rows}{}\n", lines[0]);
    let reordered = [lines[1], lines[0], lines[2], lines[3]].join("\n");
    for changed in [edited, added, reordered] {
        world.write("rows.jsonl", &changed);
        let line = words("other", GO_ON);
        is_refused(&world, &line, &["dataset.rows"], &mut tally);
        is_taken(&world, &line, "dataset.rows", &mut tally);
    }
    finish(40, "changed rows", &tally, 6);
}

/// What names the same base, or the same set of modules, in other words.
#[test]
fn the_same_run_in_other_words_goes_on() {
    let (world, mut tally) = (World::new(), Tally::new());
    let absolute = world.path("model");
    for (from, to) in [
        ("--model model", "--model ./model/"),
        ("--model model", &*format!("--model {}", absolute.display())),
        ("--threads 1", "--threads 1 --lora-alpha 8.0"),
    ] {
        let path = world.half_in("other");
        let told = follow(world.command(&with(from, to)), |_, _| {});
        tally.inject();
        if !told.status.success() || !told.says("checkpoint-30` after step 30") {
            tally.differ(format!("{to}: {}", told.text()));
        }
        std::fs::remove_dir_all(&path).unwrap();
    }
    let wide = |modules: &str, rest: &str| {
        let line = words("wide", rest);
        format!("{line} --target-modules {modules}")
    };
    world.must(&wide("dense,query_key_value", ""));
    let weights = world.path("wide/adapter_model.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    std::fs::remove_file(&weights).unwrap();
    let earlier = "--resume-from-checkpoint wide/checkpoint-58";
    world.must(&wide("query_key_value,dense", earlier));
    tally.inject();
    if std::fs::read(&weights).unwrap() != whole {
        tally.differ("another order of target_modules gives other weights".to_owned());
    }
    finish(31, "the same run in other words", &tally, 4);
}

#[test]
fn what_may_differ_is_named_and_what_cannot_says_so() {
    let (world, mut tally) = (World::new(), Tally::new());
    is_refused(
        &world,
        &format!("{} --max-length 24", words("other", GO_ON)),
        &["dataset.max_length"],
        &mut tally,
    );
    for given in ["max_length", "dataset"] {
        let path = world.half_in("other");
        let line = words("other", GO_ON);
        world.must(&format!(
            "{line} --max-length 24 --resume-with-changed {given}"
        ));
        tally.inject();
        std::fs::remove_dir_all(&path).unwrap();
    }
    world.half_in("other");
    let line = words("other", GO_ON);
    let told = follow(
        world.command(&format!("{line} --r 4 --resume-with-changed lora")),
        |_, _| {},
    );
    tally.inject();
    if told.status.code() != Some(1) || !told.says("it cannot be resumed with them") {
        tally.differ(told.text());
    }
    finish(39, "differences by their names", &tally, 4);
}
