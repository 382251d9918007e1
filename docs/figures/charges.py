"""Charges of a small convolutional network on handwritten digits, with their laws, and a classifier that swings."""

import numpy as np
import torch
from style import figure, save
from torch import nn

import modeq as mq
from modeq.numeric.data import digits, minibatches
from modeq.numeric.networks.small import digits_cnn

COLOURS = ("#c1441a", "#1f6fb2", "#3d8b3d", "#8a5fb0", "#b8860b")


def trained(net, steps, momentum):
    """Return the record of a training, and h·n at its rows."""
    images, labels = digits("train")
    sgd = torch.optim.SGD(net.parameters(), lr=0.1, momentum=momentum, weight_decay=5e-3)
    with mq.track(net, sgd, mq.find_charges(net, images[:64], loss="cross_entropy")) as tracker:
        for batch in minibatches(len(images), 64, steps=steps):
            sgd.zero_grad()
            nn.functional.cross_entropy(net(images[batch]), labels[batch]).backward()
            sgd.step()
    return tracker.record


def draw(ax, charge, generators, title, ylabel):
    """Draw some generators of a charge: what was measured as dots, and the discrete law as lines."""
    steps = np.arange(len(charge.measured))
    every = max(1, len(steps) // 16)
    for colour, k in zip(COLOURS, generators, strict=False):
        ax.plot(steps, charge.predicted["discrete"][:, k], color=colour, linewidth=1.5)
        ax.plot(steps[::every], charge.measured[::every, k], "o", color=colour, markersize=3.5)
    ax.set(xlabel="step", ylabel=ylabel, title=title)


if __name__ == "__main__":
    torch.set_num_threads(1)
    record = trained(digits_cnn(eps=1e-30), steps=400, momentum=0.9)
    torch.manual_seed(0)
    swinging = trained(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), steps=600, momentum=0.99)
    made, panels = figure(4, rows=2, height=6.0)
    draw(panels[0], record["conv2"], range(5), "before a batch norm", "squared norm of a filter")
    draw(panels[1], record["bn2-fc"], range(5), "around a ReLU", "difference of squared norms")
    draw(panels[2], record["fc.weight"], range(5), "before a softmax", "sum of a column")
    draw(panels[3], swinging["1.weight"], range(3), "momentum 0.99", "sum of a column")
    for ax in panels[2:]:
        ax.axhline(0, color="#8a8a8a", linewidth=0.8)
    save(made, __file__)
