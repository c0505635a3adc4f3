"""The folders of a drawn case: a tokenizer made here, a model of random weights in the drawn layout, rows in the drawn form."""

import json

import datasets
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (AutoModelForCausalLM, AutoTokenizer, BloomConfig, GPT2Config, LlamaConfig, MistralConfig,
                          PreTrainedTokenizerFast, Qwen2Config)

from random_cases import WORDS
from tiny import random_weight

CONFIGS = {"bloom": BloomConfig, "gpt2": GPT2Config, "llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config}
CORPUS = [" ".join(WORDS), "Human: Assistant: \n\nHuman: the cat\n\nAssistant: "] * 3 + WORDS
SHARD = "12KB"  # small enough that every model has several


def make_tokenizers(place):
    """Byte-level BPE: one with a padding token, one that also puts <s> first, one without a padding token."""
    for name in ("plain", "bos", "no_pad"):
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        special = ["<unk>", "<s>", "</s>", "<pad>"]
        trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
        tokenizer.train_from_iterator(CORPUS, trainer)
        if name == "bos":
            tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
        tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
        if name != "no_pad":
            tokens["pad_token"] = "<pad>"
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **tokens).save_pretrained(place / name)


def make_model(case, tokenizers, place):
    """The model in two folders: as transformers saves it, and in the drawn layout, which is ours to open."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizers / case["tokenizer"])
    tokenizer.padding_side = case["padding_side"]
    ids = {"vocab_size": len(tokenizer) + case["vocab_extra"], "bos_token_id": 1, "eos_token_id": case["eos_token_id"]}
    model = random_model(case, CONFIGS[case["family"]](**ids, **case["model"]))
    theirs, ours = place / "model_theirs", place / "model_ours"
    model.save_pretrained(theirs)
    save_in_layout(case, model, ours)
    for folder in (theirs, ours):
        tokenizer.save_pretrained(folder)
        if case["old_rope_keys"] and "rope_parameters" in case["model"]:
            write_old_rope_keys(folder / "config.json", case["seed"])
    return theirs, ours


def random_model(case, config):
    torch.manual_seed(case["seed"])
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    # the family name only sets the spread of the embedding, which must be small where the head is tied to it
    spread_of = "gpt2" if model.config.tie_word_embeddings else "llama"
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(random_weight(spread_of, name, parameter))
    return model.to(getattr(torch, case["storage"]))


def save_in_layout(case, model, folder):
    layout = case["layout"]
    model.save_pretrained(folder, **({"max_shard_size": SHARD} if layout == "shards" else {}))
    if layout not in ("bin", "bin_shards"):
        return
    (folder / "model.safetensors").unlink()
    state = model.state_dict()
    if model.config.tie_word_embeddings and case["seed"] % 2:
        del state["lm_head.weight"]  # old files have it or not
    if layout == "bin":
        torch.save(state, folder / "pytorch_model.bin")
        return
    keys = list(state)
    index = {}
    for number, part in enumerate((keys[::2], keys[1::2]), 1):
        name = f"pytorch_model-{number:05}-of-00002.bin"
        torch.save({key: state[key] for key in part}, folder / name)
        index |= dict.fromkeys(part, name)
    index = {"metadata": {"total_size": 1}, "weight_map": index}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def write_old_rope_keys(path, seed):
    """The spelling of config.json before `rope_parameters` and `dtype`."""
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    if seed % 3 == 0:
        rope["type"] = rope.pop("rope_type")  # the older of two old spellings
    is_default = "default" in (rope.get("type"), rope.get("rope_type"))
    config["rope_scaling"] = None if is_default else rope
    config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps(config, indent=2))


def write_rows(rows, path, form):
    """The rows as a .json or .jsonl file, or as a folder of `save_to_disk`."""
    if form == "disk":
        datasets.Dataset.from_list(rows).save_to_disk(path)
        return path
    path = path.with_suffix("." + form)
    lines = (json.dumps(row) + "\n" for row in rows)
    path.write_text(json.dumps(rows, ensure_ascii=False) if form == "json" else "".join(lines))
    return path
