"""Threads, workers, devices, memory, streams; factories; outlier folders; weights; what is said."""

import errno
import io
import json
import os
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as serialise

from benchmarks.families.made import MODEL, SMALLEST, Made, boards_folder, texts_of
from benchmarks.families.runs import smuggled
from benchmarks.families.tables import lay_text
from benchmarks.trials import (
    CANARY,
    EITHER,
    REFUSED,
    TAKEN,
    Case,
    Looker,
    Seen,
    Setting,
    command,
    shown,
)

_DRY = ("run", "--model", "ce_digits", "--suite", "quick", "--samples", "4", "--dry-run")
_REAL = ("run", "--model", "ce_digits", "--suite", "smallest.toml", "--samples", "4")


def devices(made: Made, rng: random.Random) -> Iterator[Case]:
    """Devices that aren't there, or are none."""
    named = ("cuda", "cuda:0", "cuda:1", "cuda:99", "cuda:-1", "cuda:x", "cuda:", "CUDA", "gpu")
    named += ("mps", "mps:0", "xla", "xpu", "hip", "vulkan", "meta", "meta:0", "privateuseone")
    named += ("", " ", "cpu ", " cpu", "CPU", "cpu:0", "cpu:1", "cpu:-1", "cpu:99999", "cpu:x")
    named += (
        "hpu",
        "ipu",
        "lazy",
        "fpga",
        "maia",
        "mtia",
        "ve",
        "ort",
        "mkldnn",
        "opengl",
        "ideep",
    )
    named += ("cuda:99999999999", "cuda:0:0", "0", "1", "None", "x" * 100_000, "a\nb", "\x1b[31m")
    named += ("cuda:" + "9" * 5000, "c\0pu", "sparse_cuda", "quantized_cpu", "cuda,cpu", "tpu")
    for device in named:
        right = EITHER if device.strip().lower() == "cpu" or device == "cpu:0" else REFUSED
        for verb, arguments in {
            "run": (*_DRY, "--device", device),
            "verify": ("verify", str(made.run), "--device", device),
            "train": ("train", f"models/{MODEL}.toml", "--device", device),
            "add": ("leaderboard", "add", str(made.run), "--device", device),
        }.items():
            if (verb == "train" and right != REFUSED) or (verb == "verify" and right != REFUSED):
                continue
            look = _advises_no_cuda if device.startswith("cuda") else None
            told, act = f"{verb} --device {shown(device)}", command(*arguments)
            yield Case("machines", told, act, made.lay_models, right=right, look=look)
    for device in ("cuda", "cuda:7", "meta", "x", "", 1, None, [], "cpu:9", "mps", True, {}):
        yield _spec(made, "device", device)


def _advises_no_cuda(seen: Seen) -> str:
    import torch

    advice = seen.stderr.rpartition(":")[2]
    return "advises cuda" if "cuda" in advice and not torch.cuda.is_available() else ""


def _spec(made: Made, name: str, value: Any) -> Case:
    """A value in the spec of a run that is verified, or reported on, anew."""
    record = made.record
    record["spec"][name] = value

    def lay() -> None:
        (made.lay_run() / "run.json").unlink()
        Path("run/run.json").write_text(json.dumps(record), "utf-8")

    return Case("machines", f"verify: spec.{name} = {shown(value)}", command("verify", "run"), lay)


def threads(made: Made, rng: random.Random) -> Iterator[Case]:
    """More threads or workers than a machine can have."""
    many = (1000, 10_000, 100_000, 10**6, 2**31 - 1, 2**31, 2**32, 2**63, 10**30)
    for number in many:
        for option in ("--threads", "--workers", "--batch-size"):
            # That many may be taken as as many as there are.
            refused = option != "--batch-size" or number >= 2**63
            right = REFUSED if refused else EITHER
            act = command(*_REAL, f"{option}={number}")
            yield Case("machines", f"run {option}={number}", act, made.lay_suite, right)
            dry = command(*_DRY, f"{option}={number}")
            yield Case("machines", f"dry run {option}={number}", dry, right=right)
        yield _spec(made, "threads", number)
    for value in (0, -1, 1.5, "1", None, True, [], {}, float("nan"), "x", 1e9):
        yield _spec(made, "threads", value)
        yield _spec(made, "batch_size", value)
        yield _spec(made, "samples", value)


