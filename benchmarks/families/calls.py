"""Calls from Python: attacks, metrics and the API with arguments of every wrong kind."""

import random
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.families.made import Made
from benchmarks.trials import EITHER, REFUSED, TAKEN, Case, call, shown

_COUNT = 6


@lru_cache
def some_samples() -> Any:
    """Six images of digits with their labels, and a model that gets them right."""
    from robusteval.api import load_dataset, load_model

    model, data = load_model("pcl_digits"), load_dataset("digits").balanced_subset(_COUNT)
    return model, data.images(), data.labels


def images_table() -> dict[str, tuple[Callable[[Any], Any], frozenset[int]]]:
    """Odd images, and whether they may be taken."""
    import torch

    nan, inf = float("nan"), float("inf")
    return {
        "float64": (lambda x: x.double(), EITHER),
        "half": (lambda x: x.half(), EITHER),
        "bfloat16": (lambda x: x.bfloat16(), EITHER),
        "uint8": (lambda x: (x * 255).byte(), REFUSED),
        "int64": (lambda x: (x * 255).long(), REFUSED),
        "bool": (lambda x: x > 0.5, EITHER),
        "complex": (lambda x: x.to(torch.complex64), REFUSED),
        "NumPy": (lambda x: x.numpy(), EITHER),
        "a list": (lambda x: x.tolist(), REFUSED),
        "a tuple": (lambda x: (x, x), REFUSED),
        "None": (lambda x: None, REFUSED),
        "text": (lambda x: "images", REFUSED),
        "a number": (lambda x: 0.5, REFUSED),
        "one image without a batch": (lambda x: x[0], REFUSED),
        "vectors": (lambda x: x.flatten(1), REFUSED),
        "five axes": (lambda x: x[None], REFUSED),
        "no axes": (lambda x: x.mean(), REFUSED),
        "NaN": (lambda x: torch.where(x > 0.9, nan, x), REFUSED),
        "infinity": (lambda x: torch.where(x > 0.9, inf, x), REFUSED),
        "in [0, 255]": (lambda x: x * 255, REFUSED),
        "in [-1, 1]": (lambda x: x * 2 - 1, REFUSED),
        "a little above 1": (lambda x: x + 1e-3, REFUSED),
        "other channels": (lambda x: x.expand(-1, 3, -1, -1), REFUSED),
        "another size": (lambda x: x[..., :5, :5], EITHER),
        "no images": (lambda x: x[:0], EITHER),
        "channels last": (lambda x: x.contiguous(memory_format=torch.channels_last), TAKEN),
        "expanded": (lambda x: x[:1].expand(_COUNT, -1, -1, -1), EITHER),
        "with a gradient": (lambda x: x.clone().requires_grad_(), TAKEN),
        "sparse": (lambda x: x.to_sparse(), REFUSED),
        "meta": (lambda x: x.to("meta"), REFUSED),
    }


def labels_table() -> dict[str, tuple[Callable[[Any], Any], frozenset[int]]]:
    """Odd labels, and whether they may be taken."""
    import torch

    return {
        "int32": (lambda y: y.int(), EITHER),
        "uint8": (lambda y: y.byte(), EITHER),
        "int8": (lambda y: y.to(torch.int8), EITHER),
        "float": (lambda y: y.float(), REFUSED),
        "float with halves": (lambda y: y + 0.5, REFUSED),
        "NaN": (lambda y: y * float("nan"), REFUSED),
        "bool": (lambda y: y > 4, REFUSED),
        "complex": (lambda y: y.to(torch.complex64), REFUSED),
        "NumPy": (lambda y: y.numpy(), EITHER),
        "a list": (lambda y: y.tolist(), EITHER),
        "a tuple": (lambda y: tuple(y.tolist()), EITHER),
        "None": (lambda y: None, REFUSED),
        "text": (lambda y: "0123", REFUSED),
        "texts": (lambda y: ["0"] * _COUNT, REFUSED),
        "a number": (lambda y: 3, REFUSED),
        "(B, 1)": (lambda y: y[:, None], REFUSED),
        "(1, B)": (lambda y: y[None], REFUSED),
        "one-hot": (lambda y: torch.nn.functional.one_hot(y, 10), REFUSED),
        "one too high": (lambda y: y + 10, REFUSED),
        "-1": (lambda y: y - 1 - y.max(), REFUSED),
        "-100": (lambda y: torch.full_like(y, -100), REFUSED),
        "2⁶³-1": (lambda y: torch.full_like(y, 2**63 - 1), REFUSED),
        "fewer": (lambda y: y[:3], REFUSED),
        "more": (lambda y: torch.cat([y, y]), REFUSED),
        "none": (lambda y: y[:0], REFUSED),
        "no axes": (lambda y: y[0], REFUSED),
        "meta": (lambda y: y.to("meta"), REFUSED),
    }


