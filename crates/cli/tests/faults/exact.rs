//! D33 to D36, D42: a resumed run, another number of threads and a second run give the same bytes; odd rows are counted.

use std::os::unix::process::ExitStatusExt;

use durable::faults::Tally;

use crate::run::*;

fn line(output: &str, rest: &str) -> String {
    format!(
        "train --model model --dataset rows.jsonl --output-dir {output} --per-device-train-batch-size 1 \
         {rest}"
    )
}

/// The whole run, then one that dies behind its `nth` save and goes on; what the two leave.
fn whole_and_parted(world: &World, rest: &str, whole: &Contents, nth: u64, tally: &mut Tally) {
    let path = world.path("run");
    let trap = format!("abort Published {nth}");
    let told = follow(world.trapped(&line("run", rest), &trap), |_, _| {});
    assert!(
        !told.status.success(),
        "{trap} was not reached: {}",
        told.text()
    );
    tally.inject();
    let more = format!("{rest} {}", going_on(&path));
    let told = follow(world.command(&line("run", &more)), |_, _| {});
    let what = format!("`{rest}` behind save {nth}");
    if !told.status.success() {
        tally.lose(format!("{what}: {}", told.text()));
    } else if let Some(name) = first_difference(whole, &contents(&path)) {
        tally.differ(format!("{what}: {name}"));
    }
    std::fs::remove_dir_all(path).unwrap();
}

fn first_difference(want: &Contents, found: &Contents) -> Option<String> {
    let names = want.keys().chain(found.keys());
    let differs = names
        .into_iter()
        .find(|name| want.get(*name) != found.get(*name));
    differs.map(|name| name.display().to_string())
}

/// With and without dropout, accumulation 1 and 3, across epochs of four rows.
#[test]
fn resume_after_every_step_of_the_command_gives_the_same_bytes() {
    let (world, mut tally) = (World::new(), Tally::new());
    for (dropout, accumulation) in [(0.0, 1), (0.0, 3), (0.1, 1), (0.1, 3)] {
        let rest = format!(
            "--max-steps 41 --save-steps 1 --save-total-limit 2 --logging-steps 3 --threads 1 --weight-decay 0.1 --learning-rate 0.01 \
             --warmup-steps 4 --lora-dropout {dropout} --gradient-accumulation-steps {accumulation}"
        );
        world.must(&line("run", &rest));
        let whole = contents(&world.path("run"));
        std::fs::remove_dir_all(world.path("run")).unwrap();
        for nth in (0..41).step_by(reach(13, 1, 1) as usize) {
            whole_and_parted(&world, &rest, &whole, nth, &mut tally);
        }
    }
    finish(33, "resume of the command after every step", &tally, 16);
}

#[test]
fn threads_and_repetition_change_no_byte() {
    let (mut threads, mut again) = (Tally::new(), Tally::new());
    for family in ["bloom", "gpt2", "llama", "mistral", "qwen2"] {
        let world = World::of(family);
        for rest in [
            "--max-steps 12 --save-steps 5 --lora-dropout 0.2 --gradient-accumulation-steps 2",
            "--max-steps 12 --save-steps 5 --target-modules all-linear --bias lora_only --r 3 --lora-alpha 5",
        ] {
            let ran = |threads: u32| {
                world.must(&line("run", &format!("{rest} --threads {threads}")));
                let found = contents(&world.path("run"));
                std::fs::remove_dir_all(world.path("run")).unwrap();
                found
            };
            let one = ran(1);
            let several: Option<String> =
                [2, 4].iter().find_map(|n| first_difference(&one, &ran(*n)));
            threads.inject();
            if let Some(name) = several {
                threads.differ(format!("{family}, {rest}: {name}"));
            }
            again.inject();
            if let Some(name) = first_difference(&one, &ran(1)) {
                again.differ(format!("{family}, {rest}: {name}"));
            }
        }
    }
    finish(34, "1, 2 and 4 threads of the command", &threads, 10);
    finish(35, "the same command twice", &again, 10);
}

fn saves_told(told: &Told) -> u64 {
    let saves = told.lines.iter().filter(|line| line.starts_with("saved `"));
    saves.count() as u64
}

/// How long evaluations took stands in files of which others hold digests and sizes.
fn comparable(mut files: Contents) -> Contents {
    files
        .retain(|path, _| !path.ends_with("manifest.json") && !path.ends_with("resume_state.json"));
    files
}

