"""Peak memory of `robusteval run` on few and on many images.

    python -m benchmarks.memory [--few 1000] [--many 10000]

FGSM and PGD on `pcl_mnist` (needs MNIST in $ROBUSTEVAL_DATA).  Prints the peak resident size of
each, the images' own size, and the ratio on top of them; exits 1 if it is above 1.1.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path


def peak(model: str, samples: int) -> int:
    """The largest resident size of a run, in bytes."""
    out = tempfile.mkdtemp()
    command = [
        *(sys.executable, "-m", "robusteval", "run", "--model", model, "--suite", "quick"),
        *("--only", "fgsm", "pgd10", "--samples", str(samples), "--out", out),
    ]
    process = os.posix_spawn(
        command[0],
        command,
        dict(os.environ),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, str(Path(out) / "stderr"), os.O_WRONLY | os.O_CREAT, 0o600),
        ],
    )
    _, status, usage = os.wait4(process, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit((Path(out) / "stderr").read_text("utf-8", "replace"))
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="pcl_mnist")
    parser.add_argument("--pixels", type=int, default=784)
    parser.add_argument("--few", type=int, default=1000)
    parser.add_argument("--many", type=int, default=10000)
    arguments = parser.parse_args()
    few, many = peak(arguments.model, arguments.few), peak(arguments.model, arguments.many)
    images = (arguments.many - arguments.few) * arguments.pixels
    ratio = (many - images) / few
    print(f"{arguments.few:6d} images: peak {few / 2**20:7.1f} MiB")
    print(
        f"{arguments.many:6d} images: peak {many / 2**20:7.1f} MiB, {images / 2**20:.1f} of images"
    )
    print(f"ratio on top of the images: {ratio:.3f}")
    return 0 if ratio <= 1.1 else 1


if __name__ == "__main__":
    sys.exit(main())
