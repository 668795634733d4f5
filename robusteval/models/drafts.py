"""A first entry for a user's model, with comments: `robusteval init`.

What it writes passes the schema as it stands.  Lines marked with ← are to be looked at.
"""

import hashlib
import inspect
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path

from robusteval.data.known import DATASETS
from robusteval.errors import EntryError, OutputError, WeightsError, shown
from robusteval.models.entry import Entry
from robusteval.models.entry_tables import BackboneTable
from robusteval.reading import read_file
from robusteval.schema import checked, plain_name
from robusteval.storage import create_file

_COMMENT = 31  # the column where comments begin
_PLAIN = "safetensors.torch.save_file(model.state_dict(), FILE)"


@dataclass(frozen=True)
class Draft:
    """What is known of a model: at most one of ``factory``, ``backbone`` and ``onnx``."""

    name: str
    dataset: str | None = "cifar10"  # None where only data of the user's own fit
    classes: int | None = None
    factory: str | None = None
    backbone: str | None = None
    onnx: Path | None = None
    weights: Path | None = None

    @property
    def folder(self) -> Path:
        """Where its entry belongs: beside the file that it names."""
        file = self.onnx or self.weights
        return file.parent if file else Path()

    @property
    def path(self) -> Path:
        """Of its entry."""
        return self.folder / f"{self.name}.toml"

    @property
    def made_by(self) -> str:
        """The factory: what was named, or one to be written."""
        return self.factory or f"{''.join(c if c.isalnum() else '_' for c in self.name)}_net:build"

    @property
    def needs_code(self) -> bool:
        """Whether a factory makes its network."""
        return self.backbone is None and self.onnx is None


def write_draft(draft: Draft) -> Path:
    """Writes its entry, and returns the path.

    Raises RobustevalError, before anything is written, for names that there aren't, files that
    can't be read, and an entry that is there already.
    """
    _require_sound(draft)
    text = _text(draft)
    checked(Entry, tomllib.loads(text), str(draft.path), EntryError)
    if not create_file(draft.path, text.encode(), "choose another folder"):
        raise OutputError(f"{draft.path} is there already: choose another name, or remove it")
    return draft.path


def next_steps(draft: Draft) -> list[str]:
    """What is left to do, in a line each, commands last."""
    steps = [f"look at the lines marked ← in {draft.path}: only you know what belongs there"]
    module, _, function = draft.made_by.partition(":")
    if draft.needs_code and draft.factory is None:
        steps.append(f"write {draft.folder / module}.py: {function}() returns your torch.nn.Module")
    stored = draft.onnx or draft.weights
    if not stored:
        trained = "; or fill in [training] and train it" if _is_ours(draft) else ""
        steps.append(
            f"save its weights beside it, by {_PLAIN}, and name them in [weights]{trained}"
        )
    allowed = " --allow-code" if draft.needs_code else ""
    data = "" if draft.dataset else " --data FOLDER"
    if stored:
        steps.append(f"robusteval show {draft.path} --weights")
    run = f"robusteval run --model {draft.path} --suite quick --samples 100{data}{allowed}"
    return [*steps, run if stored else f"once it has its weights: {run}"]


def _is_ours(draft: Draft) -> bool:
    return draft.backbone is not None and ":" not in draft.backbone


def _require_sound(draft: Draft) -> None:
    try:
        plain_name(draft.name)
    except ValueError as error:
        raise EntryError(f"name {shown(draft.name)} {error}") from None
    given = [name for name in ("factory", "backbone", "onnx") if getattr(draft, name)]
    if len(given) > 1:
        raise EntryError(f"--{' and --'.join(given)}: a network comes from one of them")
    if draft.onnx and draft.weights:
        raise EntryError("--onnx and --weights: an ONNX file holds its weights, so leave one out")
    if draft.factory is not None and not all(draft.factory.partition(":")):
        raise EntryError(f"--factory {shown(draft.factory)}: give module:function")
    if draft.dataset is not None:
        DATASETS.get(draft.dataset)
    if draft.backbone is not None:
        _require_backbone(draft.backbone)


def _require_backbone(name: str) -> None:
    """Raises UnknownNameError, with near names, and EntryError where a library is missing."""
    from robusteval.models.backbones import BACKBONES
    from robusteval.models.libraries import is_foreign, require_known

    table = BackboneTable(name=name)
    if is_foreign(table):
        require_known(table)
    else:
        BACKBONES.get(name)


def _text(draft: Draft) -> str:
    blocks = [_about(draft), _input()]
    if draft.backbone is not None:
        blocks.append(_backbone(draft.backbone))
    blocks.append(_onnx(draft.onnx) if draft.onnx else _weights(draft))
    if _is_ours(draft):
        blocks.append(_training())
    if draft.needs_code:
        blocks += [_factory_options(), _prototypes()]
    return "\n".join([*blocks, _claims()])


