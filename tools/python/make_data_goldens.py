"""Writes the goldens of the `data` crate: tiny tokenizers, ids that `AutoTokenizer` gives, rendered templates.

    python tools/python/make_data_goldens.py [--out crates/data/tests/fixtures] [--tokenizers FOLDER] [--rows FOLDER]

Everything is made from the text below, which was written for this project. `--tokenizers` names a folder of real tokenizer
folders; of these only ids of our own text are written (`ids_real.json`), no file is copied. `--rows` names a folder of real
dataset folders, of which digests of the rows (`rows_real.json`) and of the encoded rows (`encoded_real.json`) are
written.
"""

import argparse
import hashlib
import json
import re
import shutil
import struct
from pathlib import Path

import jinja2.sandbox
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

import stack

CORPUS = [
    "A low-rank adapter learns a small change of a large matrix, and the large matrix stays as it is.",
    "The river runs past the mill, and the miller's daughter counts the boats: one, two, three, forty-two.",
    "Write three sentences about the sea. The sea is wide. The sea is deep. The sea does not answer.",
    "What is 17 plus 25? It is 42. What is 100 minus 58? It is 42 again, isn't it?",
    "def add(a, b):\n    return a + b  # adds\n\n\nprint(add(1, 2))\n",
    "春天来了，河边的柳树发芽了。孩子们在草地上放风筝。",
    "请用一句话介绍你自己。我是一个小小的语言模型，正在学习说话。",
    "问：三加四等于几？答：三加四等于七。问：七减二等于几？答：七减二等于五。",
    "写一首关于月亮的短诗。月亮升起来，照在河面上，水里也有一个月亮。",
    "Human: 把下面的句子翻译成英文。\n今天天气很好。\n\nAssistant: The weather is fine today.",
    "夏の川は静かです。바람이 분다. Über den Fluß, naïve café, ¿qué tal?",
] * 4

TEXTS = [
    "", " ", "\n", "a", "  two  spaces   three", "trailing space ", "\t\ttabs\r\nand CRLF\r\n", "Hello, world! 12345 67.89 0x1F",
    "Human: 写一首关于月亮的短诗。\n\nAssistant: ", "月亮升起来，照在河面上。", "emoji 🙂 👩‍👩‍👧‍👦 🇨🇳 ❤️‍🔥 end", "e\u0301 vs é, ﬁ ligature, Å",
    "مرحبا بالعالم שלום", "नमस्ते दुनिया", "ไม่มีช่องว่าง", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𠮷野家 \U0010fffd", "\u0000nul\u0007bell\u200bzero\ufeffbom", "\u3000全角　スペース\u00a0nbsp",
    "special </s> and <s> and <pad> <|endoftext|> <|im_start|>user\n<|im_end|> <unk>x</s>", "it's we're I'LL don't 'tis",
    "a" * 200, "ha" * 60 + "!" * 20, "snake_case camelCase kebab-case http://x.y/z?q=1&r=2#f", "    indented\n        more\n\n\n\nfar",
    "1 12 123 1234 12345 1,234,567.89 ٣٤ ⅷ ²", "(括号)[brackets]{braces}<tags>|pipes|\\slashes/",
]

ROWS = [
    {"instruction": "写一首关于月亮的短诗。", "input": "", "output": "月亮升起来，照在河面上。"},
    {"instruction": "Add the numbers.", "input": "17 and 25", "output": "42"},
    {"instruction": "  padded\u3000", "input": " \u001f\n", "output": " keeps its spaces "},
    {"instruction": "", "input": "", "output": ""},
    {"instruction": "", "input": "only input\u2028", "output": "yes\n"},
    {"instruction": "\u200bzero width stays\u200b", "input": "\u200b", "output": "</s> in the text"},
    {"instruction": "long " * 30, "input": "longer " * 30, "output": "cut"},
    {"instruction": "short", "input": "x", "output": "answer " * 60},
]

JINJA = [
    ("{{ instruction }}\n{% if input %}\n{{ input }}\n{% endif %}\nAnswer: ", "{{ output }}"),
    ("{{ bos_token }}### {{ instruction | trim }}{% if input.strip() %} / {{ input.strip() }}{% endif %}\n\n", "{{ output.strip() }}{{ eos_token }}\n"),
    ("  {%- for word in instruction.split() %}{{ loop.index }}:{{ word }} {% endfor %}\n", "{{ output | upper }} {{ 1 == 1 }} {{ 2 / 4 }}"),
]