def streams(made: Made, rng: random.Random) -> Iterator[Case]:
    """A full disk behind stdout, and terminals that aren't UTF-8."""
    run = str(made.run)
    commands: dict[str, tuple[str, ...]] = {
        "list models": ("list", "models"),
        "list --json": ("list", "models", "--json"),
        "list attacks": ("list", "attacks"),
        "list datasets": ("list", "datasets"),
        "show": ("show", MODEL),
        "compare": ("compare", run, run),
        "verify": ("verify", run),
        "report": ("report", "run"),
        "dry run": _DRY,
        "help": ("--help",),
        "version": ("--version",),
        "check": ("leaderboard", "check", "--folder", str(boards_folder())),
    }
    for told, arguments in commands.items():
        act, lay = command(*arguments), made.lay_run
        yield Case("machines", f"{told} > /dev/full", act, lay, stdout="/dev/full")
        for encoding in ("ascii", "latin-1", "cp1252", "cp437", "shift_jis", "koi8-r"):
            plain = Setting(encoding=encoding)
            act = command(*arguments, setting=plain)
            yield Case("machines", f"{told} in {encoding}", act, lay, TAKEN, look=_ignore)
    for encoding in ("ascii", "latin-1", "cp1252"):
        bad = ("run", "--model", "no_such_é_∞", "--dry-run")
        act = command(*bad, setting=Setting(encoding=encoding))
        yield Case("machines", f"an error in {encoding}", act)


def _ignore(seen: Seen) -> str:
    return ""


def memory(made: Made, rng: random.Random) -> Iterator[Case]:
    """No memory, no files left to open, a broken disk: nothing is said to be corrupt."""
    run = str(made.run)
    faults = {
        "MemoryError": MemoryError(),
        "ENOMEM": OSError(errno.ENOMEM, "Cannot allocate memory"),
        "EIO": OSError(errno.EIO, "Input/output error"),
        "EMFILE": OSError(errno.EMFILE, "Too many open files"),
    }
    for name in ("parquet", "safetensors", "run.json", "verification.json", ".toml"):
        for told, fault in faults.items():
            for verb, arguments in {
                "report": ("report", "run"),
                "verify": ("verify", "run"),
                "compare": ("compare", run, run),
                "run": _DRY,
                "show": ("show", MODEL),
            }.items():
                reads = {"report": name != ".toml", "show": name == ".toml"}
                reads |= {"verify": True, "compare": name not in (".toml", "safetensors")}
                reads |= {"run": name in (".toml", "safetensors")}
                if not reads[verb]:
                    continue
                act = _with_fault(command(*arguments), name, fault)
                told_here = f"{verb}: {told} at {name}"
                right = REFUSED | {1} if verb == "verify" else REFUSED
                yield Case("machines", told_here, act, made.lay_run, right, look=_no_blame)


