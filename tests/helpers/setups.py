"""What a reader of the documents has: a model, images, a folder of photographs."""

from pathlib import Path
from typing import Any

import numpy as np


def module_and_images(names: dict[str, Any], folder: Path) -> None:
    """``my_module``, an MLP trained on digits; ``images`` and ``labels``, arrays that it never
    saw."""
    import torch
    from torch import nn

    from robusteval import load_dataset

    torch.manual_seed(0)
    train, test = load_dataset("digits", "train"), load_dataset("digits").balanced_subset(60)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimiser = torch.optim.Adam(module.parameters(), 1e-2)
    for _ in range(60):
        loss = nn.functional.cross_entropy(module(train.images()), train.labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    names |= {"my_module": module, "images": test.images().numpy(), "labels": test.labels.numpy()}


def photographs(names: dict[str, Any], folder: Path) -> None:
    """``photos/``: a folder of 16×16 images for each of three classes, each with its colour."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for k, name in enumerate(("apple", "leaf", "sky")):
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(8):
            pixels = rng.integers(0, 120, (16, 16, 3)).astype(np.uint8)
            pixels[..., k] += 90
            Image.fromarray(pixels).save(folder / "photos" / name / f"{i}.png")
