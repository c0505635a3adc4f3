"""Makes crates/formats/tests/fixtures/torch_bin: checkpoints as torch.save writes them, and their tensors.

python tools/python/formats_torch_bin.py crates/formats/tests/fixtures/torch_bin
"""

import pathlib
import sys

import safetensors.torch
import torch


class Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(5, 3)
        self.norm = torch.nn.LayerNorm(3)
        self.head = torch.nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight  # tied: one storage, two keys


def state_dict():
    torch.manual_seed(3)
    tensors = Tiny().state_dict()  # an OrderedDict with _metadata
    tensors["half"] = torch.randn(2, 3).half()
    tensors["bfloat"] = torch.randn(4).bfloat16()
    tensors["double"] = torch.randn(2, 2).double()
    tensors["long"] = torch.tensor([-1, 2**40])
    tensors["bool"] = torch.tensor([True, False, True])
    tensors["scalar"] = torch.tensor(2.5)
    tensors["empty"] = torch.empty(0, 3)
    whole = torch.arange(24.0).reshape(4, 6)
    tensors["rows"] = whole[1:3]  # an offset into a shared storage
    tensors["columns"] = whole[:, 2:5]  # strided
    tensors["transposed"] = whole.t()
    tensors["permuted"] = torch.arange(24).reshape(2, 3, 4).permute(2, 0, 1)
    tensors["parameter"] = torch.nn.Parameter(torch.randn(2, 3), requires_grad=True)
    return tensors


def main():
    folder = pathlib.Path(sys.argv[1])
    tensors = state_dict()
    torch.save(tensors, folder / "state_dict.bin")
    plain = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    safetensors.torch.save_file(plain, folder / "state_dict.safetensors", metadata={"format": "pt"})
    small = {"a": torch.arange(6.0).reshape(2, 3)}
    torch.save(small, folder / "protocol4.bin", pickle_protocol=4)
    torch.save(small, folder / "legacy.bin", _use_new_zipfile_serialization=False)
    torch.save({"b": torch.zeros(2).expand(3, 2)}, folder / "expanded.bin")
    torch.save({"model": small, "epoch": 3}, folder / "checkpoint.bin")
    torch.save(Tiny(), folder / "whole_module.bin")


main()
