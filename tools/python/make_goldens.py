"""Writes the goldens of the five tiny families: what transformers, peft and the Trainer compute.

    PYTHONHASHSEED=0 python tools/python/make_goldens.py [--only bloom,llama] [--out goldens]

Same machine, same versions: same bytes. Another CPU may differ in the last bits. See goldens/README.md.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy
import peft
import safetensors.torch
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, Trainer, TrainingArguments
from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from cases import CONFIG_FILES, cases
from tiny import CONFIGS, tiny_model, tiny_rows, tiny_updates
from truth import everything_in_f64

ARGUMENTS = dict(per_device_train_batch_size=1, gradient_accumulation_steps=8, max_steps=20, learning_rate=1e-2,
                 weight_decay=0.01, lr_scheduler_type="linear", warmup_steps=3, logging_steps=1)
# An element of the final weights is called noise where the f32 and the f64 run end further apart than this: its
# gradient is zero in exact arithmetic (a key's bias without RoPE), and Adam blows rounding up to full steps.
NOISE = 2e-4


def plain_name(name):
    """PEFT's name of a parameter, as the plain model's or as `<module>.lora_A.weight`."""
    name = name.removeprefix("base_model.model.")
    for infix in (".modules_to_save.default", ".base_layer"):
        name = name.replace(infix, "")
    return name.replace(".lora_A.default.", ".lora_A.").replace(".lora_B.default.", ".lora_B.")


def trainable(model):
    return {plain_name(name): parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def write_json(path, value):
    """One line for each key, and for each entry of a long list, so that a diff shows what changed."""
    path.write_text(json_lines(value) + "\n", encoding="utf-8")


def json_lines(value):
    if isinstance(value, dict):
        return "{\n" + ",\n".join(f"{json.dumps(key)}: {json_rows(item)}" for key, item in value.items()) + "\n}"
    return json_rows(value)


def json_rows(value):
    if isinstance(value, list) and len(value) > 2:
        return "[\n" + ",\n".join(json.dumps(item) for item in value) + "\n]"
    return json.dumps(value)


def load_base(folder, config_file, dtype):
    config = AutoConfig.from_pretrained(folder, **({} if config_file is None else {"_configuration_file": config_file}))
    return AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=dtype)


def save_start_adapter(base, arguments, folder, seed):
    """An adapter as PEFT saves it, with B, trained biases and saved modules off their initial values."""
    torch.manual_seed(seed)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **arguments))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            noise = torch.randn_like(parameter)
            if "lora_A" in name:
                parameter.copy_(noise / parameter.shape[1] ** 0.5)
            elif "lora_B" in name:
                parameter.copy_(0.3 * noise)
            else:
                parameter.add_(0.1 * noise)
    model.save_pretrained(folder)
    (folder / "README.md").unlink()  # a model card without content
    mend_base_path(folder / "adapter_config.json")


def mend_base_path(path):
    """The folder of the base is not part of what is compared: written relative to the adapter."""
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = "../../model"
    path.write_text(json.dumps(config, indent=2, sort_keys=True))


def forward(model, rows):
    """Logits of each row, the loss of every target in order of rows, and the loss of them as one update."""
    logits = [model(input_ids=torch.tensor([row["input_ids"]])).logits[0] for row in rows]
    losses = []
    for row_logits, row in zip(logits, rows):
        labels = torch.tensor(row["labels"])[1:]
        every = torch.nn.functional.cross_entropy(wide(row_logits[:-1]), labels, ignore_index=-100, reduction="none")
        losses.append(every[labels != -100])
    losses = torch.cat(losses)
    return logits, losses, losses.sum() / num_items_in_batch(model, rows)


def num_items_in_batch(model, rows):
    """What the Trainer divides by. It leaves out the label of position 0, which nothing predicts, only where the
    model's class name tells it that the loss shifts: `GPT2LMHeadModel` does not, so there it counts it."""
    shifts = LOSS_MAPPING.get(model.get_base_model().loss_type) is ForCausalLMLoss
    return sum(label != -100 for row in rows for label in row["labels"][1 if shifts else 0:])


def wide(logits):
    return logits if logits.dtype == torch.float64 else logits.float()


