//! A9, B12, B17 to B22: limits of the system, full disks, odd places, clocks that lie.
//!
//! Mounts are made in a mount namespace of the test's own; where the system forbids one, the test says so.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use durable::CheckpointStore;
use durable::faults::Tally;
use rustix::process::Signal;

use crate::run::*;

const GO_ON: &str = "--resume-from-checkpoint latest";

/// The command inside a shell script, in which it is `"$@"`.
fn by_shell(world: &World, script: &str, line: &str) -> Command {
    let inner = world.command(line);
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh"]).arg(inner.get_program());
    shell.args(inner.get_args());
    shell.current_dir(inner.get_current_dir().unwrap());
    shell.env_remove("COLUMNS").stdin(Stdio::null());
    shell.stdout(Stdio::null()).stderr(Stdio::piped());
    shell
}

/// The same in a mount namespace; `None`, and a word about it, where there is none to be had.
fn in_namespace(world: &World, row: u8, script: &str, line: &str) -> Option<Command> {
    let probe = "unshare -m sh -c 'mount -t tmpfs tmpfs /mnt' 2>/dev/null";
    let has = Command::new("sh").args(["-c", probe]).status();
    if !has.is_ok_and(|status| status.success()) {
        println!("row {row}: skipped: no mount namespace");
        return None;
    }
    let script = format!("exec unshare -m sh -c '{script}' sh \"$@\"");
    Some(by_shell(world, &script, line))
}

pub(crate) fn is_tidy(output: &Path) -> bool {
    let listing = CheckpointStore::new(output).list().unwrap();
    listing.strays.is_empty()
}

/// Failed, and said what, where and how much.
fn told_no_space(told: &Told) -> bool {
    told.status.code() == Some(1)
        && told.says("error: no space to write")
        && told.says("bytes needed")
}

/// A run whose steps need much more than its start.
fn hungry(output: &str, more: &str) -> String {
    format!(
        "train --model model --dataset long.jsonl --output-dir {output} --max-steps 3 --save-steps 1 --threads 1 \
         --max-length 500 --max-tokens-per-pass 2000 --per-device-train-batch-size 4 --lora-dropout 0.1 {more}"
    )
}

/// The smallest limit in KiB, nearly, that `does` what is asked.
fn least_memory(does: impl Fn(u64) -> bool) -> u64 {
    let (mut too_little, mut enough) = (1 << 12, 1 << 19);
    while enough - too_little > enough / 30 {
        let middle = (too_little + enough) / 2;
        if does(middle) {
            enough = middle;
        } else {
            too_little = middle;
        }
    }
    enough
}

/// Limits between what the start of the run needs and what its steps need.
#[test]
fn too_little_memory_in_a_step_loses_nothing() {
    let limits = reach(3, 10, 10);
    let (world, mut tally) = (World::new(), Tally::new());
    let row =
        serde_json::json!({"instruction": "Tell.", "input": "", "output": "a b c ".repeat(2_000)});
    world.write("long.jsonl", &format!("{row}\n").repeat(4));
    world.must(&hungry("want", ""));
    let want = contents(&world.path("want"));
    follow(
        world.trapped(&hungry("begun", ""), "abort Published 0"),
        |_, _| {},
    );
    let begun = tree(&world.path("begun"));
    let limited = |kib: u64| {
        let _ = std::fs::remove_dir_all(world.path("limited"));
        put_tree(&begun, &world.path("limited"));
        let script = format!("ulimit -v {kib}; exec \"$@\"");
        follow(
            by_shell(&world, &script, &hungry("limited", GO_ON)),
            |_, _| {},
        )
    };
    let starts = least_memory(|kib| limited(kib).says("resumed from"));
    let works = least_memory(|kib| limited(kib).status.success());
    let mut at_work = 0;
    for number in 0..limits {
        let kib = starts + (works - starts) * number / limits * 9 / 10;
        let (told, what) = (limited(kib), format!("{kib} of {starts} to {works} KiB"));
        tally.inject();
        at_work += u64::from(told.says("resumed from"));
        if told.status.success() || told.says("panicked") {
            tally.differ(format!("{what}: {:?}: {}", told.status, told.text()));
        }
        check(&world.path("limited"), 0, &mut tally, &what);
        let told = follow(world.command(&hungry("limited", GO_ON)), |_, _| {});
        if !told.status.success() || contents(&world.path("limited")) != want {
            tally.lose(format!("{what}, then: {}", told.text()));
        }
    }
    println!(
        "memory: {at_work} of {limits} limits hit a run at work, between {starts} and {works} KiB"
    );
    assert!(at_work * 2 > limits, "the limits miss what they are for");
    finish(9, "memory limit of the command", &tally, limits);
}

