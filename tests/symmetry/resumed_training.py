"""A training with its tracker in its checkpoint; it kills itself at one step if told so.

Run as ``python resumed_training.py FOLDER [STEP]``.
"""

import os
import signal
import sys
from pathlib import Path

import torch
from smooth_network import SMOOTH_CHARGES, SmoothNetwork, smooth_batch
from torch.nn.functional import cross_entropy

from modeq.symmetry.tracking import track

STEPS = 40


def main(folder, killed_at=None):
    torch.set_num_threads(1)
    checkpoint = Path(folder, "checkpoint.pt")
    module = SmoothNetwork()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01, dampening=0.2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    tracker = track(module, optimizer, SMOOTH_CHARGES, every=3)
    parts = {"module": module, "optimizer": optimizer, "schedule": schedule, "tracker": tracker}
    done = 0
    if checkpoint.exists():
        state = torch.load(checkpoint)
        done = state.pop("done")
        for name, part in parts.items():
            part.load_state_dict(state[name])
    for step in range(done, STEPS):
        if step == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        x, y = smooth_batch(step)
        optimizer.zero_grad()
        cross_entropy(module(x), y).backward()
        optimizer.step()
        schedule.step()
        if step % 10 == 9:
            torch.save({"done": step + 1, **{name: part.state_dict() for name, part in parts.items()}}, checkpoint)
    tracker.record.save(Path(folder, "record.npz"))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