def first_step(model, rows):
    """Everything of one update before the optimizer: logits, losses, loss, gradients, grad_norm."""
    model.zero_grad()
    logits, losses, loss = forward(model, rows)
    loss.backward()
    grads = {name: parameter.grad.clone() for name, parameter in trainable(model).items()}
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(grad) for grad in grads.values()]))
    model.zero_grad()
    return {"logits": torch.cat(logits).detach(), "losses": losses.detach(), "loss": loss.detach(), "grads": grads,
            "grad_norm": norm}


class Rows(torch.utils.data.Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


def collate(rows):
    (row,) = rows
    return {"input_ids": torch.tensor([row["input_ids"]]), "labels": torch.tensor([row["labels"]]),
            "attention_mask": torch.ones(1, len(row["input_ids"]), dtype=torch.long)}


def train(open_model, rows, updates):
    """The Trainer with its default bound on the gradient, or where that cuts nearly always or never, a middling one."""
    model, log, decays = train_clipped(open_model(), rows, updates, 1.0)
    if 4 <= sum(entry["grad_norm"] > 1.0 for entry in log) <= 16:
        return model, log, decays, 1.0
    bound = float(f"{numpy.median([entry['grad_norm'] for entry in log]):.2g}")
    return *train_clipped(open_model(), rows, updates, bound), bound


def train_clipped(model, rows, updates, max_grad_norm):
    """The real Trainer over the updates in the given order; returns its log and which parameters decay."""
    sequence = Rows([rows[index] for update in updates for index in update])
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(output_dir=folder, train_sampling_strategy="sequential", save_strategy="no",
                                      disable_tqdm=True, report_to="none", use_cpu=True,
                                      max_grad_norm=max_grad_norm, **ARGUMENTS)
        trainer = Trainer(model=model, args=arguments, train_dataset=sequence, data_collator=collate)
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    decays = {plain_name(name) for name in trainer.get_decay_parameter_names(model)}
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    return model, log, decays


def train_in_f64(model, rows, updates, decays, log, max_grad_norm):
    """The same updates in f64, to tell which final weights mean something."""
    named = trainable(model)
    groups = [{"params": [p for name, p in named.items() if name in decays], "weight_decay": ARGUMENTS["weight_decay"]},
              {"params": [p for name, p in named.items() if name not in decays], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=1.0)
    for update, entry in zip(updates, log):
        for group in optimizer.param_groups:
            group["lr"] = entry["learning_rate"]
        optimizer.zero_grad()
        forward(model, [rows[index] for index in update])[2].backward()
        torch.nn.utils.clip_grad_norm_(list(named.values()), max_grad_norm)
        optimizer.step()
    return {name: parameter.detach().clone() for name, parameter in named.items()}


def open_adapted(folder, config_file, adapter, dtype):
    return PeftModel.from_pretrained(load_base(folder, config_file, dtype), adapter, is_trainable=True)


def in_f64(folder, config_file, adapter, dtype, rows, *training):
    """First step, and with the arguments of `train_in_f64` the final weights, of the stored weights in f64."""
    model = open_adapted(folder, config_file, adapter, dtype)
    with everything_in_f64():
        model = model.double()
        step = first_step(model, rows)
        final = train_in_f64(model, rows, *training) if training else None
    return step, final


def deviation(got, want):
    """Largest and root-mean-square distance from the truth, the latter relative to the truth's own size."""
    got, want = got.double().flatten(), want.double().flatten()
    gap = (got - want).abs()
    return {"max_abs": gap.max().item(), "rel": (gap.norm() / want.norm().clamp_min(1e-30)).item()}


def deviations(step, truth):
    names = list(truth["grads"])
    together = {"logits": (step["logits"], truth["logits"]), "losses": (step["losses"], truth["losses"]),
                "loss": (step["loss"], truth["loss"]),
                "grads": (torch.cat([step["grads"][n].flatten() for n in names]),
                          torch.cat([truth["grads"][n].flatten() for n in names]))}
    each = {f"grad.{name}": (step["grads"][name], truth["grads"][name]) for name in names}
    return {name: deviation(*pair) for name, pair in {**together, **each}.items()}


def tensors_of(prefix, step, logits=True):
    found = {f"{prefix}losses": step["losses"]}
    if logits:
        found[f"{prefix}logits"] = step["logits"]
    return found | {f"{prefix}grad.{name}": grad for name, grad in step["grads"].items()}


def as_f32(tensors):
    return {name: tensor.detach().to(torch.float32).contiguous() if tensor.is_floating_point() else tensor.contiguous()
            for name, tensor in tensors.items()}


def greedy(model, rows):
    """What the adapted model says after the first tokens of three rows, with how clear each choice was."""
    said = []
    for row in rows[:3]:
        prompt = row["input_ids"][:4]
        ids = list(prompt)
        margins = []
        for _ in range(10):
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
            best = logits.topk(2)
            margins.append((best.values[0] - best.values[1]).item())
            ids.append(best.indices[0].item())
        said.append({"prompt": prompt, "new_ids": ids[len(prompt):], "smallest_margin": min(margins)})
    return said


def merged_first_block(model):
    """The merged matrices of the first block that carries an adapter."""
    paths = [name for name, module in model.named_modules() if hasattr(module, "lora_A") and hasattr(module, "base_layer")]
    plain = [path.removeprefix("base_model.model.") for path in paths]
    first = plain[0].split(".")[:3]
    merged = dict(model.merge_and_unload().named_parameters())
    return {f"merged.{path}.weight": merged[f"{path}.weight"] for path in plain if path.split(".")[:3] == first}


def make_case(root, family, case, arguments, config_file, seed):
    folder = root / case
    adapter = folder / "adapter"
    model_folder = root / "model"
    adapter.mkdir(parents=True)
    save_start_adapter(load_base(model_folder, config_file, torch.float32), arguments, adapter, seed)
    rows = tiny_rows()
    updates = tiny_updates(rows)
    full = case == "all_linear"

    model = open_adapted(model_folder, config_file, adapter, torch.float32)
    step = first_step(model, rows)
    with torch.no_grad():
        said = greedy(model, rows)
    tensors = tensors_of("", step, logits=full or config_file is not None)
    model, log, decays, bound = train(lambda: open_adapted(model_folder, config_file, adapter, torch.float32), rows, updates)
    final = {name: parameter.detach().clone() for name, parameter in trainable(model).items()}
    truth, true_final = in_f64(model_folder, config_file, adapter, torch.float32, rows, updates, decays, log, bound)
    gap = 0.0
    for name, tensor in final.items():
        tensors[f"final.{name}"] = tensor
        apart = (tensor.double() - true_final[name]).abs()
        noise = apart > NOISE
        gap = max(gap, apart[~noise].max().item() if (~noise).any() else 0.0)
        if noise.any():
            tensors[f"noise.{name}"] = noise.to(torch.uint8)
    if case == "attention":
        tensors |= merged_first_block(open_adapted(model_folder, config_file, adapter, torch.float32))
    if full:
        tensors |= tensors_of("truth.", truth)
    safetensors.torch.save_file(as_f32(tensors), folder / "want.safetensors")
    write_json(folder / "want.json", {
        "format_version": 1,
        "family": family,
        "case": case,
        "model": "../model",
        "config": f"../model/{config_file or 'config.json'}",
        "adapter": "adapter",
        "rows": "../batch.json",
        "lora_config": arguments,
        "trainable": [{"name": name, "shape": list(tensor.shape), "decay": name in decays} for name, tensor in final.items()],
        "label_tokens": len(step["losses"]),
        "num_items_in_batch": num_items_in_batch(model, rows),
        "loss": step["loss"].item(),
        "grad_norm": step["grad_norm"].item(),
        "f64": {"loss": truth["loss"].item(), "grad_norm": truth["grad_norm"].item()},
        "torch_f32_from_f64": {name: gap for name, gap in deviations(step, truth).items() if not name.startswith("grad.")},
        "final_f32_from_f64": gap,
        "greedy": said,
        "arguments": {**ARGUMENTS, "max_grad_norm": bound},
        "updates": updates,
        "log": log,
    })
    report(family, case, step, truth, log, tensors, bound)


def report(family, case, step, truth, log, tensors, bound):
    gap = deviations(step, truth)
    clipped = sum(entry["grad_norm"] > bound for entry in log)
    noisy = {name: int(tensor.sum()) for name, tensor in tensors.items() if name.startswith("noise.")}
    print(f"{family}/{case}: loss {log[0]['loss']:.4f} -> {log[-1]['loss']:.4f}, clipped at {bound} {clipped} of {len(log)}, "
          f"f32 from f64: logits {gap['logits']['rel']:.1e} grads {gap['grads']['rel']:.1e}, noise {noisy}")
    assert abs(log[0]["loss"] - step["loss"].item()) < 1e-5 and abs(log[0]["grad_norm"] - step["grad_norm"].item()) < 1e-4


def make_bf16(root, family):
    """The model rounded to bf16 with the all_linear adapter: f64 truth, and how far torch's bf16 is from it."""
    folder = root / "bf16"
    model = load_base(root / "model", None, torch.bfloat16)
    model.save_pretrained(folder / "model")
    if family == "bloom":
        save_bin(model, folder / "model_bin")
    (folder / "model" / "generation_config.json").unlink(missing_ok=True)
    rows = tiny_rows()
    adapter = root / "all_linear" / "adapter"
    step = first_step(open_adapted(folder / "model", None, adapter, torch.bfloat16), rows)
    truth, _ = in_f64(folder / "model", None, adapter, torch.bfloat16, rows)
    safetensors.torch.save_file(as_f32(tensors_of("truth.", truth)), folder / "want.safetensors")
    gaps = deviations(step, truth)
    write_json(folder / "want.json", {
        "format_version": 1, "family": family, "case": "bf16", "model": "model", "config": "model/config.json",
        "adapter": "../all_linear/adapter", "rows": "../batch.json", "label_tokens": len(truth["losses"]),
        "f64": {"loss": truth["loss"].item(), "grad_norm": truth["grad_norm"].item()},
        "torch_bf16": {"loss": step["loss"].item(), "grad_norm": step["grad_norm"].item()},
        "torch_bf16_from_f64": gaps,
    })
    print(f"{family}/bf16: torch bf16 from f64: logits {gaps['logits']['rel']:.1e} loss {gaps['loss']['max_abs']:.1e} "
          f"grads {gaps['grads']['rel']:.1e}")


def save_bin(model, folder):
    """As bloom's checkpoints are published: `pytorch_model.bin`, names of the bare model, no head."""
    folder.mkdir(parents=True)
    shutil.copy(folder.parent / "model" / "config.json", folder)
    bare = {name.removeprefix("transformer."): tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    torch.save(bare, folder / "pytorch_model.bin")


def make_shards(root):
    """The index of the model in files of at most 9,000 bytes: some tensors are larger."""
    with tempfile.TemporaryDirectory() as folder:
        load_base(root / "model", None, torch.float32).save_pretrained(folder, max_shard_size=9_000)
        shutil.copy(Path(folder) / SAFE_WEIGHTS_INDEX_NAME, root / "shards.json")


def make_family(out, family):
    root = out / family
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    model = tiny_model(family)
    model.save_pretrained(root / "model")
    for file, differs in CONFIG_FILES.get(family, {}).items():
        config = json.loads((root / "model" / "config.json").read_text()) | differs
        (root / "model" / file).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    write_json(root / "batch.json", tiny_rows())
    for number, (case, (arguments, config_file)) in enumerate(cases(family).items()):
        make_case(root, family, case, arguments, config_file, seed=500 + number)
    make_bf16(root, family)
    make_shards(root)


def write_versions(out):
    write_json(out / "versions.json", {"python": sys.version.split()[0], "torch": torch.__version__.split("+")[0],
                                       "transformers": transformers.__version__, "peft": peft.__version__,
                                       "numpy": numpy.__version__, "safetensors": safetensors.__version__})


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "goldens")
    parser.add_argument("--only", default=",".join(CONFIGS), help="families, with commas between")
    options = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})
    torch.set_num_threads(1)  # the order of sums must not depend on the machine's cores
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    options.out.mkdir(parents=True, exist_ok=True)
    write_versions(options.out)
    for family in options.only.split(","):
        make_family(options.out, family)


if __name__ == "__main__":
    main()
