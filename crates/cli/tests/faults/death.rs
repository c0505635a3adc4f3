//! A1 to A8, A10: the process is killed, told to stop, or falls over by itself.

use std::time::Duration;

use durable::Point;
use durable::faults::{Dice, Tally};
use rustix::process::Signal;

use crate::run::*;

/// A tenth of the kills is in the start, before the first line.
#[test]
fn killed_at_any_time_loses_nothing() {
    let kills = reach(6, 200, 200);
    let (world, mut tally) = (World::new(), Tally::new());
    let (gap, mut seed) = (whole().gap, 0);
    while tally.injected < kills {
        seed += 1;
        let (mut dice, output) = (Dice::new(seed), format!("kill-{seed}"));
        let line = words(&output, "");
        let told = if dice.chance(10) {
            killed_after(
                world.command(&line),
                gap.mul_f64(dice.below(4_000) as f64 / 1_000.0),
            )
        } else {
            world.killed_somewhere(&line, &mut dice)
        };
        let (path, what) = (world.path(&output), format!("seed {seed}"));
        if told.was_killed() {
            tally.inject();
            check(&path, told.saved(), &mut tally, &what);
        }
        world.ends_the_same(&output, &mut tally, &what);
    }
    println!("kills at any time: seeds 1 to {seed}");
    finish(1, "SIGKILL of the command", &tally, kills);
}

/// In the first save, a later one without and one with retention; some points come once for each file.
#[test]
fn aborted_at_each_point_loses_nothing() {
    let (world, mut tally) = (World::new(), Tally::new());
    for nth in &[12, 0, 1][..reach(1, 3, 3) as usize] {
        for point in Point::ALL {
            let (output, what) = (format!("abort-{point:?}-{nth}"), format!("{point:?} {nth}"));
            let told = follow(
                world.trapped(&words(&output, ""), &format!("abort {what}")),
                |_, _| {},
            );
            assert!(!told.status.success(), "{what} was not reached");
            tally.inject();
            check(&world.path(&output), told.saved(), &mut tally, &what);
            world.ends_the_same(&output, &mut tally, &what);
        }
    }
    finish(2, "abort of the command", &tally, 14);
}

/// Scanning, verifying, loading: nothing on disk may change.
#[test]
fn killed_while_resuming_changes_nothing() {
    let kills = reach(3, 50, 50);
    let world = World::new();
    let path = world.half_in("resuming");
    let before = contents(&path);
    let line = words("resuming", "--resume-from-checkpoint latest");
    let mut start = Duration::ZERO;
    let clock = std::time::Instant::now();
    follow(world.command(&line), |text, child| {
        if text.starts_with("resumed from") && start.is_zero() {
            start = clock.elapsed();
            send(child, Signal::KILL);
        }
    });
    std::fs::remove_dir_all(&path).unwrap();
    put_tree(half(), &path);
    let (mut tally, mut dice) = (Tally::new(), Dice::new(3));
    while tally.injected < kills {
        let told = killed_after(world.command(&line), part_of(start, &mut dice));
        let what = format!("kill {}", tally.injected);
        if told.says("resumed from") {
            std::fs::remove_dir_all(&path).unwrap();
            put_tree(half(), &path); // too late: it was at work
            continue;
        }
        tally.inject();
        if checkpoints(&contents(&path)) != checkpoints(&before) {
            tally.differ(format!("{what}: a checkpoint changed"));
        }
    }
    world.ends_the_same("resuming", &mut tally, "after all kills");
    finish(3, "SIGKILL of the command while it resumes", &tally, kills);
}

/// Each dies in the next save of the one before.
#[test]
fn chains_of_deaths_end_the_same() {
    let chains = reach(1, 10, 10);
    let (world, mut tally) = (World::new(), Tally::new());
    for chain in 0..chains {
        let (mut dice, output) = (Dice::new(400 + chain), format!("chain-{chain}"));
        let path = world.path(&output);
        for depth in 0..5 {
            let more = going_on(&path);
            let point = Point::ALL[dice.below(9)];
            let trap = format!("abort {point:?} {}", 1 + dice.below(6));
            let told = follow(world.trapped(&words(&output, more), &trap), |_, _| {});
            assert!(!told.status.success(), "{trap} was not reached");
            check(
                &path,
                told.saved(),
                &mut tally,
                &format!("chain {chain}, {depth} deep"),
            );
        }
        tally.inject();
        world.ends_the_same(&output, &mut tally, &format!("chain {chain}"));
    }
    finish(4, "chains of the command, 5 deep", &tally, chains);
}

