"""Draws tiny models, data, LoraConfigs and TrainingArguments, runs PEFT + the Trainer and `lowrank` on each, and compares everything.

    python random_runs.py --ours LOWRANK --cases N --seed S [--keep DIR]

Cases S to S + N - 1. Compared: module tree, named parameters and counts; adapter_config.json and tensor keys of a fresh adapter and of
the trained one; every entry of the log, the checkpoints kept, their trainer_state.json, the trained weights; losses of all rows with our
adapter in PEFT, with PEFT's here and with the merged model; greedy tokens; merged tensors and the merged folder's configs.
A line for each case that differs, and a closing line with the counts; exit 1 where one differs. In DIR the folders of those cases stay.
"""

import argparse
import collections
import json
import shutil
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

import torch

import random_cases
import random_folders
import random_models
import random_setup
import random_train
import stack
from random_compare import KNOWN, Ended, Findings
from random_setup import Run


def run_case(run):
    """All stages; each needs the ones before."""
    random_setup.open_base_model(run)
    random_setup.make_adapter(run)
    random_setup.inspect(run)
    random_setup.compare_fresh(run)
    random_train.train_both(run)
    random_train.compare_runs(run)
    random_train.compare_checkpoints(run)
    random_folders.open_each_other(run)
    random_folders.generate(run)
    random_folders.merge(run)
    return "agree"


def outcome_of(run):
    """What became of the case, in the words of the closing line."""
    try:
        outcome = run_case(run)
    except Ended as end:
        outcome = str(end)
    except Exception:  # one broken case must not end the others: it is a difference until it is looked at
        run.found.differs("the comparison broke", traceback.format_exc()[-1500:], "")
        outcome = "differ"
    return "differ" if run.found.differences else outcome


def one_line(text):
    """Its end, where an error says what is wrong."""
    return " ".join(text.split())[-200:] or "(nothing)"


def report(run):
    """A line for the case; all of it in a file."""
    kinds = [difference["what"] for difference in run.found.differences]
    more = f" and {len(kinds) - 4} more" if len(kinds) > 4 else ""
    first = [one_line(run.found.differences[0][side]) for side in ("theirs", "ours")]
    what = "; ".join(kinds[:4]) + more
    print(f"case {run.case['seed']} ({run.case['family']}) differs: {what}: theirs {first[0]}, ours {first[1]}", flush=True)
    (run.place / "differences.json").write_text(json.dumps(run.found.differences, ensure_ascii=False, indent=1))


def run_all(options, tokenizers, place):
    outcomes, known = collections.Counter(), collections.Counter()
    for seed in range(options.seed, options.seed + options.cases):
        folder = place / f"case-{seed}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        case = random_cases.case(seed)
        (folder / "case.json").write_text(json.dumps(case, ensure_ascii=False, indent=1))
        run = Run(case, folder, options.ours, tokenizers, Findings())
        outcome = outcome_of(run)
        outcomes[outcome] += 1
        known.update(run.found.known)
        if outcome == "differ":
            report(run)
        else:
            shutil.rmtree(folder)
    return outcomes, known


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", required=True, type=Path)
    parser.add_argument("--cases", required=True, type=int)
    parser.add_argument("--seed", required=True, type=int)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    options.ours = options.ours.absolute()
    stack.quiet()
    warnings.simplefilter("ignore")  # of what is drawn: patterns that match nothing, flags that a layer overrides
    torch.set_num_threads(1)  # tiny products
    with tempfile.TemporaryDirectory() as scratch:
        tokenizers = Path(scratch) / "tokenizers"
        random_models.make_tokenizers(tokenizers)
        outcomes, known = run_all(options, tokenizers, (options.keep or Path(scratch)).absolute())
    for name, count in known.most_common():
        print(f"known, in {count} cases: {KNOWN[name]}")
    first = {"agree": outcomes.pop("agree", 0), "differ": outcomes.pop("differ", 0)}
    counts = ", ".join(f"{count} {outcome}" for outcome, count in [*first.items(), *sorted(outcomes.items())])
    print(f"random runs: {options.cases} drawn, {counts}")
    sys.exit(1 if first["differ"] else 0)


if __name__ == "__main__":
    main()
