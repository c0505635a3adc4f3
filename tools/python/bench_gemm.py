"""Times torch's products at the shapes that `cargo bench -p lowrank-kernels --bench gemm` times.

Prints GFLOP/s of the best of several short runs, forward (`x @ W.T`) and backward (`dy @ W`), and with
`--json` one object a line. Weights rotate through a pool larger than any cache, as a model's layers do.

    python tools/python/bench_gemm.py [--rows 1,16,64,256,512,1024] [--dtype bfloat16|float32] [--threads N] [--json]
"""

import argparse
import functools
import itertools
import json
import time

import torch

SHAPES = {
    "qkv": (6144, 2048),
    "dense": (2048, 2048),
    "up": (8192, 2048),
    "down": (2048, 8192),
    "head": (46145, 2048),
}
POOL_BYTES = 256 << 20


@functools.cache
def pool(out, inputs, dtype):
    count = max(1, POOL_BYTES // (out * inputs * dtype.itemsize))
    return [torch.randn(out, inputs).mul_(0.02).to(dtype) for _ in range(count)]


def best_seconds(seconds, run):
    """The fastest of the runs that fit into `seconds`, at least five, behind one more that makes what torch makes once.
    What a run returns is freed outside of its time."""
    run()
    best, runs, end = float("inf"), 0, time.perf_counter() + seconds
    while runs < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        made = run()
        best = min(best, time.perf_counter() - start)
        runs += 1
        del made
    return best


def product_seconds(m, out, inputs, dtype, backward, seconds):
    weights = itertools.cycle(pool(out, inputs, dtype))
    x = torch.randn(m, out if backward else inputs).to(dtype)
    return best_seconds(seconds, lambda: x @ next(weights) if backward else torch.nn.functional.linear(x, next(weights)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="1,16,64,256,512,1024")
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seconds", type=float, default=0.4)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    dtype = getattr(torch, args.dtype)
    if not args.json:
        print(f"torch {torch.__version__}, threads {torch.get_num_threads()}, {args.dtype}")
    with torch.no_grad():
        for product in ("Nt", "Nn"):
            for shape in args.shapes.split(","):
                out, inputs = SHAPES[shape]
                for m in map(int, args.rows.split(",")):
                    if shape == "head" and m > 256:
                        continue
                    seconds = product_seconds(m, out, inputs, dtype, product == "Nn", args.seconds)
                    row = {
                        "product": product,
                        "shape": shape,
                        "m": m,
                        "dtype": args.dtype,
                        "gflops": round(2 * m * out * inputs / seconds * 1e-9, 1),
                        "gbytes_per_s": round(out * inputs * dtype.itemsize / seconds * 1e-9, 1),
                    }
                    if args.json:
                        print(json.dumps(row))
                    else:
                        print("{product} {shape:6} M {m:4}: {gflops:6.1f} GFLOP/s, {gbytes_per_s:5.1f} GB/s".format(**row))


if __name__ == "__main__":
    main()
