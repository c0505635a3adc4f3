//! A7: merges that are killed, and what else is staged beside an output or in it.

use durable::Point;
use durable::faults::{Dice, Tally};
use rustix::process::Signal;

use crate::places::is_tidy;
use crate::run::*;

#[test]
fn a_killed_merge_leaves_all_or_nothing() {
    let kills = reach(4, 50, 50);
    let (world, mut tally) = (World::new(), Tally::new());
    put_tree(&whole().contents, &world.path("lora"));
    let line = |output: &str| {
        format!(
            "merge --model model --adapter lora --output {output} --no-proof --max-shard-bytes 40000"
        )
    };
    let clock = std::time::Instant::now();
    world.must(&line("want"));
    let (time, want) = (clock.elapsed(), tree(&world.path("want")));
    let inputs = (tree(&world.path("model")), tree(&world.path("lora")));
    let (mut seed, mut strays) = (0, 0);
    while tally.injected < kills {
        seed += 1;
        let mut dice = Dice::new(700 + seed);
        let point = Point::ALL[dice.below(9)];
        let told = if dice.chance(50) {
            killed_after(world.command(&line("merged")), part_of(time, &mut dice))
        } else {
            follow(
                world.trapped(
                    &line("merged"),
                    &format!("abort {point:?} {}", dice.below(4)),
                ),
                |_, _| {},
            )
        };
        let (output, what) = (world.path("merged"), format!("seed {seed}, {point:?}"));
        if !told.status.success() {
            tally.inject();
        }
        if output.exists() && tree(&output) != want {
            tally.differ(format!("{what}: not complete"));
        }
        if (tree(&world.path("model")), tree(&world.path("lora"))) != inputs {
            tally.differ(format!("{what}: an input changed"));
        }
        if !output.exists() {
            strays += staged(&world, "merged").len();
            world.must(&line("merged"));
            if tree(&output) != want {
                tally.differ(format!("{what}: the next merge is another"));
            }
        }
        if !staged(&world, "merged").is_empty() {
            tally.differ(format!("{what}: its staging folder stays"));
        }
        std::fs::remove_dir_all(&output).unwrap();
    }
    assert!(strays > 0, "the kills miss what they are for");
    finish(7, "SIGKILL and abort of a merge", &tally, kills);
}

/// What was staged for an output beside it.
fn staged(world: &World, output: &str) -> Vec<String> {
    let entries = durable::list_dir(world.path("")).unwrap().into_iter();
    let prefix = format!(".staging-{output}-");
    let named = entries.filter(|entry| entry.name.starts_with(&prefix));
    named.map(|entry| entry.name).collect()
}

/// One is stopped in its work while another, to the same output, comes and goes.
#[test]
fn a_merge_at_work_keeps_its_staging_folder() {
    let (world, mut tally) = (World::new(), Tally::new());
    put_tree(&whole().contents, &world.path("lora"));
    let line = "merge --model model --adapter lora --output merged --no-proof";
    for point in ["StagingCreated", "FileWritten", "FileSynced"] {
        let told = follow(
            world.trapped(line, &format!("stop {point} 0")),
            |text, child| {
                if text.starts_with("stopped at") {
                    await_stop(child);
                    assert_eq!(staged(&world, "merged").len(), 1);
                    world.must(line);
                    if staged(&world, "merged").len() != 1 {
                        tally.differ(format!("{point}: the living one's folder is gone"));
                    }
                    send(child, Signal::CONT);
                }
            },
        );
        tally.inject();
        let refused = told.status.code() == Some(1) && told.says("already there");
        if !refused || !staged(&world, "merged").is_empty() {
            tally.differ(format!("{point}: {:?}: {}", told.status, told.text()));
        }
        std::fs::remove_dir_all(world.path("merged")).unwrap();
    }
    finish(7, "two merges into one folder", &tally, 3);
}

/// `--verify-resume` works beside an output folder to come, and inside of one that is there; the next run into that folder
/// removes what a dead one left there.
#[test]
fn what_a_killed_check_left_is_removed_by_the_next_run() {
    let (world, mut tally) = (World::new(), Tally::new());
    for (point, there) in [
        ("StagingCreated 0", false),
        ("FileSynced 3", true),
        ("Renamed 1", false),
        ("Renamed 1", true),
    ] {
        let path = world.path("checked");
        if there {
            std::fs::create_dir(&path).unwrap();
        }
        let left = || {
            let inside = path.is_dir() && !is_tidy(&path);
            (staged(&world, "checked").len(), inside)
        };
        let line = words("checked", "--verify-resume");
        let told = follow(world.trapped(&line, &format!("abort {point}")), |_, _| {});
        tally.inject();
        let want = if there { (0, true) } else { (1, false) };
        if told.status.success() || left() != want {
            tally.differ(format!("{point}: {:?}: {}", told.status, told.text()));
        }
        world.must(&words("checked", ""));
        if left() != (0, false) {
            tally.differ(format!("{point}: it stays"));
        }
        same_as_whole(&path, &mut tally, point);
        std::fs::remove_dir_all(path).unwrap();
    }
    finish(29, "strays of a killed check", &tally, 4);
}
