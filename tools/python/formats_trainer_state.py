"""Makes crates/formats/tests/fixtures/trainer_state: texts that transformers' TrainerState writes.

python tools/python/formats_trainer_state.py crates/formats/tests/fixtures/trainer_state
"""

import pathlib
import sys

from transformers.trainer_callback import TrainerState


def main():
    folder = pathlib.Path(sys.argv[1])
    TrainerState().save_to_json(str(folder / "default.json"))
    state = TrainerState(
        best_metric=float("-inf"),
        epoch=0.08,
        eval_steps=0.5,
        global_step=10,
        log_history=[
            {"step": 10, "loss": 3.2596, "learning_rate": 4.64e-05, "grad_norm": float("nan"), "epoch": 0.08}
        ],
        stateful_callbacks={"TrainerControl": {"a": None}},
        total_flos=4.41928450768896e17,
        trial_name="é",
    )
    state.save_to_json(str(folder / "full.json"))


main()
