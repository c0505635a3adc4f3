"""Runs a transformers model in f64 all the way: the truth that f32 and bf16 are measured from."""

import contextlib

import torch


@contextlib.contextmanager
def everything_in_f64():
    """The models cast to f32 inside (norms, softmax, rotary tables); here those casts go to f64 instead."""
    to_float, f32 = torch.Tensor.float, torch.float32
    torch.Tensor.float = torch.Tensor.double
    torch.float32 = torch.float64
    try:
        yield
    finally:
        torch.Tensor.float, torch.float32 = to_float, f32