#[test]
fn schedule_early_stop_and_best_metric_go_on() {
    let (world, mut tally) = (World::new(), Tally::new());
    let evaluating = "--max-steps 36 --save-steps 3 --save-total-limit 2 --logging-steps 2 --threads 1 \
        --eval-dataset rows.jsonl --eval-strategy steps --eval-steps 3 --load-best-model-at-end true --lora-dropout 0.1";
    for more in [
        "--lr-scheduler-type cosine --warmup-steps 4",
        "--lr-scheduler-type constant --early-stopping-patience 2 --learning-rate 0.9",
        "--train-sampling-strategy sequential",
    ] {
        let rest = format!("{evaluating} {more}");
        let told = world.must(&line("run", &rest));
        let whole = comparable(contents(&world.path("run")));
        std::fs::remove_dir_all(world.path("run")).unwrap();
        for nth in (0..saves_told(&told)).step_by(reach(5, 1, 1) as usize) {
            let (path, trap) = (world.path("run"), format!("abort Published {nth}"));
            let told = follow(world.trapped(&line("run", &rest), &trap), |_, _| {});
            // Each save is a checkpoint's; the line that tells of it comes behind the trap.
            let died = told.status.signal() == Some(6) && saves_told(&told) == nth;
            assert!(died, "{trap}: {:?}: {}", told.status, told.text());
            tally.inject();
            let told = follow(
                world.command(&line("run", &format!("{rest} {}", going_on(&path)))),
                |_, _| {},
            );
            let what = format!("`{more}` behind save {nth}");
            if !told.status.success() {
                tally.lose(format!("{what}: {}", told.text()));
            } else if let Some(name) = first_difference(&whole, &comparable(contents(&path))) {
                tally.differ(format!("{what}: {name}"));
            }
            std::fs::remove_dir_all(path).unwrap();
        }
    }
    finish(36, "schedule, early stop, best of the command", &tally, 6);
}

fn row(instruction: &str, output: &str) -> String {
    let row = serde_json::json!({"instruction": instruction, "input": "", "output": output});
    format!("{row}\n")
}

/// Rows, `--max-length`, whether it trains, and what is said of them.
fn odd_rows() -> Vec<(String, u32, bool, &'static [&'static str])> {
    let plain = row("Say hello.", "Hello there!");
    let long = row("Tell.", &"a b c ".repeat(2_000));
    let full = row(&"Tell a story. ".repeat(100), "No.");
    vec![
        (String::new(), 64, false, &["error: ", "mend: "]),
        ("\n\n".into(), 64, false, &["error: ", "mend: "]),
        (row("", ""), 64, true, &["1 rows"]),
        (plain.clone() + &row("", ""), 64, true, &["2 rows"]),
        (row("Say a.", "a"), 64, true, &["1 rows"]),
        (row("Say nothing.", ""), 64, true, &["1 rows"]),
        (
            long.clone(),
            64,
            true,
            &["1 rows are cut at max_length 64", "1 of them lose"],
        ),
        (
            plain.clone() + &long,
            64,
            true,
            &["2 rows", "1 rows are cut"],
        ),
        (
            full.clone(),
            16,
            false,
            &["1 rows have nothing to learn", "mend: "],
        ),
        (
            plain.clone() + &full,
            64,
            true,
            &["1 rows have nothing to learn"],
        ),
        (
            plain.repeat(3) + &full + &long,
            64,
            true,
            &["5 rows", "2 rows are cut", "1 rows have nothing"],
        ),
        (row("數", "數據分析師 😀"), 64, true, &["1 rows"]),
        (
            plain.clone() + "{}\n",
            64,
            false,
            &["error: ", "line 2", "mend: "],
        ),
    ]
}

#[test]
fn odd_rows_are_learnt_cut_or_refused_and_counted() {
    let (world, mut tally) = (World::new(), Tally::new());
    for (number, (rows, max_length, trains, says)) in odd_rows().into_iter().enumerate() {
        world.write("rows.jsonl", &rows);
        let output = format!("rows-{number}");
        let rest =
            format!("--max-steps 3 --save-steps 3 --logging-steps 1 --max-length {max_length}");
        let told = follow(world.command(&line(&output, &rest)), |_, _| {});
        tally.inject();
        let said = says.iter().all(|text| told.says(text));
        let sane = !told.says("NaN") && !told.says("inf") && !told.says("panicked");
        if told.status.success() != trains || !said || !sane {
            tally.differ(format!("rows {number}: {says:?}: {}", told.text()));
        }
    }
    finish(42, "odd rows of the command", &tally, 12);
}