def bloom_tiny():
    """BLOOM's shape: its split pattern, byte-level BPE, special ids 0 to 3, no BOS or EOS added."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(" ?[^(\\s|[.,!?…。，、।۔،])]+"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=512, special_tokens=["<unk>", "<s>", "</s>", "<pad>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    return tokenizer, {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>",
                       "tokenizer_class": "BloomTokenizerFast", "padding_side": "left"}


def llama_tiny():
    """Llama 2's shape: metaspace by normalizer, byte fallback, BOS by template."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.train_from_iterator(CORPUS[:5], trainers.BpeTrainer(
        vocab_size=420, special_tokens=["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)], show_progress=False))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    text = json.loads(tokenizer.to_str())
    # Byte tokens are ordinary tokens, as in Llama's own file.
    text["added_tokens"] = [token for token in text["added_tokens"] if token["id"] < 3]
    return Tokenizer.from_str(json.dumps(text)), {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def qwen_tiny(out):
    """Only slow files, tokens added beyond the vocabulary, in Qwen2's class."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    folder = out / "qwen_tiny"
    folder.mkdir(parents=True)
    tokenizer.model.save(str(folder))
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    config = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
              "added_tokens_decoder": {str(400 + at): {"content": content, **flags, "special": at < 3}
                                       for at, content in enumerate(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>"])}}
    write(folder / "tokenizer_config.json", config)


def gpt2_rebuilt(out, tokenizer):
    """Declares GPT-2's class and ships another pre-tokenizer: the class wins, as it does for SmolLM2."""
    text = json.loads(tokenizer.to_str())
    text["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}]}
    folder = out / "gpt2_rebuilt"
    folder.mkdir(parents=True)
    write(folder / "tokenizer.json", text)
    write(folder / "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})


def classes(out, llama):
    """Llama's file under the classes and flags that change what is made of it."""
    text = llama.to_str(pretty=False)
    for name, config, model in (
            ("llama_rebuilt", {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}, None),
            ("llama_legacy", {"tokenizer_class": "LlamaTokenizerFast", "legacy": True, "add_bos_token": False, "add_eos_token": True,
                              "bos_token": {"__type": "AddedToken", "content": "<s>", "lstrip": False, "normalized": True, "rstrip": False, "single_word": False},
                              "eos_token": "</s>", "additional_special_tokens": ["<extra>"]}, {"model_type": "llama"}),
            ("llama_bare", {"tokenizer_class": "LlamaTokenizer", "add_prefix_space": False, "pad_token": "<pad>"}, {"model_type": "llama"}),
            ("mistral_llama", {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}, {"model_type": "mistral"})):
        folder = out / name
        folder.mkdir(parents=True)
        (folder / "tokenizer.json").write_text(text, encoding="utf-8")
        write(folder / "tokenizer_config.json", config)
        if model:
            write(folder / "config.json", model)


def gpt2_slow(out):
    """GPT-2's slow files as they were written before 4.34: tokens in files of their own, BOS by flag."""
    folder = out / "gpt2_slow"
    folder.mkdir(parents=True)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(out / "qwen_tiny" / name, folder / name)
    write(folder / "added_tokens.json", {"<|endoftext|>": 400, "<sep>": 401, "two words": 402})
    write(folder / "special_tokens_map.json", {"bos_token": "<|endoftext|>", "eos_token": {"content": "<|endoftext|>", "lstrip": False,
                                               "normalized": True, "rstrip": False, "single_word": False}, "pad_token": "<sep>"})
    write(folder / "tokenizer_config.json", {"add_bos_token": True, "add_prefix_space": True, "tokenizer_class": "GPT2Tokenizer"})
    write(folder / "config.json", {"model_type": "gpt2"})


def qwen_wrong_class(out):
    """A qwen2 model whose file names another class: the registered one wins."""
    folder = out / "qwen_wrong_class"
    shutil.copytree(out / "qwen_tiny", folder)
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    write(folder / "tokenizer_config.json", {**config, "tokenizer_class": "GPT2Tokenizer"})
    write(folder / "config.json", {"model_type": "qwen2"})


NAMES = ("bloom_tiny", "llama_tiny", "qwen_tiny", "gpt2_rebuilt", "llama_rebuilt", "llama_legacy", "llama_bare", "mistral_llama", "gpt2_slow",
         "qwen_wrong_class")


def write(path, value):
    text = json.dumps(value, ensure_ascii=False, indent=1)
    # Lists of numbers on one line each.
    text = re.sub(r"\[\s+(-?\d+(?:,\s+-?\d+)*)\s+\]", lambda found: "[" + re.sub(r"\s+", " ", found[1]) + "]", text)
    path.write_text(text + "\n", encoding="utf-8")


def save(out, name, tokenizer, config):
    folder = out / name
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=False), encoding="utf-8")
    write(folder / "tokenizer_config.json", config)


def ids(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = []
    for text in TEXTS:
        found = tokenizer(text)["input_ids"]
        texts.append({"text": text, "ids": found, "plain": tokenizer(text, add_special_tokens=False)["input_ids"],
                      "decoded": tokenizer.decode(found), "skipped": tokenizer.decode(found, skip_special_tokens=True)})
    return {"class": type(tokenizer).__name__, "len": len(tokenizer), "eos_token": tokenizer.eos_token, "bos_token": tokenizer.bos_token,
            "pad_token": tokenizer.pad_token, "eos_token_id": tokenizer.eos_token_id, "texts": texts}


def rendered(tokens):
    """Jinja as `apply_chat_template` sets it up, but for a last newline, which is kept."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    return [{"prompt": prompt, "response": response,
             "rows": [[environment.from_string(source).render(**row, **tokens) for source in (prompt, response)] for row in ROWS]}
            for prompt, response in JINJA]


def digest(rows, tokenizer, max_length):
    """SHA-256 over every row's length, ids and labels as little-endian 32-bit numbers."""
    found = hashlib.sha256()
    for row in rows:
        row = stack.encode(row, tokenizer, max_length)
        count = len(row["input_ids"])
        found.update(struct.pack(f"<I{count}I{count}i", count, *row["input_ids"], *row["labels"]))
    return found.hexdigest()


def real_values(rows):
    """SHA-256 over the JSON text of every row that `load_from_disk` gives."""
    found = {}
    for name in ("alpaca_zh_demo_1k", "carbonz0_zh_20k", "c3/validation", "ner_data/validation"):
        hashed, table = hashlib.sha256(), stack.open_rows(rows / name)
        for row in table:
            hashed.update(json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
        found[name] = {"rows": len(table), "columns": table.column_names, "sha256": hashed.hexdigest()}
    return found


def real_rows(tokenizers, rows):
    found = []
    for data in ("alpaca_zh_demo_1k", "carbonz0_zh_20k"):
        for name in ("bloom-like-46145", "smollm2", "qwen2.5"):
            tokenizer = AutoTokenizer.from_pretrained(tokenizers / name)
            table = stack.open_rows(rows / data)
            found.append({"dataset": data, "tokenizer": name, "max_length": 256, "rows": len(table), "sha256": digest(table, tokenizer, 256)})
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("crates/data/tests/fixtures"))
    parser.add_argument("--tokenizers", type=Path)
    parser.add_argument("--rows", type=Path)
    arguments = parser.parse_args()
    stack.quiet()
    out = arguments.out
    for name in NAMES:
        shutil.rmtree(out / name, ignore_errors=True)
    bloom, config = bloom_tiny()
    save(out, "bloom_tiny", bloom, config)
    llama, config = llama_tiny()
    save(out, "llama_tiny", llama, config)
    classes(out, llama)
    qwen_tiny(out)
    gpt2_rebuilt(out, bloom)
    gpt2_slow(out)
    qwen_wrong_class(out)
    write(out / "ids.json", {name: ids(out / name) for name in NAMES})
    encoded = {}
    for name in ("bloom_tiny", "llama_tiny", "qwen_tiny", "gpt2_rebuilt"):
        tokenizer = AutoTokenizer.from_pretrained(out / name)
        encoded[name] = [stack.encode(row, tokenizer, 48) for row in ROWS]
    write(out / "encoded.json", {"max_length": 48, "rows": ROWS, "encoded": encoded})
    write(out / "jinja.json", {"rows": ROWS, "tokens": {"bos_token": "<s>", "eos_token": "</s>"},
                               "templates": rendered({"bos_token": "<s>", "eos_token": "</s>"})})
    if arguments.tokenizers:
        write(out / "ids_real.json", {folder.name: ids(folder) for folder in sorted(arguments.tokenizers.iterdir())
                                      if (folder / "tokenizer.json").exists() or (folder / "vocab.json").exists()})
    if arguments.rows:
        write(out / "rows_real.json", real_values(arguments.rows))
    if arguments.tokenizers and arguments.rows:
        write(out / "encoded_real.json", real_rows(arguments.tokenizers, arguments.rows))


if __name__ == "__main__":
    main()