def _attacks() -> dict[str, Callable[..., Any]]:
    from robusteval.attacks.adaptive import adaptive
    from robusteval.attacks.gaussian_noise import gaussian_noise
    from robusteval.attacks.prototype_ascents import joint_pc, prototype_margin
    from robusteval.attacks.smallest import smallest
    from robusteval.attacks.transfer import transfer

    def short(model: Any, images: Any, labels: Any, threat: Any, **more: Any) -> Any:
        return adaptive(model, images, labels, threat, passes_per_sample=9, **more)

    def few(model: Any, images: Any, labels: Any, threat: Any, **more: Any) -> Any:
        return smallest(model, images, labels, threat, steps=3, **more)

    def from_another(model: Any, images: Any, labels: Any, threat: Any, **more: Any) -> Any:
        return transfer(model, images, labels, threat, source="ce_digits", steps=2, **more)

    return {
        "adaptive": short,
        "smallest": few,
        "transfer": from_another,
        "joint_pc": joint_pc,
        "prototype_margin": prototype_margin,
        "gaussian_noise": gaussian_noise,
    }


def images_and_labels(made: Made, rng: random.Random) -> Iterator[Case]:
    """Each attack with each kind of images and of labels."""
    for attack, function in _attacks().items():
        for norm, eps in (("Linf", "0.1"), ("L2", "0.5")):
            for told, (change, right) in images_table().items():
                if attack == "gaussian_noise" and told == "other channels":
                    right = EITHER  # it asks no model
                yield _attacked(attack, function, norm, eps, f"images: {told}", change, None, right)
            for told, (change, right) in labels_table().items():
                yield _attacked(attack, function, norm, eps, f"labels: {told}", None, change, right)


def _attacked(
    attack: str,
    function: Callable[..., Any],
    norm: Any,
    eps: str,
    told: str,
    of_images: Callable[[Any], Any] | None,
    of_labels: Callable[[Any], Any] | None,
    right: frozenset[int],
) -> Case:
    def act() -> None:
        import torch

        from robusteval.types import ThreatModel, parse_eps

        model, images, labels = some_samples()
        given = of_images(images) if of_images else images
        before = given.clone() if torch.is_tensor(given) and not given.is_meta else None
        threat = ThreatModel(norm, parse_eps(eps))
        found = function(model, given, of_labels(labels) if of_labels else labels, threat)
        if before is not None and not torch.equal(before, given):
            raise AssertionError("the user's images were changed")
        if torch.is_tensor(found) and torch.is_tensor(given) and found.shape != given.shape:
            raise AssertionError(f"returns {tuple(found.shape)} for {tuple(given.shape)}")

    return Case("calls", f"{attack}, {norm}: {told}", call(act), right=right)


_ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**40, 1.5, float("nan"), float("inf"), "", "x", "100", b"x"),
    *([], (), {}, [1], ["x"], {"a": 1}, object, object(), print, 1j, "\0", "\x1b[31m", "x" * 5000),
    *(np.float32(0.5), np.int64(3), np.zeros(3), np.array("x"), Path("x"), Path("a\0b"), range(3)),
)


def threats(made: Made, rng: random.Random) -> Iterator[Case]:
    """What stands in the place of a threat model, a seed, a model."""
    for attack, function in _attacks().items():
        for value in _ODD:
            for told, change in (
                ("threat", lambda v: {"threat": v}),
                ("seed", lambda v: {"seed": v}),
                ("model", lambda v: {"model": v}),
            ):

                def act(
                    function: Callable[..., Any] = function,
                    given: dict[str, Any] = change(value),
                ) -> None:
                    from robusteval.types import ThreatModel, parse_eps

                    model, images, labels = some_samples()
                    threat = ThreatModel("Linf", parse_eps("0.1"))
                    all_of_them = {"model": model, "threat": threat} | given
                    model, threat = all_of_them.pop("model"), all_of_them.pop("threat")
                    function(model, images, labels, threat, **all_of_them)

                whole = isinstance(value, int | np.integer)
                right = EITHER if told == "seed" and whole else REFUSED
                if attack == "gaussian_noise" and told == "model":
                    right = EITHER  # it knows nothing of the model
                if value is print and told == "model":
                    right = EITHER | REFUSED
                yield Case("calls", f"{attack}: {told} = {shown(value)}", call(act), right=right)


def modules(made: Made, rng: random.Random) -> Iterator[Case]:
    """Modules that are no classifiers, under attacks and under the API."""
    for told, forward in _forwards().items():
        for name in (*_attacks(), "estimate", "evaluate"):
            if name in ("joint_pc", "prototype_margin", "gaussian_noise"):
                continue
            reads = told in ("a tuple", "a dictionary") and name in ("estimate", "evaluate")
            right = TAKEN if reads else REFUSED
            yield Case("calls", f"{name}: a module that returns {told}",
                       call(_with_module(name, forward)), right=right)  # fmt: skip


