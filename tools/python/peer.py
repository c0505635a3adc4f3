"""What the bench scripts of the peer share: where a process began, its peak memory, opening a model in its best setting."""

import json
import os
import resource
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM


def since_launch():
    """Seconds since the process was started, imports included; Linux only. psutil's create_time is off by the part of a second at
    which the machine was booted."""
    with open("/proc/self/stat") as stat, open("/proc/uptime") as uptime:
        ticks = float(stat.read().rpartition(")")[2].split()[19])  # field 22; the second one may hold spaces
        return float(uptime.read().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")


def peak_rss_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def machine():
    return {"torch": torch.__version__, "threads": torch.get_num_threads(), "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "onednn_bf16": torch.ops.mkldnn._is_mkldnn_bf16_supported(), "allocator": os.environ.get("LD_PRELOAD", "malloc")}


def add_options(parser):
    parser.add_argument("--model", required=True)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--attention", choices=["sdpa", "eager"], help="default: what transformers picks; BLOOM has eager only")


def open_model(options):
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if options.threads:
        torch.set_num_threads(options.threads)
    attention = {"attn_implementation": options.attention} if options.attention else {}
    return AutoModelForCausalLM.from_pretrained(options.model, dtype=getattr(torch, options.dtype), **attention)


def read_lengths(path):
    """Token counts of rows: a list of numbers, or of [prompt, all]."""
    return [entry if isinstance(entry, list) else [entry // 3, entry] for entry in json.loads(Path(path).read_text())]


def say(value):
    json.dump(value, sys.stdout)
    print()