/// The run stops itself behind a save, the disk is filled but for some KiB, the run goes on.
#[test]
fn a_disk_that_fills_up_loses_nothing() {
    let fills = reach(3, 20, 20);
    let (world, mut tally) = (World::new(), Tally::new());
    for number in 0..fills {
        let (leave, output) = (number * 80 / fills, format!("full-{number}"));
        let copy = world.half_in(&format!("{output}-copy"));
        std::fs::create_dir(world.path(&output)).unwrap();
        let script = format!(
            "mount -t tmpfs -o size=80m tmpfs {output} || exit 99; cp -a {output}-copy/. {output}/; \
             LOWRANK_TRAP=\"stop Published 0\" \"$@\" 2>talk-{number} & pid=$!; \
             until grep -q \"^State:.T\" /proc/$pid/status; do :; done; \
             free=$(df -k {output} | tail -1 | tr -s \" \" | cut -d \" \" -f 4); \
             head -c $(((free - {leave}) * 1024)) /dev/zero >{output}/filler; \
             kill -CONT $pid; wait $pid; code=$?; rm {output}/filler; rm -r {output}-copy; \
             cp -a {output} {output}-copy; cat talk-{number} >&2; exit $code"
        );
        let Some(command) = in_namespace(&world, 12, &script, &words(&output, GO_ON)) else {
            return;
        };
        let told = follow(command, |_, _| {});
        tally.inject();
        let what = format!("{leave} KiB left");
        if !(told.status.success() || told_no_space(&told)) || !is_tidy(&copy) {
            tally.differ(format!("{what}: {:?}: {}", told.status, told.text()));
        }
        check(&copy, told.saved().max(30), &mut tally, &what);
        world.ends_the_same(&format!("{output}-copy"), &mut tally, &what);
    }
    finish(12, "a full tmpfs under the command", &tally, fills);
}

#[test]
fn a_place_that_cannot_be_written_is_refused_before_the_first_update() {
    let (world, mut tally) = (World::new(), Tally::new());
    world.write("taken", "x");
    std::os::unix::fs::symlink("nowhere", world.path("dangling")).unwrap();
    world.write("there/notes.txt", "someone's");
    let refused = |told: &Told, what: &str, tally: &mut Tally| {
        tally.inject();
        let plain = told.status.code() == Some(1) && told.says("error: ") && told.says("mend: ");
        if !plain || told.saved() > 0 || told.says("'loss'") {
            tally.differ(format!("{what}: {:?}: {}", told.status, told.text()));
        }
    };
    for output in ["taken", "taken/under", "dangling/under", "/proc/lowrank"] {
        let told = follow(world.command(&words(output, "")), |_, _| {});
        refused(&told, output, &mut tally);
    }
    for (output, made) in [("there", ""), ("made", "mkdir there/made; ")] {
        let output = if made.is_empty() {
            output
        } else {
            "there/made"
        };
        let script = format!(
            "{made}mount --bind there there && mount -o remount,bind,ro there || exit 99; exec \"$@\""
        );
        if let Some(command) = in_namespace(&world, 17, &script, &words(output, "")) {
            refused(&follow(command, |_, _| {}), output, &mut tally);
        }
    }
    finish(17, "places that the command cannot write", &tally, 4);
}

