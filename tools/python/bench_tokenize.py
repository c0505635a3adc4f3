"""Times the tutorial's preprocessing, `datasets.map` with the tokenizer called twice a row.

    python bench_tokenize.py --tokenizer DIR --dataset PATH [--split NAME] [--rows 20000] [--num-proc N] [--max-length 256] [--lengths OUT.json]

Rows are taken again from the beginning where the set is shorter; --rows 0 takes the set as it is. `--lengths` writes [prompt, all] of each row, for bench_peft.
Prints one line of JSON: seconds (of `map`), rows_per_second, whole_seconds (opening tokenizer and rows, and `map`), launch_to_end_seconds
(imports too), rows, tokens, tokens_per_second, peak_rss_bytes, settings.
"""

import argparse
import json
import time
from pathlib import Path

import datasets

import peer
import stack


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--split")
    parser.add_argument("--rows", type=int, default=20000)
    parser.add_argument("--num-proc", type=int)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--lengths")
    options = parser.parse_args()
    stack.quiet()
    datasets.disable_caching()
    opened = time.perf_counter()
    tokenizer = stack.open_tokenizer(options.tokenizer)
    rows = stack.open_rows(options.dataset, options.split)
    rows = rows.select([number % len(rows) for number in range(options.rows)]) if options.rows else rows
    started = time.perf_counter()
    encoded = rows.map(lambda row: stack.encode(row, tokenizer, options.max_length), remove_columns=rows.column_names, num_proc=options.num_proc)
    ended, whole = time.perf_counter(), peer.since_launch()
    seconds = ended - started
    lengths = [[sum(label == -100 for label in labels), len(labels)] for labels in encoded["labels"]]
    if options.lengths:
        Path(options.lengths).write_text(json.dumps(lengths) + "\n")
    tokens = sum(every for _, every in lengths)
    peer.say({"seconds": seconds, "rows": len(rows), "rows_per_second": len(rows) / seconds, "whole_seconds": ended - opened,
              "launch_to_end_seconds": whole, "tokens": tokens, "tokens_per_second": tokens / seconds,
              "peak_rss_bytes": peer.peak_rss_bytes(), "settings": vars(options)})


if __name__ == "__main__":
    main()
