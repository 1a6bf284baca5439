"""Several processes that train one model together, as torchrun starts them; a process that is alone notices nothing."""

import os
from contextlib import contextmanager

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel


def processes():
    """How many processes train together; 1 for one that is alone."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank():
    """The number of this process, 0 to processes() - 1. Number 0 shows the progress and writes the files."""
    return distributed.get_rank() if processes() > 1 else 0


@contextmanager
def joined():
    """Inside the block this process works with the others that torchrun started: gloo between CPUs, NCCL between GPUs.

    Without torchrun nothing happens. Raises ValueError for more processes on a machine than it has GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or "RANK" not in os.environ:
        yield
        return
    backend, gpus, here = "gloo", torch.cuda.device_count(), int(os.environ["LOCAL_RANK"])
    if gpus:
        if here >= gpus:
            raise ValueError(f"process {here + 1} of this machine finds {gpus} GPUs, each process needs its own; start "
                             f"torchrun with --nproc-per-node={gpus}, or hide the GPUs with CUDA_VISIBLE_DEVICES=")
        torch.cuda.set_device(here)                  # from now on "cuda" means this one
        backend = "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def share_of(count):
    """Which positions of a batch of `count` belong to this process: int64 (about count / processes(),), in order.

    Each position belongs to exactly one process, and i to the same as count - 1 - i, so that CutMix, which mixes each image
    with its partner from the batch read backwards, finds both in one process.
    """
    position = torch.arange(count)
    return position[torch.minimum(position, count - 1 - position) % processes() == rank()]


def data_parallel(model):
    """What to call in training instead of `model`: the same answers, and gradients averaged over all processes."""
    if processes() == 1:
        return model
    return DistributedDataParallel(model, gradient_as_bucket_view=True)


def summed(values):
    """A tensor added up over all processes, the same in each of them."""
    if processes() > 1:
        distributed.all_reduce(values)
    return values


def of_all(value):
    """A list with the value of each process, by rank; anything that can be pickled."""
    if processes() == 1:
        return [value]
    values = [None] * processes()
    distributed.all_gather_object(values, value)
    return values