#[test]
fn another_file_system_than_that_of_temporary_files_does_as_well() {
    let (world, mut tally) = (World::new(), Tally::new());
    let other = tempfile::tempdir_in(std::env::temp_dir()).unwrap();
    let output = other.path().join("run");
    world.must(&words(&output.display().to_string(), ""));
    tally.inject();
    same_as_whole(&output, &mut tally, "the disk of temporary files");
    std::fs::create_dir(world.path("mounted")).unwrap();
    let script =
        "mount -t tmpfs -o size=96m tmpfs mounted || exit 99; \"$@\" && cp -a mounted mounted-copy";
    if let Some(command) = in_namespace(&world, 18, script, &words("mounted", "")) {
        let told = follow(command, |_, _| {});
        assert!(told.status.success(), "{}", told.text());
        tally.inject();
        same_as_whole(
            &world.path("mounted-copy"),
            &mut tally,
            "a file system in memory",
        );
    }
    finish(18, "output on other file systems", &tally, 1);
}

#[test]
fn odd_output_paths_are_refused_or_followed() {
    let (world, mut tally) = (World::new(), Tally::new());
    let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, world.path(name)).unwrap();
    world.write("real/notes.txt", "someone's");
    world.write("file", "x");
    world.write("foreign/checkpoint-9/model.bin", "another program's");
    world.write("stray/checkpoint-9", "a file");
    link("real", "link");
    link("nowhere", "dangling");
    link("file", "link-to-file");
    link("loop", "loop");
    assert!(
        Command::new("mkfifo")
            .arg(world.path("pipe"))
            .status()
            .unwrap()
            .success()
    );
    let refused = [
        "file",
        "dangling",
        "link-to-file",
        "loop",
        "pipe",
        "foreign",
        "link/notes.txt",
    ];
    for output in refused {
        let told = follow(world.command(&words(output, "")), |_, _| {});
        tally.inject();
        let plain = told.status.code() == Some(1) && told.says("error: ") && told.says("mend: ");
        if !plain || told.says("'loss'") {
            tally.differ(format!("{output}: {:?}: {}", told.status, told.text()));
        }
    }
    for output in ["link", "stray", "new/deep/slash/", "ünï-コード"] {
        world.must(&words(output, ""));
        tally.inject();
        let (path, last) = (
            world.path(output),
            format!("checkpoint-{STEPS}/adapter_model.safetensors"),
        );
        if tree(&path).get(Path::new(&last)) != whole().contents.get(Path::new(&last)) {
            tally.differ(format!("{output}: other bytes"));
        }
    }
    let kept = std::fs::read_to_string(world.path("real/notes.txt")).unwrap();
    assert_eq!(
        (kept.as_str(), world.path("nowhere").exists()),
        ("someone's", false)
    );
    finish(19, "odd output paths of the command", &tally, 10);
}

#[test]
fn file_size_limit_of_the_system_is_an_error_and_loses_nothing() {
    let (world, mut tally) = (World::new(), Tally::new());
    for blocks in [0, 1, 4, 16, 24] {
        let output = format!("size-{blocks}");
        let path = world.half_in(&output);
        let script = format!("ulimit -f {blocks}; exec \"$@\"");
        let told = follow(by_shell(&world, &script, &words(&output, GO_ON)), |_, _| {});
        tally.inject();
        let what = format!("{blocks} blocks");
        if !told_no_space(&told) || (blocks > 0 && !is_tidy(&path)) {
            tally.differ(format!("{what}: {:?}: {}", told.status, told.text()));
        }
        check(&path, 30, &mut tally, &what);
        world.ends_the_same(&output, &mut tally, &what);
    }
    finish(20, "RLIMIT_FSIZE of the command", &tally, 5);
}