def _forwards() -> dict[str, Callable[[Any], Any]]:
    import torch

    weight = torch.linspace(-1, 1, 640).view(64, 10)

    def logits(x: Any) -> Any:
        return x.flatten(1) @ weight

    return {
        "a tuple": lambda x: (logits(x), x),
        "a dictionary": lambda x: {"logits": logits(x)},
        "None": lambda x: None,
        "a number": lambda x: 1.0,
        "NumPy": lambda x: logits(x).detach().numpy(),
        "one axis": lambda x: logits(x).sum(1),
        "three axes": lambda x: logits(x)[None],
        "one class": lambda x: logits(x)[:, :1],
        "no classes": lambda x: logits(x)[:, :0],
        "fewer rows": lambda x: logits(x)[:1],
        "transposed logits": lambda x: logits(x).T,
        "squeezed logits": lambda x: logits(x[:1]).squeeze(),
        "NaN": lambda x: logits(x) * float("nan"),
        "infinity": lambda x: logits(x) + float("inf"),
        "integers": lambda x: logits(x).long(),
        "booleans": lambda x: logits(x) > 0,
        "complex numbers": lambda x: logits(x).to(torch.complex64),
        "sparse logits": lambda x: logits(x).to_sparse(),
        "meta logits": lambda x: logits(x).to("meta"),
        "text": lambda x: "logits",
    }


def _with_module(name: str, forward: Callable[[Any], Any]) -> Callable[[], None]:
    def act() -> None:
        from torch import nn

        from robusteval import api
        from robusteval.types import ThreatModel, parse_eps

        class Net(nn.Module):
            def forward(self, images: Any) -> Any:
                return forward(images)

        _, images, labels = some_samples()
        if name in ("estimate", "evaluate"):
            adapter = api.wrap_module(Net(), 10)
            options = api.Options(samples=4, only="fgsm")
            getattr(api, name)(adapter, "quick", "digits", "given", options)
        else:
            _attacks()[name](Net(), images, labels, ThreatModel("Linf", parse_eps("0.1")))

    return act


def options(made: Made, rng: random.Random) -> Iterator[Case]:
    """Each field of Options with each value, and with what it may well be given."""
    fields = (
        "samples",
        "seed",
        "eps",
        "only",
        "batch_size",
        "device",
        "workers",
        "threads",
        "keep",
    )
    fields += ("sources", "time_limit", "data_dir", "download", "outlier_folders", "allow_code")
    fields += ("out", "at_most", "progress")
    taken: dict[str, tuple[Any, ...]] = {
        "samples": (1, 4, np.int64(4), None),
        "seed": (0, 1, np.int64(3), 2**31),
        "eps": (0.1, "0.1", (0.1, 0.05), ["8/255"], 8 / 255, np.float32(0.5)),
        "only": ("fgsm", ["fgsm"], ("fgsm", "pgd10")),
        "data_dir": (".", Path(".")),
        "out": ("runs", Path("runs")),
        "time_limit": (1, 0.5, 100),
        "workers": (1,),
        "keep": ("first", "all"),
    }
    for name in fields:
        for value in (*_ODD, *taken.get(name, ())):

            def act(name: str = name, value: Any = value) -> None:
                from robusteval import api

                given = {"samples": 4, "only": ("fgsm",)} | {name: value}
                api.estimate("ce_digits", "quick", options=api.Options(**given))

            is_taken = any(value is one for one in taken.get(name, ()))
            right = TAKEN if is_taken and not isinstance(value, np.generic) else EITHER
            yield Case("options", f"{name} = {shown(value)}", call(act), right=right)
    for name, value in {
        "samples": "100", "seed": "1", "batch_size": "8", "workers": "2", "threads": "1",
        "time_limit": "5", "device": 0, "keep": "some", "eps": True, "progress": "bar",
    }.items():  # fmt: skip

        def refuse(name: str = name, value: Any = value) -> None:
            from robusteval import api

            given = {"samples": 4, "only": ("fgsm",)} | {name: value}
            api.estimate("ce_digits", "quick", options=api.Options(**given))

        right = EITHER if isinstance(value, str) and value.isdigit() else REFUSED
        word = name.replace("_", "-") + "|" + name
        yield Case("options", f"{name} = {value!r}", call(refuse), right=right, says=(word,))