def _about(draft: Draft) -> str:
    lines = [
        "# A model for robusteval.  Lines marked ← are for you to look at, and what is commented",
        "# out may stay so.  docs/entry.md explains the fields.",
        "",
        _line(f"name = {_quoted(draft.name)}", "that of this file"),
        _line('method = "ce"', "← how it was trained: ce, pcl, mpat, or a word of yours"),
        _dataset(draft.dataset),
        _line(f"classes = {draft.classes}", "of its logits")
        if draft.classes is not None
        else _line("# classes = 10", "of its logits, where they aren't the data set's"),
        _line('# description = ""', "what a reader of its report should know"),
        _line('# license = ""', ""),
    ]
    if draft.needs_code:
        lines += [
            _line(
                f"factory = {_quoted(draft.made_by)}", "← module:function that returns the network,"
            ),
            _line("", "beside this file or installed; runs with --allow-code"),
        ]
    return "\n".join([*lines, ""])


def _dataset(name: str | None) -> str:
    if name is None:
        return _line('# dataset = ""', "none: it is run with --data PATH, on images of yours")
    return _line(f"dataset = {_quoted(name)}", "← what to test it on: robusteval list datasets")


def _input() -> str:
    return _table(
        ("[input]", "normalisation happens inside, so that ε means pixels"),
        ("mean = [0.0]", "← one number, or one a channel, of pixels in [0, 1]"),
        ("std = [1.0]", "← 0 and 1 where the network normalises, or was trained without"),
    )


def _backbone(name: str) -> str:
    options = _options(name)
    rows = [("[backbone]", ""), (f"name = {_quoted(name)}", "")]
    if ":" in name:
        rows.append(("# drop_rate = 0.0", "options of the architecture, if it has some"))
    rows += [(f"# {option} = {json.dumps(value)}", "") for option, value in options.items()]
    layers = '["features"]' if ":" in name else f"[{_quoted(_last_layer(name, options))}]"
    return "\n".join(
        [
            _table(*rows),
            _table(
                ("# [head]", "for prototypes; without it logits are the network's own"),
                ('# reading = "nearest_prototype"', "or softmax"),
                (f"# layers = {layers}", "those that carry prototypes"),
                ("# prototypes_per_class = 1", ""),
                ('# similarity = "sql2"', "l2, sql2, l1, linf, dot, cosine"),
            ),
        ]
    )


def _options(name: str) -> dict[str, object]:
    """Options of a backbone of ours that have a default, with it."""
    from robusteval.models.backbones import BACKBONES

    if ":" in name:
        return {}
    known = list(inspect.signature(BACKBONES.get(name)).parameters.values())[1:]
    return {p.name: p.default for p in known}


def _last_layer(name: str, options: dict[str, object]) -> str:
    from robusteval.models.backbones import BACKBONES

    return list(BACKBONES.get(name)(1, **options).channels)[-1]


def _onnx(path: Path) -> str:
    if path.suffix != ".onnx":
        raise WeightsError(f"{path} is not an ONNX file: name one that ends in .onnx")
    return _table(
        ("[onnx]", "needs the extra: pip install 'robusteval[onnx]'"),
        (f"file = {_quoted(path.name)}", "beside this file"),
        (f"sha256 = {_quoted(_sha256(path))}", ""),
    )


def _weights(draft: Draft) -> str:
    if (path := draft.weights) is None:
        return _table(
            ("# [weights]", "safetensors; no pickle is ever loaded"),
            (f"# file = {_quoted(draft.name + '.safetensors')}", "beside this file"),
            (f"# sha256 = {_quoted('…')}", "sha256sum prints it"),
        )
    if path.suffix != ".safetensors":
        raise WeightsError(
            f"{path} is not a safetensors file, and no pickle is ever loaded: save the weights by "
            f"{_PLAIN}"
        )
    return _table(
        ("[weights]", ""),
        (f"file = {_quoted(path.name)}", "beside this file"),
        (f"sha256 = {_quoted(_sha256(path))}", ""),
    )


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(read_file(path)).hexdigest()
    except OSError as error:
        raise WeightsError(f"{path} can't be read ({error.strerror}): check the path") from None


def _training() -> str:
    return _table(
        ("# [training]", "robusteval train writes [weights] then"),
        ('# recipe = "ce"', "robusteval/training has one for each method"),
        ("# epochs = 20", ""),
        ("# lr = 0.05", ""),
        ("# validation = 100", "samples held out to choose the epoch"),
    )


def _factory_options() -> str:
    return _table(
        ("# [factory_options]", "what the factory is called with"),
        ("# width = 64", ""),
    )


def _prototypes() -> str:
    return _table(
        ("# [prototypes]", "for attacks and detectors that need prototypes"),
        ('# tensor = "prototypes"', "(K, M, D) or (K, D), in the weights or the module"),
        ('# features = "body"', "the layer whose output they are compared with"),
        ('# similarity = "sql2"', "l2, sql2, l1, linf, dot, cosine"),
        ('# reading = "module"', "whose classes: the module's, or nearest_prototype"),
    )


def _claims() -> str:
    return _table(
        ("# [[claims]]", "what its paper reports; stands beside what is found"),
        ('# attack = "pgd10"', "a name from the suite"),
        ("# accuracy = 50.0", "in percent"),
        ('# norm = "Linf"', ""),
        ('# eps = "8/255"', ""),
    )


def _table(*rows: tuple[str, str]) -> str:
    return "\n".join([*(_line(*row) for row in rows), ""])


def _line(code: str, comment: str) -> str:
    return f"{code:{_COMMENT - 1}} # {comment}" if comment else code


def _quoted(text: str) -> str:
    """As TOML writes text; JSON's escapes are TOML's."""
    return json.dumps(text, ensure_ascii=False)