/// `save_failure`: `warn`. From the last but one save on no file may be as large as the optimizer's state.
#[cfg(target_os = "linux")]
#[test]
fn a_run_whose_last_save_failed_is_done_and_says_so() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let (world, mut tally) = (World::new(), Tally::new());
    for number in 0..3 {
        let (output, what) = (
            format!("warned-{number}"),
            format!("limit at save {number} of 2"),
        );
        let path = world.path(&output);
        put_tree(nearly_whole(), &path);
        let line = words_saving(1, &output, &format!("{GO_ON} --save-failure warn"));
        let trap = [
            "stop StagingCreated 0",
            "stop StagingCreated 1",
            "stop FileSynced 12",
        ][number];
        let told = follow(world.trapped(&line, trap), |text, child| {
            if text.starts_with("stopped at") {
                await_stop(child);
                let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
                let limit = Rlimit {
                    current: Some(12 << 10),
                    maximum: Some(12 << 10),
                };
                prlimit(pid, Resource::Fsize, limit).unwrap();
                send(child, Signal::CONT);
            }
        });
        tally.inject();
        let says = [
            "goes on: no space to write",
            "error: the run is done and its adapter is in",
            "step 60 was not saved",
        ];
        if told.status.code() != Some(1) || !says.iter().all(|text| told.says(text)) {
            tally.differ(format!("{what}: {:?}: {}", told.status, told.text()));
        }
        let adapter = Path::new("adapter_model.safetensors");
        if std::fs::read(path.join(adapter)).ok().as_ref() != whole().contents.get(adapter) {
            tally.differ(format!("{what}: another adapter"));
        }
        check(&path, 58, &mut tally, &what);
        world.ends_the_same(&output, &mut tally, &what);
    }
    finish(20, "a run that goes on without its last save", &tally, 3);
}

#[test]
fn space_below_need_is_refused_with_the_sum() {
    let (world, mut tally) = (World::new(), Tally::new());
    for mib in [1, 16, 48] {
        let output = format!("small-{mib}");
        std::fs::create_dir(world.path(&output)).unwrap();
        let script =
            format!("mount -t tmpfs -o size={mib}m tmpfs {output} || exit 99; exec \"$@\"");
        let Some(command) = in_namespace(&world, 21, &script, &words(&output, "")) else {
            return;
        };
        let told = follow(command, |_, _| {});
        tally.inject();
        if !told_no_space(&told) || !told.says(" free") || told.says("'loss'") {
            tally.differ(format!("{mib} MiB: {:?}: {}", told.status, told.text()));
        }
    }
    finish(21, "free space below the command's need", &tally, 3);
}

#[test]
fn the_clock_decides_nothing() {
    let (world, mut tally) = (World::new(), Tally::new());
    let day = Duration::from_secs(86_400);
    let now = SystemTime::now();
    let times: [(&str, [SystemTime; 3]); 5] = [
        ("equal", [now; 3]),
        ("backwards", [now, now - day, now - 2 * day]),
        ("the newest from 1970", [now, now, SystemTime::UNIX_EPOCH]),
        ("the oldest from tomorrow", [now + day, now, now]),
        ("all from next year", [now + 365 * day; 3]),
    ];
    for (number, (what, times)) in times.into_iter().enumerate() {
        let output = format!("clock-{number}");
        let path = world.half_in(&output);
        for (step, time) in [26, 28, 30].into_iter().zip(times) {
            let folder = path.join(format!("checkpoint-{step}"));
            let files = std::fs::read_dir(&folder)
                .unwrap()
                .map(|entry| entry.unwrap().path());
            for one in files.chain([folder.clone()]) {
                std::fs::File::open(one)
                    .unwrap()
                    .set_modified(time)
                    .unwrap();
            }
        }
        let told = world.must(&words(&output, GO_ON));
        tally.inject();
        if !told.says("checkpoint-30` after step 30") {
            tally.lose(format!("{what}: {}", told.text()));
        }
        same_as_whole(&path, &mut tally, what);
    }
    finish(22, "clocks under the command", &tally, 5);
}

