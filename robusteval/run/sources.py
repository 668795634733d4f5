"""Models whose adversarials a run looks at: those of its suite, and the diagnostics' own."""

import logging

from robusteval.attacks.registry import find
from robusteval.data.known import DATASETS
from robusteval.errors import AttackError, RobustevalError
from robusteval.models.adapter import Adapter
from robusteval.models.entry import Entry
from robusteval.models.registry import find_entry, readable_entries
from robusteval.plan.plan import lacking
from robusteval.plan.suite import Suite
from robusteval.run.options import Options
from robusteval.run.subject import Subject, try_out
from robusteval.training.own_loss import open_model

_LOG = logging.getLogger("robusteval")


def other_models(sources: tuple[str, ...], attacked: Entry | None) -> list[str]:
    """Sources without the attacked model, which a pattern may fit, unless it is the only one."""
    own = attacked.weights if attacked else None
    others = [name for name in sources if own is None or find_entry(name).weights != own]
    return others or list(sources)


def digests_of_sources(suite: Suite, subject: Subject, options: Options) -> dict[str, str]:
    """Digests of the models that adversarials come from.  Raises AttackError for unfit ones."""
    data, attacked, digests = subject.data, subject.entry, {}
    for name in suite.sources:
        source = find_entry(name)
        if not source.dataset:
            raise AttackError(f"{name} names no data set: choose a source that does")
        info = DATASETS.get(source.dataset)
        if (info.classes, info.shape) != (data.info.classes, data.info.shape):
            raise AttackError(
                f"{name} is a model of {source.dataset}: as a source for {data.info.name} choose "
                "one with the same images and classes"
            )
        if source.stored is None or source.factory is not None:
            raise AttackError(f"{name} can't be a source: choose a trained model without a factory")
        if attacked is not None and source.stored == attacked.stored:
            raise AttackError(f"{name} is the model itself: choose another one as a source")
        model = _try_source(source, subject, options)
        _require_for(suite, name, model)
        digests[name] = source.digest
    return digests


def _try_source(source: Entry, subject: Subject, options: Options) -> Adapter:
    """The source.  Raises RobustevalError for one that doesn't answer such images."""
    try:
        model = open_model(source, options.device)
        try_out(model, subject.data, options)
    except AttackError as error:
        raise AttackError(f"the source {source.name}: {error}") from None
    return model


def _require_for(suite: Suite, name: str, model: Adapter) -> None:
    """Raises AttackError for an attack that is to run on a source and can't."""
    for attack in (a for a in suite.attacks if a.source == name):
        if reason := lacking(find(attack.library, attack.attack), model.parts):
            raise AttackError(
                f"{attack.name} can't run on {name}: {reason.replace('the model', 'it', 1)}; name "
                "the attacks with --only, or another source"
            )


def transfer_source(
    suite: Suite, subject: Subject, options: Options
) -> tuple[()] | tuple[str, str]:
    """Another model of the registry for the same data, plain cross-entropy if there is one.

    Adversarials of an undefended model transfer best.  One that can't be used is told, and the
    next is taken.
    """
    if not suite.diagnostics.samples:
        return ()
    own, dataset = subject.entry.weights if subject.entry else None, subject.data.info.name
    others = [
        (other.method != "ce", bool(other.training and other.training.adversarial), other)
        for other in readable_entries()
        if other.dataset == dataset and other.backbone and other.weights not in (None, own)
    ]
    for _, _, other in sorted(others, key=lambda found: (found[0], found[1], found[2].name)):
        try:
            _try_source(other, subject, options)
        except RobustevalError as error:
            _LOG.warning("%s is not a source for the diagnostics: %s", other.name, error)
            continue
        return other.name, other.digest
    return ()
