"""Two well-known PyTorch programs, their recipes written anew as such programs are written."""

import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from stages.common import dataset


def example() -> tuple[nn.Sequential, torch.optim.Optimizer, float, bool]:
    """The recipe of pytorch/examples, mnist/main.py: network, optimizer, learning rate's factor from
    epoch to epoch, and whether it shuffles (only on a GPU)."""
    network = nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.25),
        nn.Flatten(),
        nn.Linear(9216, 128),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(128, 10),
    )
    return network, torch.optim.Adadelta(network.parameters(), lr=1.0), 0.7, False


def plain_sgd() -> tuple[nn.Sequential, torch.optim.Optimizer, float, bool]:
    """The network of `pytorch/cnn_sgd`, trained as in the project that it is from."""
    network = nn.Sequential(
        nn.Conv2d(1, 24, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(24, 36, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(900, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )
    return network, torch.optim.SGD(network.parameters(), lr=0.01), 1.0, True


PROGRAMS = {"example": example, "plain_sgd": plain_sgd}


def train(threads: int, program: str, epochs: str) -> Iterator[dict[str, float]]:
    """Train, in batches whose images torchvision prepares one by one, and test after each epoch."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network, optimizer, factor, shuffle = PROGRAMS[program]()
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=factor)
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    with tempfile.TemporaryDirectory() as temporary:
        folder = as_torchvision_keeps_it(Path(temporary))
        training = DataLoader(datasets.MNIST(folder, True, transform), batch_size=64, shuffle=shuffle)
        test = DataLoader(datasets.MNIST(folder, False, transform), batch_size=1000)
        for _ in range(int(epochs)):
            started = time.perf_counter()
            network.train()
            for images, labels in training:
                optimizer.zero_grad()
                loss = functional.cross_entropy(network(images), labels)
                loss.backward()
                optimizer.step()
            schedule.step()
            seconds = time.perf_counter() - started
            network.eval()
            with torch.no_grad():
                correct = sum((network(images).argmax(1) == labels).sum().item() for images, labels in test)
            yield {"seconds": seconds, "accuracy": correct / len(test.dataset)}


def as_torchvision_keeps_it(folder: Path) -> Path:
    """Write data/ into `folder` as the IDX files that torchvision.datasets.MNIST reads."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, prefix in (("train", "train"), ("test", "t10k")):
        for kind, ending in (("images", "images-idx3-ubyte"), ("labels", "labels-idx1-ubyte")):
            array = np.load(dataset.FOLDER / f"{part}_{kind}.npy")
            head = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            (raw / f"{prefix}-{ending}").write_bytes(head + array.tobytes())
    return folder