/// H81, H82: the lock of a run that lives, and of one that was killed.
#[test]
fn a_second_trainer_is_refused_while_the_first_lives_and_let_in_when_it_is_dead() {
    let times = reach(2, 10, 10);
    let (world, mut refused, mut taken) = (World::new(), Tally::new(), Tally::new());
    for number in 0..times {
        let output = format!("two-{number}");
        let line = words(&output, "");
        let first = follow(
            world.trapped(&line, &format!("stop Published {number}")),
            |text, child| {
                if !text.starts_with("stopped at") {
                    return;
                }
                await_stop(child);
                let second = follow(
                    world.command(&words(&output, going_on(&world.path(&output)))),
                    |_, _| {},
                );
                refused.inject();
                if second.status.code() != Some(1)
                    || !second.says(&format!("process {} on", child.id()))
                {
                    refused.differ(second.text());
                }
                send(child, Signal::KILL);
            },
        );
        assert!(first.was_killed());
        taken.inject();
        check(&world.path(&output), first.saved(), &mut taken, &output);
        world.ends_the_same(&output, &mut taken, &output);
    }
    finish(81, "two commands, one folder", &refused, times);
    finish(82, "the lock of a killed command", &taken, times);
}

/// H83: the log is a folder, a pipe, a full device, or cannot be made.
#[test]
fn a_log_that_cannot_be_written_costs_one_warning() {
    let (world, mut tally) = (World::new(), Tally::new());
    for number in 0..5 {
        let output = format!("log-{number}");
        let log = world.path(&output).join("metrics.jsonl");
        std::fs::create_dir_all(log.parent().unwrap()).unwrap();
        match number {
            0 => std::fs::create_dir(&log).unwrap(),
            1 => assert!(Command::new("mkfifo").arg(&log).status().unwrap().success()),
            2 => std::os::unix::fs::symlink("/dev/full", &log).unwrap(),
            3 => std::os::unix::fs::symlink("nowhere/log", &log).unwrap(),
            _ => std::os::unix::fs::symlink("metrics.jsonl", &log).unwrap(),
        }
        let told = follow(world.command(&words(&output, "")), |_, _| {});
        tally.inject();
        let warnings = told
            .lines
            .iter()
            .filter(|line| line.contains("without its log"))
            .count();
        let adapter = Path::new("adapter_model.safetensors");
        let found = std::fs::read(world.path(&output).join(adapter)).ok();
        let same = found.as_ref() == whole().contents.get(adapter);
        if !told.status.success() || warnings != 1 || !same {
            tally.differ(format!(
                "log {number}: {warnings} warnings: {}",
                told.text()
            ));
        }
    }
    finish(83, "a log that the command cannot write", &tally, 5);
}

/// A folder that is in use, and one without a checkpoint to go on from: said at once, and nothing is left in them.
#[test]
fn a_refused_folder_is_left_as_it_was() {
    let (world, mut tally) = (World::new(), Tally::new());
    let path = world.half_in("refused");
    std::fs::create_dir(world.path("empty")).unwrap();
    let before = tree(&path);
    for (output, more) in [
        ("refused", ""),
        ("empty", GO_ON),
        ("empty", "--resume-from-checkpoint refused/checkpoint-29"),
    ] {
        let told = follow(world.command(&words(output, more)), |_, _| {});
        tally.inject();
        let early = !told.says("compute_dtype") && !told.says("data: ");
        if told.status.code() != Some(1) || !early || !told.says("mend: ") {
            tally.differ(format!("{output} {more}: {}", told.text()));
        }
    }
    if tree(&path) != before || !tree(&world.path("empty")).is_empty() {
        tally.differ("something is left in a refused folder".to_owned());
    }
    finish(19, "refused folders of the command", &tally, 3);
}