def api_calls(made: Made, rng: random.Random) -> Iterator[Case]:
    """Every function of the API with one odd argument."""
    from robusteval import api

    run = str(made.run)

    def net() -> Any:
        from torch import nn

        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    few = api.Options(samples=4, only="fgsm")
    calls: dict[str, tuple[Callable[[Any], object], tuple[Any, ...]]] = {
        "load_model(name)": (api.load_model, ()),
        "load_model(device)": (lambda v: api.load_model("ce_digits", v), ()),
        "load_dataset(name)": (api.load_dataset, ()),
        "load_dataset(split)": (lambda v: api.load_dataset("digits", v), ()),
        "load_dataset(data_dir)": (
            lambda v: api.load_dataset("mnist", data_dir=v),
            ("text", "gone"),
        ),
        "wrap_module(module)": (lambda v: api.wrap_module(v, 10), ()),
        "wrap_module(classes)": (lambda v: api.wrap_module(net(), v), ("10", 1, 0, -3, 10.0, 10.5)),
        "wrap_module(mean)": (
            lambda v: api.wrap_module(net(), 10, mean=v),
            (0.5, ["a"], [0.1] * 3),
        ),
        "wrap_module(std)": (lambda v: api.wrap_module(net(), 10, std=v), (0.5, [0], [-1], [0.0])),
        "estimate(model)": (lambda v: api.estimate(v, "quick", options=few), (net(),)),
        "estimate(suite)": (lambda v: api.estimate("ce_digits", v, options=few), ()),
        "estimate(dataset)": (
            lambda v: api.estimate("ce_digits", "quick", v, options=few),
            ("mnist",),
        ),
        "estimate(name)": (
            lambda v: api.estimate(api.load_model("ce_digits"), "quick", "digits", v, few),
            ("../x", "a/b", "-x", ".x", "x\n", "é", "x" * 300, "CON", "a b"),
        ),
        "estimate(options)": (lambda v: api.estimate("ce_digits", "quick", options=v), ()),
        "evaluate(model)": (lambda v: api.evaluate(v, "quick", options=few), ()),
        "evaluate(options)": (lambda v: api.evaluate("ce_digits", "quick", options=v), ()),
        "verify(folder)": (api.verify, ()),
        "verify(model)": (lambda v: api.verify(run, v), (net(), "ce_digits")),
        "verify(data_dir)": (lambda v: api.verify(run, data_dir=v), ()),
        "verify(again)": (lambda v: api.verify(run, again=v), ("1", 10**9)),
        "verify(device)": (lambda v: api.verify(run, device=v), ()),
        "compare(folders)": (
            api.compare,
            (run, [run], [run, 1], [run, "x"], [run, None]),
        ),
        "rebuild_report(folder)": (api.rebuild_report, ()),
        "train(entry)": (api.train, ()),
    }
    for told, (function, more) in calls.items():
        for value in (*_ODD, *more):
            act = call(lambda function=function, value=value: function(value))
            sound = told in ("verify(again)", "verify(data_dir)", "verify(device)", "verify(model)")
            sound |= told in ("estimate(dataset)", "wrap_module(classes)", "wrap_module(mean)")
            sound |= told in ("wrap_module(std)", "estimate(name)", "load_dataset(data_dir)")
            sound |= told in ("load_model(device)", "estimate(options)", "evaluate(options)")
            sound |= value is None
            refused = value in more if isinstance(value, str) else False
            right = REFUSED if refused and told == "wrap_module(classes)" else EITHER
            right = right if sound else REFUSED
            yield Case("calls", f"{told} = {shown(value)}", act, right=right)


def metrics(made: Made, rng: random.Random) -> Iterator[Case]:
    """``detection_metrics`` with scores that are none."""
    good = np.linspace(0, 1, 20)
    odd: dict[str, Any] = {
        "none": good[:0],
        "NaN": np.append(good, np.nan),
        "infinity": np.append(good, np.inf),
        "two axes": good.reshape(4, 5),
        "no axes": np.array(0.5),
        "text": np.array(["a", "b"]),
        "objects": np.array([object(), None]),
        "complex": good + 1j,
        "None": None,
        "a number": 0.5,
        "a text": "scores",
        "a list of lists": [[0.1], [0.2, 0.3]],
    }
    fine: dict[str, Any] = {
        "uint8": (good * 255).astype(np.uint8),
        "bool": good > 0.5,
        "int": np.arange(20),
        "float16": good.astype(np.float16),
        "a list": good.tolist(),
        "one": good[:1],
    }
    for side in ("inside", "outside"):
        for told, value in {**odd, **fine}.items():

            def act(value: Any = value, side: str = side) -> None:
                from robusteval.detection.metrics import detection_metrics

                try:
                    pair = (value, good) if side == "inside" else (good, value)
                    found = detection_metrics(*pair)
                except ValueError as error:  # as its docstring says
                    print(f"robusteval: {error}", file=__import__("sys").stderr)
                    raise SystemExit(2) from None
                if not all(0 <= v <= 1 for v in found.values()):
                    raise AssertionError(f"not in [0, 1]: {found}")

            right = EITHER if told in fine else REFUSED
            yield Case("calls", f"detection_metrics, {side}: {told}", call(act), right=right)