#[test]
fn a_signal_at_any_step_saves_and_goes_on_to_the_same_bytes() {
    let signals = reach(4, 50, 50);
    let (lines, gap) = (whole().lines, whole().gap);
    let (world, mut tally, mut seed) = (World::new(), Tally::new(), 0);
    while tally.injected < signals {
        seed += 1;
        let (mut dice, output) = (Dice::new(500 + seed), format!("signal-{seed}"));
        let (signal, code) = if seed % 2 == 0 {
            (Signal::INT, 130)
        } else {
            (Signal::TERM, 143)
        };
        let (at, wait) = (12 + dice.below(lines - 14), part_of(gap, &mut dice));
        let (mut count, mut sent) = (0, None);
        let told = follow(world.command(&words(&output, "")), |_, child| {
            if count == at {
                spin(wait);
                send(child, signal);
                sent = Some(std::time::Instant::now());
            }
            count += 1;
        });
        let (what, late) = (
            format!("seed {seed}"),
            sent.is_none_or(|sent| sent.elapsed() > Duration::from_secs(10)),
        );
        if !told.status.success() {
            tally.inject();
            if told.status.code() != Some(code)
                || late
                || !told.says("interrupted; everything is in")
            {
                tally.differ(format!("{what}: {:?}: {}", told.status, told.text()));
            }
            check(&world.path(&output), told.saved(), &mut tally, &what);
        }
        world.ends_the_same(&output, &mut tally, &what);
    }
    finish(5, "SIGTERM or SIGINT to the command", &tally, signals);
}

/// The first signal's own save is stopped at a point of the protocol; there the second one comes.
#[test]
fn a_second_interrupt_in_the_save_ends_at_once_and_loses_nothing() {
    let signals = reach(2, 20, 20);
    let (world, mut tally) = (World::new(), Tally::new());
    for number in 0..signals {
        let (mut dice, output) = (Dice::new(600 + number), format!("twice-{number}"));
        let path = world.half_in(&output);
        let point = Point::ALL[number as usize % 9];
        // Files are made before the save too, when the folder is tried out.
        let nth = if point.comes_for_each_file() { 3 } else { 0 };
        let line = words_saving(1_000, &output, "--resume-from-checkpoint latest");
        let (mut asked, mut second) = (false, None);
        let told = follow(
            world.trapped(&line, &format!("stop {point:?} {nth}")),
            |text, child| {
                // Behind an update: a run that is stopped at once has nothing to save.
                if text.contains("'loss'") && !std::mem::replace(&mut asked, true) {
                    spin(Duration::from_micros(dice.below(5_000) as u64));
                    send(child, Signal::INT);
                } else if text.starts_with("stopped at") {
                    await_stop(child);
                    send(child, Signal::INT);
                    send(child, Signal::CONT);
                    second = Some(std::time::Instant::now());
                }
            },
        );
        tally.inject();
        let what = format!("{point:?}, number {number}");
        let prompt = second.is_some_and(|second| second.elapsed() < Duration::from_secs(1));
        if told.status.code() != Some(130) || !prompt || told.says("interrupted; everything") {
            tally.differ(format!("{what}: {:?}: {}", told.status, told.text()));
        }
        check(&path, 30, &mut tally, &what);
        world.ends_the_same(&output, &mut tally, &what);
    }
    finish(6, "a second SIGINT to the command", &tally, signals);
}