def _with_fault(act: Callable[[], None], name: str, fault: BaseException) -> Callable[[], None]:
    def faulty() -> None:
        import builtins

        real = io.open

        def opened(file: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(file, str | Path) and str(file).endswith(name):
                raise fault
            return real(file, *args, **kwargs)

        io.open = opened  # type: ignore[assignment]
        builtins.open = opened  # type: ignore[assignment]
        act()

    return faulty


def _no_blame(seen: Seen) -> str:
    said = seen.stderr + seen.stdout
    return next(
        (f"says {word!r}" for word in ("corrupt", "delete it", "altered") if word in said), ""
    )


_MODULE = """import sys, os, torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(64, 10)
    def forward(self, x):
        return {forward}
def make():
    {make}
"""
_FORWARD = "self.inner(x.flatten(1))"


def factories(made: Made, rng: random.Random) -> Iterator[Case]:
    """Factories that exit, fail, or make what is no model of the data."""
    makes = {
        "exits with 0": "sys.exit(0)",
        "exits with a text": "sys.exit('bye')",
        "exits with 7": "raise SystemExit(7)",
        "quits": "quit()",
        "raises": "raise ValueError('no')",
        "raises without a word": "raise ValueError",
        "raises lines": "raise ValueError('a\\nb\\r\\nc')",
        "raises escapes": "raise ValueError('\\x1b[31mred\\x1b]0;t\\x07')",
        "raises what can't be told": "raise type('E', (Exception,), {'__str__': print})()",
        "raises a BaseException": "raise type('E', (BaseException,), {})('no')",
        "raises a GeneratorExit": "raise GeneratorExit",
        "raises StopIteration": "raise StopIteration",
        "raises a MemoryError": "raise MemoryError",
        "recurses": "make()",
        "asserts": "assert False",
        "divides by zero": "1 / 0",
        "interrupts": "raise KeyboardInterrupt",
        "returns nothing": "pass",
        "returns a class": "return Net",
        "returns text": "return 'net'",
        "returns a function": "return lambda x: x",
        "returns a dictionary": "return {'state_dict': Net().state_dict()}",
        "takes an argument": "return (lambda x: x)()",
        "imports what isn't there": "import no_such_module_at_all",
        "reads what isn't there": "open('gone.pt')",
        "returns a script": "return torch.jit.script(nn.Linear(64, 10))",
        "returns a module of float64": "return Net().double()",
        "raises much": "raise ValueError('x' * 100000)",
    }
    for told, code in makes.items():
        text = _MODULE.format(forward=_FORWARD, make=code)
        right = EITHER if "float64" in told else REFUSED
        right = right | {130} if told == "interrupts" else right
        yield _factory(made, f"factory {told}", text, "given:make", right)
    forwards = {
        "a tuple": "(self.inner(x.flatten(1)), x)",
        "a dictionary": "{'logits': self.inner(x.flatten(1))}",
        "None": "None",
        "numbers": "1.0",
        "NumPy": "self.inner(x.flatten(1)).numpy()",
        "one axis": "self.inner(x.flatten(1)).sum(1)",
        "three axes": "self.inner(x.flatten(1))[None]",
        "nine classes": "self.inner(x.flatten(1))[:, :9]",
        "eleven classes": "torch.cat([self.inner(x.flatten(1)), x.flatten(1)[:, :1]], 1)",
        "one class": "self.inner(x.flatten(1))[:, :1]",
        "squeezed logits": "self.inner(x.flatten(1)).squeeze()",
        "a fixed batch": "self.inner(x.flatten(1)).view(4, 10)",
        "fewer rows": "self.inner(x.flatten(1))[:1]",
        "transposed": "self.inner(x.flatten(1)).T",
        "NaN": "self.inner(x.flatten(1)) * float('nan')",
        "infinity": "self.inner(x.flatten(1)) + float('inf')",
        "integers": "self.inner(x.flatten(1)).long()",
        "booleans": "self.inner(x.flatten(1)) > 0",
        "complex numbers": "self.inner(x.flatten(1)).to(torch.complex64)",
        "strings": "'logits'",
        "an error": "1 / 0",
        "an exit": "sys.exit(0)",
        "another shape's error": "nn.Linear(3, 10)(x)",
        "a recursion": "self(x)",
    }
    for told, code in forwards.items():
        text = _MODULE.format(forward=code, make="return Net()")
        right = EITHER | {3} if told == "integers" else REFUSED
        yield _factory(made, f"model returns {told}", text, "given:make", right)
    for told, text in {
        "a syntax error": "def make(:\n",
        "an empty module": "",
        "an exit at import": "raise SystemExit(0)",
        "an error at import": "1 / 0",
        "no Python": "\x00\x01",
        "no UTF-8": "# \udcff\n",
    }.items():
        yield _factory(made, told, text, "given:make", REFUSED)
    sound = _MODULE.format(forward=_FORWARD, make="return Net()")
    for name in (
        *("given", "given:", ":make", ":", "given:mak", "given:Net.x", "given:make()", "", " "),
        *("given:__doc__", "os:system", "gi ven:make", "..given:make", "given:make:x", "a" * 5000),
        *(
            "given.toml:make",
            "given/make",
            "\x1b[31m:make",
            "sys:exit",
            "builtins:exit",
        ),
    ):
        yield _factory(made, f"factory = {shown(name)}", sound, name, REFUSED)
    leaves = f"open({CANARY!r}, 'w').close()"
    text = _MODULE.format(forward=_FORWARD, make=leaves)
    for verb in ("run", "show", "list", "train", "export"):
        yield _factory(made, f"without --allow-code: {verb}", leaves + "\n" + text, "given:make",
                       EITHER, allowed=False, verb=verb)  # fmt: skip


def _factory(
    made: Made,
    told: str,
    text: str,
    name: str,
    right: frozenset[int],
    allowed: bool = True,
    verb: str = "run",
) -> Case:
    entry = (
        'name = "given"\nmethod = "x"\ndataset = "digits"\n'
        f"factory = {json.dumps(name)}\n[input]\nmean = [0.5]\nstd = [0.5]\n"
    )

    def lay() -> None:
        made.lay_suite()
        Path("models").mkdir()
        lay_text("models/given.toml", entry)()
        Path("models/given.py").write_bytes(text.encode("utf-8", "surrogateescape"))

    arguments = {
        "run": ("run", "--model", "models/given.toml", *_REAL[3:]),
        "show": ("show", "models/given.toml"),
        "list": ("list", "models"),
        "train": ("train", "models/given.toml"),
        "export": ("run", "--model", "*", *_DRY[3:], "--only", "fgsm"),
    }[verb]
    if verb == "export":
        arguments = ("run", "--model", "give*", "--suite", "quick", "--dry-run")
    arguments = (*arguments, "--allow-code") if allowed else arguments
    setting = Setting({"ROBUSTEVAL_MODELS": "models"} if verb in ("list", "export") else {})
    look = _no_evidence if right == REFUSED else None
    act = command(*arguments, setting=setting)
    return Case("factories", told, act, lay, right, look=look, quotes=True)


def _no_evidence(seen: Seen) -> str:
    """Told before the first attack."""
    late = [path.name for path in seen.place.rglob("attack-*.parquet")]
    return f"told after {len(late)} attacks" if late else ""


def _png(size: tuple[int, int] = (20, 30), mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, "PNG")
    return stream.getvalue()


def outliers(made: Made, rng: random.Random) -> Iterator[Case]:
    """Folders of outliers with a file that is no image, and with odd names."""
    png = _png()
    bad: dict[str, bytes] = {
        "empty": b"",
        "half": png[: len(png) // 2],
        "text": b"<html>not found</html>",
        "a pickle": smuggled(),
        "noise": rng.randbytes(1000),
        "only a head": png[:30],
        "a bomb": _bomb(),
        "a huge side": png[:16] + (2**31 - 1).to_bytes(4, "big") + png[20:],
        "no pixels": png[:16] + bytes(8) + png[24:],
        "a flipped check sum": png[:29] + b"\0\0\0\0" + png[33:],
        "AppleDouble in an image's name": b"\0\5\x16\7" + bytes(80),
        "JSON": b"{}",
        "zeros": bytes(500),
    }
    suite = SMALLEST + '\n[detection]\ndetectors = ["max_softmax"]\nnatural = 0\n'
    for told, content in bad.items():
        for name in ("x.png", "x.jpg", "X.TIFF", "a/b/x.webp"):
            yield _outlier(f"{told} as {name}", suite, name, content, REFUSED)
        yield _outlier(f"{told} as ._x.png", suite, "._x.png", content, EITHER)
        yield _outlier(f"{told} as .x.png", suite, ".x.png", content, EITHER)
        yield _outlier(f"{told} as __MACOSX/x.png", suite, "__MACOSX/x.png", content, EITHER)
        yield _outlier(f"{told} as x.txt", suite, "x.txt", content, TAKEN)
    for told, make in {
        "a folder": lambda path: path.mkdir(),
        "a FIFO": os.mkfifo,
        "a link to nothing": lambda path: path.symlink_to("gone"),
        "a link to itself": lambda path: path.symlink_to(path.name),
        "/dev/zero": lambda path: path.symlink_to("/dev/zero"),
        "no permission": lambda path: (path.write_bytes(png), path.chmod(0)),
    }.items():
        right = EITHER if told in ("a folder", "a link to nothing") else REFUSED
        yield _outlier(f"{told} as x.png", suite, "x.png", make, right)
    for mode in ("L", "1", "P", "RGBA", "LA", "I;16"):
        right = EITHER if mode in ("I;16", "I") else TAKEN
        yield _outlier(f"an image of mode {mode}", suite, "x.png", _png(mode=mode), right)
    for size in ((1, 1), (1, 5000), (5000, 1), (2, 3)):
        yield _outlier(f"an image of {size}", suite, "x.png", _png(size), TAKEN)
    for name in ODD_TITLES:
        folder = name.replace("/", "∕").replace("\0", "")[:80]
        if folder.strip() and folder not in (".", ".."):
            told, right = (
                f"a folder called {shown(folder)}",
                TAKEN if folder.isprintable() else EITHER,
            )
            yield _outlier(told, suite, "x.png", png, right, folder)


def _bomb() -> bytes:
    """A small file whose head tells of 900 million pixels."""
    png = _png((1, 1), "L")
    head = b"IHDR" + struct.pack(">II", 30_000, 30_000) + png[24:29]
    return png[:12] + head + struct.pack(">I", zlib.crc32(head)) + png[33:]


def _outlier(
    told: str,
    suite: str,
    name: str,
    content: bytes | Callable[[Path], object],
    right: frozenset[int],
    folder: str = "photos",
) -> Case:
    def lay() -> None:
        Path("smallest.toml").write_text(suite, "utf-8")
        place = Path(folder)
        place.mkdir()
        (place / "good.png").write_bytes(_png())
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content) if isinstance(content, bytes) else content(path)

    setting = Setting(powerless="no permission" in told)
    act = command(*_REAL, "--outlier-dir", folder, setting=setting)
    look: Looker | None = _no_evidence if right == REFUSED else None
    return Case("outliers", told, act, lay, right, look=look)


ODD_TITLES = (
    *(r"$\frac{$", "$", "$$", "$$$", r"\$", r"$\alpha$", "$x^{$", "$_$", "100 $ and 5 $", r"$\x$"),
    *(r"\frac{1}{2}", "{", "}", "^", "_", "a_b", "%s", "%", "{0}", "{{ x }}", "{% raw %}", "\\"),
    *(r"$\mathrm{$", r"$\undefined$", r"$\sqrt[3$", "$" * 999, r"$\left($", r"$a$ $b", "&amp;"),
    *("x" * 100_000, "é" * 20_000, "字" * 3000, "\u202eabc", "😀", "\U0010ffff", "\ue000", "אבג"),
    *("a\nb", "a\rb", "a\tb", "\x00", "\x0b", "\x0c", "\x85", "\u2028", "\x1b[31m", "\x07", "\x9b"),
    *("<script>alert(1)</script>", "</svg>", "]]>", "<!--", "-->", "'\"><img src=x>", "&lt;b&gt;"),
    *("", " ", ".", "..", "=1+1", "+1", "-1", "@x", "|a|b|", "`x`", "[a](javascript:x)", "# x"),
)


def titles(made: Made, rng: random.Random) -> Iterator[Case]:
    """Odd titles, notes and names in a suite: drawn at the end, when all the work is done."""
    for title in ODD_TITLES:
        for field in ("title", "note", "description"):
            suite = _with_text(field, title)
            act = command(*_REAL)
            right = TAKEN if title.isprintable() and 0 < len(title.strip()) < 200 else EITHER
            told = f"{field} = {shown(title)}"
            yield Case("titles", told, act, lay_text("smallest.toml", suite), right)


def _with_text(field: str, text: str) -> str:
    quoted = (
        json.dumps(text).replace("\\ud83d\\ude00", "😀").replace("\\udbff\\udfff", "\U0010ffff")
    )
    quoted = quoted.replace("\x7f", "\\u007f")
    if field == "title":
        return SMALLEST.replace('title = "FGSM"', f"title = {quoted}")
    if field == "note":
        return SMALLEST.replace('norms = ["Linf"]', f'norms = ["Linf"]\nnote = {quoted}')
    lines = SMALLEST.splitlines()
    return "\n".join(f"description = {quoted}" if s.startswith("desc") else s for s in lines) + "\n"


def weights(made: Made, rng: random.Random) -> Iterator[Case]:
    """Weights files that are none, or another network's, each with the digest the entry states."""
    raw = (made.folder / "models" / f"{MODEL}.safetensors").read_bytes()
    tensors = load_arrays(raw)
    first = next(iter(tensors))
    changed: dict[str, tuple[Any, tuple[str, ...]]] = {
        "empty": (b"", ()),
        "half": (raw[: len(raw) // 2], ()),
        "a pickle": (smuggled(), ()),
        "a zip": (b"PK\x03\x04" + bytes(100), ()),
        "noise": (rng.randbytes(5000), ()),
        "a head of 2⁶³ bytes": ((2**63).to_bytes(8, "little") + raw[8:], ()),
        "a head of 1 GB": ((10**9).to_bytes(8, "little") + raw[8:], ()),
        "a deep head": (_headed(b"[" * 50_000), ()),
        "a head that is a list": (_headed(b"[]"), ()),
        "no tensors": ({}, ()),
        "all lacking but one": ({first: tensors[first]}, ()),
        "one lacking": ({k: v for k, v in tensors.items() if k != first}, (first,)),
        "one more": ({**tensors, "extra.weight": np.ones(3, np.float16)}, ("extra.weight",)),
        "module. before each": ({f"module.{k}": v for k, v in tensors.items()}, ("module.",)),
        "_orig_mod. before each": (
            {f"_orig_mod.{k}": v for k, v in tensors.items()},
            ("_orig_mod.",),
        ),
        "model. before each": ({f"model.{k}": v for k, v in tensors.items()}, ()),
        "another shape": ({**tensors, first: np.ones((1, 2, 3), np.float16)}, (first,)),
        "a scalar": ({**tensors, first: np.ones((), np.float16)}, (first,)),
        "integers": ({k: v.astype(np.int64) for k, v in tensors.items()}, ()),
        "booleans": ({k: v.astype(bool) for k, v in tensors.items()}, ()),
        "NaN": ({k: v * np.float16("nan") for k, v in tensors.items()}, ()),
        "infinity": ({k: v * np.float16("inf") for k, v in tensors.items()}, ()),
        "an escape in a name": ({**tensors, "\x1b[31m\u2028": np.ones(1, np.float16)}, ()),
        "a long name": ({**tensors, "x" * 100_000: np.ones(1, np.float16)}, ()),
        "a thousand more": ({**tensors, **{f"x{i}": np.ones(1) for i in range(1000)}}, ()),
    }
    for told, (content, says) in changed.items():
        right = EITHER if told in ("integers", "booleans") else REFUSED
        yield _weights(made, told, content, says, right)


def _headed(head: bytes) -> bytes:
    return len(head).to_bytes(8, "little") + head


def _weights(
    made: Made, told: str, content: Any, says: tuple[str, ...], right: frozenset[int]
) -> Case:
    import hashlib

    raw = content if isinstance(content, bytes) else serialise(content)
    digest = hashlib.sha256(raw).hexdigest()
    old = texts_of(made.folder)[0]
    before, _, rest = old.partition('sha256 = "')
    text = f'{before}sha256 = "{digest}{rest[64:]}'

    def lay() -> None:
        Path("models").mkdir()
        Path(f"models/{MODEL}.toml").write_text(text, "utf-8")
        Path(f"models/{MODEL}.safetensors").write_bytes(raw)

    act = command("run", "--model", f"models/{MODEL}.toml", *_DRY[3:])
    return Case("weights", f"weights: {told}", act, lay, right, says)


def messages(made: Made, rng: random.Random) -> Iterator[Case]:
    """Mistakes that people make, and what the line must say."""
    yield from _usage()
    for name in ("cnn.pt", "net.pth", "x.ckpt", "w.safetensors", "m.pkl", "m.onnx", "dir/cnn.pt"):
        for there in (True, False):

            def lay(name: str = name, there: bool = there) -> None:
                Path(name).parent.mkdir(parents=True, exist_ok=True)
                if there:
                    Path(name).write_bytes(smuggled())

            for verb in ("run", "show", "train"):
                arguments = (verb, "--model", name, "--dry-run") if verb == "run" else (verb, name)
                says = ("checkpoint|weights|entry",) if there else ()
                told = f"{verb} {name}, {'a checkpoint' if there else 'not there'}"
                yield Case("messages", told, command(*arguments), lay, says=says)
    for only, says in {
        "adaptive": ("full",),
        "autoattack": ("full",),
        "smallest": ("full",),
        "pgd20": ("full|pgd10",),
        "FGSM": ("fgsm",),
        "pgd": ("pgd10",),
    }.items():
        act = command(*_DRY, "--only", only)
        yield Case("messages", f"--only {only} in quick", act, says=(only, *says))
    for name in ("resnet50", "resnet18", "vgg16", "wide_resnet", "vit_b_16", "Standard", "x", "?!"):
        act = command("run", "--model", name, "--dry-run")
        yield Case("messages", f"--model {name}", act, look=_names_few)
    for name, near in {"pcl_digit": "pcl_digits", "PCL_digits": "pcl_digits", "ce-digits": "ce_digits"}.items():  # noqa: E501  # fmt: skip
        act = command("run", "--model", name, "--dry-run")
        yield Case("messages", f"--model {name}", act, says=(near,))
    for dataset in ("cifar10", "mnist"):
        for count in (0, 1, 9, 11):

            def lay(dataset: str = dataset, count: int = count) -> None:
                for k in range(count):
                    place = Path(f"data/{dataset}/test/class{k}")
                    place.mkdir(parents=True)
                    (place / "a.png").write_bytes(_png((32, 32)))
                Path("data").mkdir(exist_ok=True)

            asked = ("run", "--model", f"ce_{dataset}", "--dry-run", "--data-dir", "data")
            says = (str(count), "class") if count else (dataset,)
            told = f"a folder with {count} of {dataset}'s classes"
            yield Case("messages", told, command(*asked), lay, says=says)


def _names_few(seen: Seen) -> str:
    import re

    named = set(re.findall(r"[a-z0-9]+_[a-z0-9_]+", seen.stderr))
    return f"answers with {len(named)} names" if len(named) > 8 else ""


def _usage() -> Iterator[Case]:
    """What a parser refuses, in one line as well."""
    for arguments in (
        *((), ("rum",), ("run",), ("run", "x"), ("verify",), ("report",), ("compare",), ("show",)),
        *(("train",), ("list", "model"), ("list", "x", "y"), ("leaderboard",), ("--no-such",)),
        *(("leaderboard", "ad"), ("leaderboard", "add"), ("leaderboard", "check", "x"), ("-x",)),
        *(("run", "--model"), ("run", "--modell", "x"), ("run", "--model", "a", "--suit", "x")),
        *(("verify", "a", "b"), ("verify", "a", "--again", "-1"), ("verify", "a", "--again", "x")),
        *(("verify", "a", "--again", "1.5"), ("report", "a", "b"), ("compare", "a")),
        *(("run", "--model", "ce_digits", "--keep", "some"), ("run", "--model", "ce_digits", "-q")),
        *(("leaderboard", "add", "x", "--again", "0"), ("show", "a", "b"), ("show", "--json")),
        *(
            ("run", "--dry-run"),
            ("run", "--model", "ce_digits", "--dry-run=yes"),
            ("run", "--", "x"),
        ),
        *(("list", "--json=1"), ("run", "--model=ce_digits", "--seed"), ("\x1b[31m",), ("\u2028",)),
        *(("run", "--model", "ce_digits", "--time-limit", "soon"), ("é",), ("x" * 100_000,)),
        *(("show", "ce_digits", "\x1b]0;x\x07"), ("run", "--\x1b[31m"), ("--install",)),
    ):
        told = " ".join(shown(part) for part in arguments)
        shows_help = arguments in ((), ("leaderboard",))
        look = _ignore if shows_help else None
        right = EITHER if shows_help else REFUSED
        act = command(*arguments)
        if shows_help:
            continue
        yield Case("messages", f"usage: {told}", act, right=right, look=look)
