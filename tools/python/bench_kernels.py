"""Times torch's attention, norm, activation and loss at bloom-1b4's shapes, as PEFT in bf16 runs them.

Prints one object a line: `kernel`, `pass` (forward, with the graph that training records, or forward and backward
together; a second time as what ours, which makes some outputs again before the backward pass, is to be compared with),
`m` tokens, `seconds` of the best of several short runs, and `way`, the fastest of the ways there are to do it.
Inputs are the same from run to run, so what fits into the caches is there; where MALLOC_MMAP_MAX_=0 and
MALLOC_TRIM_THRESHOLD_=100000000000 are set, as the race does, results take no new pages. The loss is of f32 logits, without the
copy that transformers makes of bf16 ones; the weights of the norm are frozen, and no pass has dropout.

    python tools/python/bench_kernels.py [--rows 1,16,64,256,1024] [--kernel norm] [--seconds 0.2] [--dtype bf16|f32] [--threads N]
"""

import argparse
import json

import torch
from torch.nn import functional as F
from transformers import BloomConfig
from transformers.models.bloom import modeling_bloom as bloom

from bench_gemm import best_seconds

HEADS, HEAD_DIM, INNER, VOCABULARY = 16, 128, 8192, 46145
HIDDEN = HEADS * HEAD_DIM


def attention(m, dtype):
    """Eager is BLOOM's own module, its two projections and its residual left out."""
    qkv = torch.randn(1, m, 3 * HIDDEN).to(dtype).requires_grad_()
    alibi = bloom.build_alibi_tensor(torch.ones(1, m, dtype=torch.long), HEADS, dtype)
    causal = torch.full((m, m), torch.finfo(dtype).min, dtype=dtype).triu(1)[None, None]
    module = bloom.BloomAttention(BloomConfig(hidden_size=HIDDEN, n_head=HEADS, attention_dropout=0.0, hidden_dropout=0.0), layer_idx=0)
    module.query_key_value = module.dense = torch.nn.Identity()
    bloom.dropout_add = lambda x, *_: x
    both = alibi[None] + causal

    def sdpa():
        query, key, value = qkv.view(1, m, HEADS, 3, HEAD_DIM).transpose(1, 2).unbind(3)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=both).transpose(1, 2).reshape(1, m, HIDDEN)

    return qkv, {"sdpa": sdpa, "eager": lambda: module(qkv, None, alibi, causal)[0]}


def norm(m, dtype):
    """Its input is an output too: the residual, whose gradient autograd adds, as ours does in the same pass."""
    x, weight, bias = torch.randn(m, HIDDEN).to(dtype).requires_grad_(), torch.randn(HIDDEN).to(dtype), torch.randn(HIDDEN).to(dtype)
    return x, {"F.layer_norm": lambda: (F.layer_norm(x, (HIDDEN,), weight, bias), x)}


def activation(m, dtype):
    x = torch.randn(m, INNER).to(dtype).requires_grad_()
    return x, {"F.gelu": lambda: F.gelu(x, approximate="tanh"), "BloomGelu": lambda: bloom.GeLUFunction.apply(x)}


def loss(m, _dtype):
    logits, targets = torch.randn(m, VOCABULARY).requires_grad_(), torch.arange(m) * 977 % VOCABULARY
    return logits, {"F.cross_entropy": lambda: F.cross_entropy(logits, targets, reduction="sum")}


def forward_and_backward(forward, x):
    outputs = forward()
    dy = tuple(map(torch.randn_like, outputs)) if isinstance(outputs, tuple) else torch.randn_like(outputs)
    return lambda: torch.autograd.grad(forward(), x, dy)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="1,16,64,256,1024")
    parser.add_argument("--kernel")
    parser.add_argument("--seconds", type=float, default=0.2)
    parser.add_argument("--dtype", choices=["bf16", "f32"], default="bf16")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    dtype = {"bf16": torch.bfloat16, "f32": torch.float32}[args.dtype]
    for kernel in [kernel for kernel in (attention, norm, activation, loss) if args.kernel in (None, kernel.__name__)]:
        for m in map(int, args.rows.split(",")):
            x, ways = kernel(m, dtype)
            passes = {"forward": lambda way, _x: way, "forward and backward": forward_and_backward}
            if kernel is norm:
                passes["as trained"] = forward_and_backward
            for name, make in passes.items():
                times = {way: best_seconds(args.seconds, make(run, x)) for way, run in ways.items()}
                way = min(times, key=times.get)
                print(json.dumps({"kernel": kernel.__name__, "pass": name, "m": m, "seconds": times[way], "way": way, "ways": times}), flush=True)


if __name__ == "__main__":
    main()
