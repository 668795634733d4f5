"""Peak memory of `robusteval run` on few and on many images, and on large ones.

    python -m benchmarks.memory [--few 1000] [--many 10000]
    python -m benchmarks.memory --side 224 [--samples 128]

The first: FGSM and PGD on `pcl_mnist` (needs MNIST in $ROBUSTEVAL_DATA).  Prints the peak resident
size of each, the images' own size, and the ratio on top of them; exits 1 if it is above 1.1.

The second: an untrained ResNet-18 of torchvision on random images of 3×224×224, as a user's own
module.  FGSM and PGD run on 16 of them, then ``adaptive`` on all at once, with few passes: a step
on full batches is as large as many.  Then come two parts of what it does where gradients look
masked: a look at what is inside the model, and random search.  Prints the peak resident size; exits
1 if it is 4 GiB or more.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import blocks

MOST = 4 * 2**30  # bytes, of large images
_PASSES = 3  # of each sample
_TOGETHER = 8  # proposals of random search, as many as ``adaptive`` makes of a masked model


def peak(command: Sequence[str], folder: str) -> int:
    """The largest resident size of a process, in bytes."""
    process = os.posix_spawn(
        command[0],
        command,
        dict(os.environ),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, str(Path(folder) / "stderr"), os.O_WRONLY | os.O_CREAT, 0o600),
        ],
    )
    _, status, usage = os.wait4(process, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit((Path(folder) / "stderr").read_text("utf-8", "replace"))
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def of_run(model: str, samples: int) -> int:
    """The peak of a run of FGSM and PGD on a model of the zoo."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "robusteval", "run", "--model", model, "--suite", "quick"),
            *("--only", "fgsm", "pgd10", "--samples", str(samples), "--out", folder),
        ]
        return peak(command, folder)


def of_large_images(side: int, samples: int) -> int:
    """The peak of attacks on a ResNet-18 and so many images of 3×side×side."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.memory", "--attack-in", folder]
        return peak([*command, "--side", str(side), "--samples", str(samples)], folder)


def attack_large_images(side: int, samples: int, out: Path) -> None:
    """What ``of_large_images`` measures."""
    import torch

    import robusteval
    from robusteval.attacks.adaptive import adaptive
    from robusteval.attacks.counting import as_counted
    from robusteval.attacks.leading import leader_of
    from robusteval.attacks.random_search import flip_squares
    from robusteval.attacks.search import Search
    from robusteval.types import ThreatModel
    from robusteval.vision import torchvision

    torch.manual_seed(0)
    resnet18 = torchvision().models.resnet18
    module, images = resnet18(num_classes=10).eval(), torch.rand(samples, 3, side, side)
    with torch.no_grad():
        labels = torch.cat([module(part).argmax(1) for part in images.split(16)])
    suite = out / "large.toml"
    suite.write_text(f'name = "large"\n{blocks.FGSM}{blocks.PGD_3}', "utf-8")
    few, threats = slice(0, 16), ["Linf:1/255"]
    robusteval.evaluate(module, images[few], labels[few], suite=suite, eps=threats, out=out)
    threat = ThreatModel("Linf", "1/255")
    adaptive(module, images, labels, threat, passes_per_sample=_PASSES)
    search = Search(as_counted(module, images, labels), images, labels, threat)
    leader_of(search, search.alive(), seed=0)
    flip_squares(search, search.alive(), _TOGETHER, torch.Generator().manual_seed(0), _TOGETHER)


def grown(model: str, pixels: int, few: int, many: int) -> float:
    """How many times its peak on few images a run takes on many, these themselves left out."""
    small, large = of_run(model, few), of_run(model, many)
    images = (many - few) * pixels
    print(f"{few:6d} images: peak {small / 2**20:7.1f} MiB")
    print(f"{many:6d} images: peak {large / 2**20:7.1f} MiB, {images / 2**20:.1f} of images")
    return (large - images) / small


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="pcl_mnist")
    parser.add_argument("--pixels", type=int, default=784)
    parser.add_argument("--few", type=int, default=1000)
    parser.add_argument("--many", type=int, default=10000)
    parser.add_argument("--side", type=int)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--attack-in", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.attack_in is not None:
        attack_large_images(asked.side, asked.samples, asked.attack_in)
        return 0
    if asked.side is not None:
        used = of_large_images(asked.side, asked.samples)
        shape = f"3×{asked.side}×{asked.side}"
        print(f"{asked.samples} images of {shape}: peak {used / 2**30:.2f} GiB")
        return 0 if used < MOST else 1
    ratio = grown(asked.model, asked.pixels, asked.few, asked.many)
    print(f"ratio on top of the images: {ratio:.3f}")
    return 0 if ratio <= 1.1 else 1


if __name__ == "__main__":
    sys.exit(main())
