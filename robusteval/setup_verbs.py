"""The verbs of those who begin: `init` writes a first entry, `doctor` tells what is here."""

from pathlib import Path
from typing import Annotated, Any

import typer

from robusteval.arguments import AsJson, DataDir, path_option, whole_option
from robusteval.endings import print_json
from robusteval.guarded import guarded, say


@guarded
def init(
    name: Annotated[str, typer.Argument(help="The model's name, of a-z, 0-9, _ . -")],
    dataset: Annotated[
        str | None,
        typer.Option(
            help="The data set to test it on (`robusteval list datasets`); by default cifar10."
        ),
    ] = None,
    classes: Annotated[
        int | None,
        whole_option("How many classes it has; without --dataset it is for images of your own."),
    ] = None,
    factory: Annotated[
        str | None, typer.Option(help="MODULE:FUNC, which returns the torch module.")
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="An architecture, such as resnet18, timm:resnet18 or torchvision:resnet18."
        ),
    ] = None,
    onnx: Annotated[Path | None, path_option("An ONNX file, network and weights in one.")] = None,
    weights: Annotated[Path | None, path_option("Its weights: a safetensors file.")] = None,
) -> None:
    """Write a first entry for a model of yours.  It has comments, and overwrites nothing."""
    from robusteval.models.drafts import Draft, next_steps, write_draft

    dataset = "cifar10" if dataset is None and classes is None else dataset
    draft = Draft(name.removesuffix(".toml"), dataset, classes, factory, backbone, onnx, weights)
    say(f"{write_draft(draft)} is written.  Next:")
    for number, step in enumerate(next_steps(draft), 1):
        say(f"  {number}. {step}")


@guarded
def doctor(
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Tell what is installed and found here.  Also how this machine computes."""
    from robusteval import doctor as doctors

    found = doctors.examined(data_dir)
    if as_json:
        print_json(found)
    else:
        for line in _lines(found):
            say(line)


def _lines(found: dict[str, Any]) -> list[str]:
    """What was found, in words."""
    return [
        f"robusteval {found['robusteval']}, Python {found['python']}",
        *_packages(found["packages"]),
        *_device(found["device"], found["forms"]),
        *_datasets(found["datasets"]),
        *_models(found["models"]),
        *_plugins(found["plugins"]),
    ]


def _packages(rows: list[dict[str, Any]]) -> list[str]:
    lines = ["", "packages"]
    for row in rows:
        about = " ".join(filter(None, (row["name"], row["version"])))
        of = f" (extra {row['extra']})" if row["extra"] else ""
        lines.append(f"  {about}{of}{': ' if row['problem'] else ''}{row['problem']}")
    return lines


def _device(device: dict[str, Any], forms: dict[str, Any]) -> list[str]:
    threads = f"{device['threads']} thread{'s' * (device['threads'] != 1)}"
    lines = ["", "device", f"  cpu: {device['processor']}; {device['cores']} usable, {threads}"]
    lines += [f"  {name}: {model}" for name, model in device["accelerators"].items()]
    lines += [] if device["accelerators"] else ["  no accelerator that torch can use"]
    for kind, form in forms.items():
        if kind != "compiler":
            told = (
                f"libraries by {form['libraries']}, own attacks' gradients by {form['gradients']}"
            )
            lines.append(f"  a small residual network on {kind}: {told}")
    compiler = forms["compiler"]
    told = (
        f"with {compiler}, where a run is long enough"
        if compiler
        else "no: there is no C++ compiler"
    )
    return [*lines, f"  compiled: {told}"]


def _datasets(found: dict[str, Any]) -> list[str]:
    if found["problem"]:
        return ["", "data sets", f"  {found['problem']}"]
    lines = ["", f"data sets, looked for in {found['folder'] or 'no folder: there is no home'}"]
    for row in found["sets"]:
        lines.append(f"  {row['name']}: {_place(row)}")
        lines += [f"    {row['problem']}"] if row["problem"] else []
    return lines


def _place(row: dict[str, Any]) -> str:
    if row["place"]:
        return f"{row['found']} ({row['place']})"
    return "can't be used" if row["problem"] else "not found"


def _models(found: dict[str, Any]) -> list[str]:
    folders = ", ".join(found["folders"]) or "none ($ROBUSTEVAL_MODELS names one)"
    lines = ["", "models", f"  folders of yours: {folders}", f"  {found['usable']} can be run"]
    return [*lines, *(f"  {problem}" for problem in found["problems"])]


def _plugins(rows: list[dict[str, Any]]) -> list[str]:
    lines = ["", "plug-ins"] + ["  none"] * (not rows)
    for row in rows:
        about = f"{row['name']} ({row['kind']}) of {row['package']} {row['version']}"
        lines.append(f"  {row['problem'] or about}")
    return lines