/// Behind the last checkpoint: retention, summary, the adapter in the run's own folder.
#[test]
fn killed_during_the_last_adapter_save_loses_nothing() {
    let kills = reach(3, 50, 50);
    let (world, mut tally, mut seed) = (World::new(), Tally::new(), 0);
    let last = format!("checkpoint-{STEPS}`");
    let (mut clock, mut rest) = (None, Duration::ZERO);
    let told = follow(world.command(&words("last", "")), |text, _| {
        if text.starts_with("saved") && text.contains(&last) {
            clock = Some(std::time::Instant::now());
        }
    });
    rest += clock.expect("the last save is told").elapsed();
    assert!(told.status.success());
    while tally.injected < kills {
        seed += 1;
        let (mut dice, output) = (Dice::new(800 + seed), format!("last-{seed}"));
        let path = world.path(&output);
        put_tree(nearly_whole(), &path);
        let wait = part_of(rest, &mut dice);
        let line = words(&output, "--resume-from-checkpoint latest");
        let told = follow(world.command(&line), |text, child| {
            if text.starts_with("saved") && text.contains(&last) {
                spin(wait);
                send(child, Signal::KILL);
            }
        });
        let what = format!("seed {seed}");
        if told.was_killed() {
            tally.inject();
            check(&path, STEPS, &mut tally, &what);
        }
        world.ends_the_same(&output, &mut tally, &what);
    }
    finish(8, "SIGKILL of the command in its last save", &tally, kills);
}

/// Runs with a trap that panics; how it ended, and when the trap sprang, if it did.
fn panicking(world: &World, output: &str, trap: &str) -> (Told, Option<std::time::Instant>) {
    let mut thrown = None;
    let command = world.trapped(&words(output, ""), &format!("panic {trap}"));
    let told = follow(command, |text, _| {
        if text.contains("a trap at") {
            thrown = Some(std::time::Instant::now());
        }
    });
    (told, thrown)
}

/// Nothing of ours runs beside the loop: data, log and save are its own thread. So a panic is forced in the save, and, by the
/// next test, wherever else the command touches a file. (A panic of the threads that compute or write is the caller's:
/// `kernels::threads`, `durable::behind`.)
#[test]
fn a_panic_in_a_save_ends_the_process_and_loses_nothing() {
    let panics = reach(3, 20, 20);
    let (world, mut tally) = (World::new(), Tally::new());
    for number in 0..panics {
        let (point, nth) = (Point::ALL[number as usize % 14], number);
        let (output, what) = (format!("panic-{number}"), format!("{point:?} {nth}"));
        let (told, thrown) = panicking(&world, &output, &what);
        tally.inject();
        let prompt = thrown.is_some_and(|thrown| thrown.elapsed() < Duration::from_secs(5));
        if told.status.code() != Some(101) || !prompt {
            tally.differ(format!("{what}: {:?}: {}", told.status, told.text()));
        }
        check(&world.path(&output), told.saved(), &mut tally, &what);
        world.ends_the_same(&output, &mut tally, &what);
    }
    finish(10, "panic in the command's save", &tally, panics);
}

/// Model, tokenizer, rows, log, saves, retention, the last adapter: a panic at any of the things done to files.
#[test]
fn a_panic_anywhere_ends_the_process_and_loses_nothing() {
    let panics = reach(4, 40, 100);
    let (world, mut tally, mut seed) = (World::new(), Tally::new(), 0);
    while tally.injected < panics {
        seed += 1;
        let (mut dice, output) = (Dice::new(1_000 + seed), format!("anywhere-{seed}"));
        // A tenth is in the start, where most kinds of files are opened.
        let nth = if dice.chance(10) {
            dice.below(60)
        } else {
            dice.below(1_500)
        };
        let what = format!("operation {nth}");
        let (told, thrown) = panicking(&world, &output, &what);
        if let Some(thrown) = thrown {
            tally.inject();
            let late = thrown.elapsed() > Duration::from_secs(5);
            if told.status.code() != Some(101) || late {
                tally.differ(format!("{what}: {:?}: {}", told.status, told.text()));
            }
        } else if !told.status.success() {
            tally.differ(format!("{what}, no panic: {}", told.text()));
        }
        check(&world.path(&output), told.saved(), &mut tally, &what);
        world.ends_the_same(&output, &mut tally, &what);
    }
    finish(10, "panic anywhere in the command", &tally, panics);
}
