"""The stages of a random run before training: base model, adapter, what `inspect` prints, what a fresh adapter holds."""

import contextlib
import dataclasses
import io
import json
import subprocess
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoTokenizer

import random_trainer
import stack
from random_compare import Ended, Findings, adapter_config, compare_keys
from random_models import make_model, write_rows

WEIGHTS = "adapter_model.safetensors"
LONGEST_SECONDS = 120  # a run here takes less than one
PATTERN_MARKS = set("*+?[(|\\^${")  # by which a command line's text is taken for a pattern


@dataclasses.dataclass
class Run:
    """One case: its folder, and what the stages leave for those after them."""

    case: dict
    place: Path
    binary: Path
    tokenizers: Path
    found: Findings
    theirs: Path = None  # the model's folder as transformers saves it
    ours: Path = None  # the same in the drawn layout
    tokenizer: object = None
    model: object = None  # PEFT's, first at the start and then trained
    values: dict = None  # trained parameters at the start
    rows: list = None
    eval_rows: list = None
    masked: int = None  # number of the first update without a label
    dataset: Path = None
    state: object = None  # the Trainer's

    def lowrank(self, *arguments):
        """Runs our binary: exit code, output, errors."""
        command = [self.binary, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_SECONDS)
        return done.returncode, done.stdout, done.stderr

    def json_of(self, what, *arguments):
        """What our binary prints as JSON; where it fails, that is a difference and the answer None."""
        code, output, errors = self.lowrank(*arguments, "--json")
        if code:
            self.found.differs(f"{what} fails", "works", errors[-600:])
            return None
        return json.loads(output)


def end_refused(run, what, theirs, code, errors):
    """Ends a case that one side refuses at least; `theirs` is Python's exception, if any."""
    if theirs and code:
        raise Ended("refused by both")
    if theirs:
        run.found.differs(f"{what}: Python refuses it", repr(theirs), "accepted")
    else:
        run.found.differs(f"{what}: ours refuses it", "accepted", errors[-600:])
    raise Ended("differ")


def attempt(action):
    """What an action gives, and the exception that it raises: libraries refuse with any kind."""
    try:
        return action(), None
    except Exception as error:
        return None, error


def named_parameters(model):
    return [(name, list(parameter.shape), parameter.requires_grad) for name, parameter in model.named_parameters()]


def open_base_model(run):
    run.theirs, run.ours = make_model(run.case, run.tokenizers, run.place)
    run.tokenizer = AutoTokenizer.from_pretrained(run.theirs)
    code, output, errors = run.lowrank("inspect", "--model", run.ours, "--json")
    base, refusal = attempt(lambda: random_trainer.open_base(run.theirs))
    if refusal or code:
        end_refused(run, "model", refusal, code, errors)
    found = json.loads(output)
    run.found.equal_texts("tree of the model", str(base), found["tree"])
    theirs = [(name, shape) for name, shape, _ in named_parameters(base)]
    run.found.equal("parameters of the model", theirs, [(entry["name"], entry["shape"]) for entry in found["parameters"]])


def make_adapter(run):
    """The same LoraConfig on both sides; then the start, which PEFT saves for both."""
    run.dataset = write_rows(run.case["rows"], run.place / "train", run.case["data_form"])
    train = {"output_dir": str(run.place / "fresh"), "max_steps": 1, "per_device_train_batch_size": 1, "learning_rate": 1e-12}
    config = {"model": str(run.ours), "dataset": str(run.dataset), "max_length": 64, "compute_dtype": "f32", "lora": run.case["lora"],
              "train": train}
    code, errors = train_ours(run, "fresh", config)
    torch.manual_seed(run.case["seed"] + 1)
    base = random_trainer.open_base(run.theirs)
    run.model, refusal = attempt(lambda: random_trainer.with_adapter(run.case, base))
    if refusal or code:
        end_refused(run, "adapter", refusal, code, errors)
    run.found.equal("line of trainable parameters", True, trainable_line(run.model) in errors)
    random_trainer.randomize(run.case, run.model)
    run.model.save_pretrained(run.place / "start")
    restore_patterns(run, run.place / "start")
    _, refusal = attempt(lambda: PeftModel.from_pretrained(random_trainer.open_base(run.theirs), run.place / "start"))
    if refusal:
        raise Ended("not read again by PEFT itself")
    run.values = random_trainer.values_of(run.model)


def restore_patterns(run, folder):
    """Patterns of a file of PEFT's in their drawn order: PEFT sorts them, and where two match one module that is another adapter."""
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    for key in ("rank_pattern", "alpha_pattern"):
        drawn = run.case["lora"].get(key, {})
        config[key] = {name: config[key][name] for name in drawn}
    path.write_text(json.dumps(config, indent=2))


def train_ours(run, name, config, *more):
    """Writes `name`.yaml and trains by it: exit code and what was told."""
    path = run.place / f"{name}.yaml"
    path.write_text(json.dumps(config, indent=1))
    code, _, errors = run.lowrank("train", "--config", path, *more)
    return code, errors


def trainable_line(model):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        model.print_trainable_parameters()
    return printed.getvalue().strip()


def inspect(run):
    """`inspect` with the start adapter, and with the LoraConfig's fields as flags where flags can say them."""
    ways = {"adapter": ["--adapter", run.place / "start"], "flags": flags(run.case["lora"])}
    for way, arguments in ways.items():
        told = None if arguments is None else run.json_of(f"inspect by {way}", "inspect", "--model", run.ours, *arguments)
        if told is None:
            continue
        run.found.equal_texts(f"tree by {way}", str(run.model), told["tree"])
        ours = [(entry["name"], entry["shape"], entry["trained"]) for entry in told["parameters"]]
        compare_names(run, way, named_parameters(run.model), ours)
        run.found.equal(f"summary by {way}", trainable_line(run.model), told["summary"])


def compare_names(run, way, theirs, ours):
    left, right = ({name: rest for name, *rest in side} for side in (theirs, ours))
    run.found.equal_maps(f"parameters by {way}", left, right)
    run.found.equal(f"order of parameters by {way}", list(left), list(right))


def flags(lora):
    """The fields as a command line; None where it has no words for one of them."""
    found = []
    for key, value in lora.items():
        is_matcher = key in ("target_modules", "exclude_modules")
        if is_matcher and isinstance(value, str) and value != "all-linear" and not PATTERN_MARKS & set(value):
            return None
        if key in ("modules_to_save", "layers_to_transform") and (not isinstance(value, list) or not value):
            return None
        is_list = isinstance(value, list) and key != "layers_pattern"
        text = value if isinstance(value, str) else ",".join(map(str, value)) if is_list else json.dumps(value)
        found += ["--" + key.replace("_", "-"), text]
    return found


def compare_fresh(run):
    """Our fresh adapter's files, of which the values are random, and PEFT's."""
    theirs, ours = run.place / "start", run.place / "fresh"
    run.found.equal_maps("adapter_config.json", *(adapter_config(folder / "adapter_config.json") for folder in (theirs, ours)))
    compare_keys(run.found, "fresh adapter", load_file(theirs / WEIGHTS), load_file(ours / WEIGHTS))


def encode_rows(run):
    """The rows as both sides train on them."""
    longest = run.case["max_length"]
    run.rows = [stack.encode(row, run.tokenizer, longest) for row in run.case["rows"]]
    run.eval_rows = [stack.encode(row, run.tokenizer, longest) for row in run.case["eval_rows"]]
    if run.tokenizer.pad_token is None:
        run.tokenizer.pad_token = run.tokenizer.eos_token  # the collator wants one
