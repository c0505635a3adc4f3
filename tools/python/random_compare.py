"""What `random_runs.py` finds out about a case, the differences that are meant, and how near two floating-point runs must be."""

import difflib
import json
import math

# Every difference from PEFT and the Trainer that is meant and drawn here; docs/DIFFERENCES.md says more of most. What has no line here
# is reported as a difference: to take one back, take its line out.
KNOWN = {
    "order in a step": "log, evaluation, checkpoint in this order; the Trainer does steps' work before epochs'",
    "masked update": "an update without a label changes nothing; the Trainer moves by decay and old moments: compared up to it",
    "stop is saved": "stopping early saves a checkpoint at the stop: what was learnt last can be gone on with",
    "limit of one": "save_total_limit 1 keeps the best and the last checkpoint: the run can be gone on with",
    "tokens seen": "num_input_tokens_seen is always counted: it costs nothing",
    "tied head merged": "a delta on a tied head is merged into the head alone, which is untied: it must say what the adapter says",
    "bias copies": "`bias: all` with saved modules: PEFT's file has two more keys, which it does not miss",
    "merge in 16 bits": "rounding a model a few numbers wide moves its logits: ours says that it is not proved; its tensors are compared",
}

LOG_TOLERANCE = 2e-5  # f32 sums in another order, relative; with 1e-2 of it where a value is near 0
NORM_TOLERANCE = 10 * LOG_TOLERANCE  # a norm of small differences
WEIGHT_TOLERANCE = 3e-6  # one or two roundings of f32 near 10
WEIGHT_TOLERANCE_OF_RATE = 0.02  # Adam's step is a quotient of two moments: near 0 its rounding is a part of the learning rate
NOISE = 3e-7  # two roundings: the start of the Trainer's second run, which tells how a run spreads rounding
LOG_SPREAD = 20  # times what that run differs from the first, ours may: one draw of noise is not the largest
WEIGHT_SPREAD = 30  # the same for one weight of many
MEASURED = ("loss", "grad_norm", "eval_loss", "train_loss")
ABSENT = "(absent)"


class Ended(Exception):
    """The case ends here with that outcome."""


class Findings:
    """Differences of one case, and the known ones that were met."""

    def __init__(self):
        self.differences = []
        self.known = set()

    def differs(self, what, theirs, ours, known=None):
        if known in KNOWN:
            self.known.add(known)
        else:
            self.differences.append({"what": what, "theirs": short(theirs), "ours": short(ours)})

    def equal(self, what, theirs, ours, known=None):
        if theirs != ours:
            self.differs(what, theirs, ours, known)

    def equal_texts(self, what, theirs, ours):
        lines = difflib.unified_diff(theirs.strip().splitlines(), ours.strip().splitlines(), "theirs", "ours", lineterm="", n=0)
        self.equal(what, "", "\n".join(lines))

    def equal_maps(self, what, theirs, ours, known=None):
        """Shows the entries alone that differ. A count and the same number with a point are two values."""
        keys = [key for key in theirs | ours if spelled(theirs, key) != spelled(ours, key)]
        if keys:
            self.differs(what, {key: theirs.get(key, ABSENT) for key in keys}, {key: ours.get(key, ABSENT) for key in keys}, known)


def spelled(found, key):
    return json.dumps(found[key], sort_keys=True, default=str) if key in found else ABSENT


def short(value):
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) < 1500 else text[:1500] + "…"


def is_mixed(train):
    """Whether one step may have the work of a step and of an epoch."""
    strategies = {train["logging_strategy"], train["eval_strategy"], train["save_strategy"]}
    return {"steps", "epoch"} <= strategies


def without_times(entry):
    return {key: value for key, value in entry.items() if not key.endswith(("_runtime", "_per_second"))}


def kind(entry):
    return "update" if "loss" in entry else "summary" if "train_loss" in entry else "evaluation"


def in_one_order(log):
    order = ("update", "evaluation", "summary")
    return sorted(map(without_times, log), key=lambda entry: (entry["step"], order.index(kind(entry))))


def compare_logs(found, theirs, ours, again=None, mixed=False):
    """Every entry of two `log_history` lists; `again` is the Trainer's from a start a rounding away; `mixed` as `is_mixed` tells."""
    known = "order in a step" if mixed else None
    found.equal("log: order of entries", list(map(kind, theirs)), list(map(kind, ours)), known)
    theirs, ours, again = in_one_order(theirs), in_one_order(ours), in_one_order(again or [])
    shapes = [[(entry["step"], sorted(entry)) for entry in log] for log in (theirs, ours)]
    if shapes[0] != shapes[1]:
        found.differs("log: entries", *shapes)
        return
    for number, (left, right) in enumerate(zip(theirs, ours)):
        third = again[number] if len(again) == len(theirs) else None
        for key in left:
            if key in MEASURED:
                compare_measured(found, key, left, right, third)
            elif key == "epoch":
                found.equal(f"log: epoch at step {left['step']}", left[key], right[key])  # 0 is 0.0: Python counts the first in whole numbers
            else:
                found.equal_maps(f"log: step {left['step']}", {key: left[key]}, {key: right[key]})


def compare_measured(found, key, left, right, third):
    theirs, ours = float(left[key]), float(right[key])
    scale = abs(theirs) + 1e-2
    allowed = NORM_TOLERANCE if key == "grad_norm" else LOG_TOLERANCE
    if third is not None:
        allowed += LOG_SPREAD * abs(float(third[key]) - theirs) / scale
    if not abs(ours - theirs) / scale <= allowed:
        found.differs(f"log: {key} at step {left['step']}", theirs, ours)


def largest_gap(left, right):
    return (left.double() - right.double()).abs().max().item() if left.numel() else 0.0


def compare_weights(found, theirs, ours, rate, again=None):
    """Trained tensors of two adapters; `again` is the Trainer's from a start a rounding away."""
    for key in theirs.keys() & ours.keys():
        allowed = WEIGHT_TOLERANCE + WEIGHT_TOLERANCE_OF_RATE * rate
        if again is not None:
            allowed += WEIGHT_SPREAD * largest_gap(again[key], theirs[key])
        gap = largest_gap(theirs[key], ours[key])
        if not gap <= allowed:
            found.differs(f"trained tensor {key}", f"learning rate {rate}", f"differs by {gap:.2e}, {allowed:.2e} is allowed")


def is_finite(log):
    return all(math.isfinite(value) for entry in log for value in entry.values() if isinstance(value, float))


def signature(tensors):
    """Keys, shapes and dtypes; a base layer's weight is saved in the dtype in which each side holds it."""
    return {key: (list(value.shape), "" if key.endswith("base_layer.weight") else str(value.dtype)) for key, value in tensors.items()}


def compare_keys(found, what, theirs, ours):
    """Tensors of two adapter files."""
    copies = {key for key in theirs.keys() - ours.keys() if key.endswith(".bias") and (".modules_to_save." in key or ".original_module." in key)}
    if copies:
        found.differs(f"{what}: biases of saved modules", sorted(copies), [], "bias copies")
    found.equal_maps(what, signature({key: value for key, value in theirs.items() if key not in copies}), signature(ours))


def adapter_config(path):
    """An adapter_config.json without where and by what it was written, sets in one order."""
    config = json.loads(path.read_text())
    for key in ("base_model_name_or_path", "auto_mapping", "peft_version", "inference_mode", "revision"):
        config[key] = "(any)" if key in config else ABSENT
    for key in ("target_modules", "exclude_modules"):
        if isinstance(config[key], list):
            config[key].sort()
    return config
