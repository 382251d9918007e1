"""Two processes train one network, wrapped in one of torch's ways; the first writes what its tracker says.

Run as ``python distributed_worker.py FOLDER data_parallel|fully_sharded``.
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6, eps=1e-30), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(),
                         nn.Linear(4, 3)).double()  # fmt: skip


def train(rank, folder, kind):
    from modeq.symmetry.finding import find_charges
    from modeq.symmetry.tracking import track

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous_{kind}", rank=rank, world_size=2)
    try:
        module = network()
        charges = find_charges(module, torch.zeros(4, 3, dtype=torch.float64), "cross_entropy")
        if kind == "data_parallel":
            module = nn.parallel.DistributedDataParallel(module)
        else:
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            module = fully_shard(module, mesh=init_device_mesh("cpu", (2,)))
        optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01, nesterov=True)
        with track(module, optimizer, charges) as tracker:
            for step in range(25):
                draw = torch.Generator().manual_seed(10 * step + rank)
                x, y = torch.randn(8, 3, generator=draw, dtype=torch.float64), torch.randint(0, 3, (8,), generator=draw)
                optimizer.zero_grad()
                F.cross_entropy(module(x), y).backward()
                optimizer.step()
        found = {
            "residual": max(tracker.residual().values()),
            "defect": max(tracker.symmetry_defect().values()),
            "measured": {name: tracker.record[name].measured[-1].tolist() for name in tracker.record},
            "moved": min(float(abs(c.measured[-1] - c.measured[0]).max()) for c in tracker.record.charges.values()),
        }
        Path(folder, f"{kind}_{rank}.json").write_text(json.dumps(found))
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.spawn(train, args=sys.argv[1:], nprocs=2)
