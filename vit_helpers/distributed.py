"""Several processes that train one model together, started by torchrun; one that is alone notices nothing."""

import os
from contextlib import contextmanager
from importlib import import_module

import torch
from torch import distributed


@contextmanager
def process_group():
    """Inside, this process works with torchrun's others: gloo between CPUs, NCCL between GPUs."""
    if "RANK" not in os.environ:                         # not started by torchrun
        yield
        return
    # Imported inside the group, this would keep the group's threads until Python ends, maybe with SIGABRT.
    import_module("torch.distributed.nn.functional")
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))         # from now on "cuda" means this one
    # torchrun keeps one store for all its restarts, with the addresses of dead workers in it.
    store, number, count = next(distributed.rendezvous("env://"))
    store = distributed.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, store=store, rank=number, world_size=count)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def world_size():
    """How many processes train together; 1 for one that is alone."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank():
    """The number of this process, from 0. Number 0 shows the progress and writes the files."""
    return distributed.get_rank() if world_size() > 1 else 0


def all_reduce_sum(values):
    """A tensor added up over all processes, the same in each of them."""
    if world_size() > 1:
        distributed.all_reduce(values)
    return values
