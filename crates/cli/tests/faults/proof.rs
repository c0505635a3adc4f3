//! A merged folder that is not any more what was written, when it comes to its proof.

use std::path::Path;

use rustix::process::Signal;

use crate::run::*;

const WEIGHTS: &str = "merged/model.safetensors";

/// Changes every value of one tensor.
fn change(path: &Path, value: impl Fn(f32) -> f32) {
    let mut tensors = testkit::read_tensors(path);
    let weight = tensors.get_mut("transformer.h.1.mlp.dense_h_to_4h.weight");
    let values = weight.unwrap().values.iter_mut();
    values.for_each(|one| *one = value(*one));
    testkit::write_tensors(path, &tensors);
}

/// Damage, and what the command says of it.
type Case = (fn(&World), &'static str);

const CASES: [Case; 4] = [
    (
        |world| change(&world.path(WEIGHTS), |value| 1.5 * value),
        "  because: the merged model is not the adapter's: logits differ by ",
    ),
    (
        |world| change(&world.path(WEIGHTS), |_| f32::NAN),
        "  because: the merged model is not the adapter's: logits differ by NaN",
    ),
    // What was merged into, as if nothing had been folded in.
    (
        |world| {
            std::fs::copy(world.path("model/model.safetensors"), world.path(WEIGHTS)).unwrap();
        },
        "  because: the merged model is not the adapter's: logits differ by ",
    ),
    (
        |world| {
            let bytes = std::fs::read(world.path(WEIGHTS)).unwrap();
            std::fs::write(world.path(WEIGHTS), &bytes[..bytes.len() / 2]).unwrap();
        },
        "  because: `merged/model.safetensors`: the tensors need ",
    ),
];

/// The command stops itself behind the merge, and goes on when the damage is done.
#[test]
fn a_merged_folder_that_says_something_else_fails_the_command_and_stays() {
    let world = World::new();
    put_tree(&whole().contents, &world.path("lora"));
    let inputs = || (tree(&world.path("model")), tree(&world.path("lora")));
    let before = inputs();
    for (damage, because) in CASES {
        let line = "merge --model model --adapter lora --output merged --prompt hello";
        let mut damaged = Contents::new();
        let told = follow(world.trapped(line, "stop Published 0"), |text, child| {
            if text.starts_with("stopped at") {
                await_stop(child);
                damage(&world);
                damaged = tree(&world.path("merged"));
                send(child, Signal::CONT);
            }
        });
        assert_eq!(told.status.code(), Some(1), "{}", told.text());
        for said in [
            "error: `merged` is written, but not proved to say the same",
            because,
            "mend: ",
        ] {
            assert!(told.says(said), "{said}: {}", told.text());
        }
        assert!(!told.says("agree"), "{}", told.text());
        assert!(tree(&world.path("merged")) == damaged, "{because}");
        assert!(inputs() == before, "{because}");
        std::fs::remove_dir_all(world.path("merged")).unwrap();
    }
    // Undisturbed, the same merge is proved.
    world.must("merge --model model --adapter lora --output merged --prompt hello");
}
