"""Several processes that train one model together, as torchrun starts them; a process that is alone notices nothing."""

import os
import time
from contextlib import contextmanager
from importlib import import_module
from uuid import uuid4

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
    # The functions of this module take for the group of all processes what that is when the module is imported, and
    # DistributedDataParallel imports it. If that happened inside the group, they would keep it, and its threads, until Python
    # ends, which may then end with SIGABRT.
    import_module("torch.distributed.nn.functional")
    store, number, count = next(distributed.rendezvous("env://"))
    distributed.init_process_group(backend, store=_of_this_start(store, number, count), rank=number, world_size=count)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def _of_this_start(store, number, count):
    """The part of torchrun's store that belongs to the `count` processes started now, the same in each; `number` is ours.

    torchrun keeps one store for all its restarts (PyTorch's issue 135712 tells why). There a process would find the
    addresses of workers that are dead, and fail, or wait for half an hour. So process 0 makes up a new name and gives it to
    those who ask, by names of their own that are as new: what it answers to a dead one is read by nobody. The number of the
    restart would not do: it may differ between machines.
    """
    if number:
        ours = uuid4().hex
        store.set(f"asks {number}", ours)
        name = store.get(f"answer to {ours}").decode()       # waits
        store.add(f"{name} is known", 1)
        return distributed.PrefixStore(name, store)
    name, asked = uuid4().hex, [f"asks {other}" for other in range(1, count)]
    end = time.monotonic() + store.timeout.total_seconds()
    while (known := store.add(f"{name} is known", 0)) < len(asked):
        if time.monotonic() > end:
            raise TimeoutError(f"{known + 1} of {count} processes came within {store.timeout}; start the others too")
        for key in asked:
            if store.check([key]):
                store.set(f"answer to {store.get(key).decode()}", name)
        time.sleep(0.05)
    return distributed.PrefixStore(name, store)


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
