"""Makes crates/formats/tests/fixtures/pyjson: texts that Python's own json module writes.

python tools/python/formats_pyjson.py crates/formats/tests/fixtures/pyjson
"""

import json
import pathlib
import random
import struct
import sys

random.seed(7)
FLOATS = [
    0.0, -0.0, 1.0, 1e-5, 5e-5, 0.1, 1e16, 1e15, 123456789012345680.0, 9999999999999998.0, 0.0001, 0.00001234,
    1.5e300, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 1 / 3, 3.8400000000000005e-05, float("nan"),
    float("inf"), float("-inf"), 100.0, 1e22, 1e23, 0.30000000000000004, 4.41928450768896e17,
]
FLOATS += [random.uniform(-1, 1) * 10 ** random.randint(-20, 20) for _ in range(200)]
FLOATS += [struct.unpack("<d", struct.pack("<Q", random.getrandbits(64)))[0] for _ in range(200)]
# Dyadic fractions of 17 digits and more: here two shortest texts may be equally near.
FLOATS += [1.2054214477539062] + [random.getrandbits(21) / 2 ** random.randint(17, 24) for _ in range(300)]
FLOATS += [2.0**power for power in range(-1074, 1024, 7)]

VALUES = [
    None,
    True,
    {"b": 1, "a": [1, 2.5, "x"], "é": {}, "空": []},
    "a\u2028\x7f\x1f\"\\/\n\r\t\b\f😀é空",
    [[], {}, [{}]],
    {"z": {"y": [{"x": 1e-7}]}, "": 0},
    -12,
    2**70,
    [1, [2, [3]]],
    {"\U0001f600": 1, "\uffff": 2, "a": 3},
]


def texts(value):
    return {
        "value": value,
        "line": json.dumps(value),
        "pretty": json.dumps(value, indent=2, sort_keys=True),
        "compact": json.dumps(value, separators=(",", ":")),
        "raw": json.dumps(value, indent=4, ensure_ascii=False),
    }


def main():
    folder = pathlib.Path(sys.argv[1])
    floats = [[struct.pack("<d", value).hex(), json.dumps(value)] for value in FLOATS]
    (folder / "floats.json").write_text(json.dumps(floats, indent=0))
    (folder / "texts.json").write_text(json.dumps([texts(value) for value in VALUES], indent=1))


main()
