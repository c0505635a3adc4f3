"""Times the peer's merge: open base and adapter, `merge_and_unload`, `save_pretrained`.

    python bench_merge.py --model DIR --adapter DIR --out DIR [--dtype bfloat16|float32] [--threads N]

Prints one line of JSON: open_seconds, merge_seconds, save_seconds, total_seconds (of the three), launch_to_end_seconds,
peak_rss_bytes, machine, settings.
"""

import argparse
import time

from peft import PeftModel

import peer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    peer.add_options(parser)
    parser.add_argument("--adapter", required=True)
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    times = [time.perf_counter()]
    model = PeftModel.from_pretrained(peer.open_model(options), options.adapter)
    times.append(time.perf_counter())
    model = model.merge_and_unload()
    times.append(time.perf_counter())
    model.save_pretrained(options.out)
    times.append(time.perf_counter())
    peer.say({"open_seconds": times[1] - times[0], "merge_seconds": times[2] - times[1], "save_seconds": times[3] - times[2],
              "total_seconds": times[3] - times[0], "launch_to_end_seconds": peer.since_launch(), "peak_rss_bytes": peer.peak_rss_bytes(),
              "machine": peer.machine(), "settings": vars(options)})


if __name__ == "__main__":
    main()
