"""Times the peer's greedy decoding, batch 1, with its KV cache.

    python bench_decode.py --model DIR [--adapter DIR [--merge]] [--prompt-tokens 32] [--new-tokens 64] [--repeats 3]
        [--dtype bfloat16|float32] [--threads N] [--attention sdpa|eager]

Prints one line of JSON: prefill_seconds, decode_tokens_per_second (medians, the first new token belongs to the prefill),
first_token_seconds (from the launch of the process), peak_rss_bytes, machine, settings.
"""

import argparse
import statistics
import time

import torch
from peft import PeftModel
from transformers.generation.streamers import BaseStreamer

import peer


class Clock(BaseStreamer):
    """Notes when each token comes; `generate` first puts the prompt."""

    def __init__(self):
        self.times = []

    def put(self, value):
        self.times.append(time.perf_counter())

    def end(self):
        pass


def once(model, prompt, new_tokens):
    clock = Clock()
    model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), do_sample=False, min_new_tokens=new_tokens,
                   max_new_tokens=new_tokens, streamer=clock)
    given, first, last = clock.times[0], clock.times[1], clock.times[-1]
    return first - given, (len(clock.times) - 2) / (last - first)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    peer.add_options(parser)
    parser.add_argument("--adapter")
    parser.add_argument("--merge", action="store_true")
    for name, default in (("prompt-tokens", 32), ("new-tokens", 64), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    model = peer.open_model(options)
    if options.adapter:
        model = PeftModel.from_pretrained(model, options.adapter)
        model = model.merge_and_unload() if options.merge else model
    model.eval()
    prompt = torch.randint(4, model.config.vocab_size, (1, options.prompt_tokens), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        once(model, prompt, 2)
        first = peer.since_launch()
        runs = [once(model, prompt, options.new_tokens) for _ in range(options.repeats)]
    peer.say({"prefill_seconds": statistics.median(run[0] for run in runs), "decode_tokens_per_second": statistics.median(run[1] for run in runs),
              "first_token_seconds": first, "peak_rss_bytes": peer.peak_rss_bytes(), "machine": peer.machine(), "settings": vars(options)})


if __name__ == "__main__":
    main()
