"""Make torch give the same bits again: in the next life of a run, and on the next node."""

from __future__ import annotations

import os


def fix(threads: int, seed: int) -> None:
    """Seed everything, fix the number of threads and switch to deterministic algorithms.

    A sum depends on how it is split: the thread count must not follow the number of cores of the node, and
    the vector width must not follow its CPU. Environment variables that cap the CPU's instruction set are set
    here too, but only count when this is called before torch is imported; set ones are kept. Across x86-64
    CPUs with AVX2 this removes the differences that are known; equal bytes are tested on one CPU type only.
    GPUs of different types give different bits.

    Args:
        threads: threads that torch computes with; 0 leaves it to torch, which takes all cores.
        seed: for random, numpy and torch.
    """
    for name, value in (
        ("CUBLAS_WORKSPACE_CONFIG", ":4096:8"),
        ("ATEN_CPU_CAPABILITY", "avx2"),
        ("ONEDNN_MAX_CPU_ISA", "AVX2"),
        ("MKL_CBWR", "AVX2"),
        ("MKL_DYNAMIC", "FALSE"),
    ):
        os.environ.setdefault(name, value)
    import torch
    from transformers import set_seed

    if threads:
        torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)  # some CUDA kernels have no deterministic twin
    torch.backends.cudnn.benchmark = False
    set_seed(seed)
