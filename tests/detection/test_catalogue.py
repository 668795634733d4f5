"""Each detector of the literature beside a second implementation: pytorch-ood's, scikit-learn's,
SciPy's or the paper's formula, on random features."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import multivariate_normal, weibull_min
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from robusteval.detection import gram, open_max
from robusteval.vision import torchvision
from tests.helpers.features import CLASSES, DIM, Sides, sides

SIDES, POSITIVE = sides(), sides(positive=True)
RIGHT = SIDES.model.logits(SIDES.train).argmax(1) == SIDES.labels


def library() -> Any:
    torchvision()
    from pytorch_ood import detector

    return detector


def layer(model: Any) -> torch.nn.Linear:
    found = torch.nn.Linear(DIM, CLASSES)
    found.weight.data, found.bias.data = model.weight, model.bias
    return found


def of_maps(model: Any) -> Callable[[Tensor], Tensor]:
    head = layer(model)
    return lambda maps: head(maps.flatten(1))


def maps(features: Tensor) -> Tensor:
    return features[:, :, None, None]


def fitted(made: Any, s: Sides) -> Tensor:
    """Scores of a detector of pytorch-ood's on features."""
    return made.fit_features(s.train, s.labels).predict_features(s.others)


Theirs = Callable[[Any, Sides], Tensor]
LIBRARY: dict[str, tuple[Sides, Theirs, dict[str, float]]] = {
    "entropy": (SIDES, lambda d, s: d.Entropy.score(s.model.logits(s.others).double()), {}),
    "gmm": (SIDES, lambda d, s: fitted(d.GMM(None), s), {}),
    "knn": (SIDES, lambda d, s: fitted(d.KNN(None, k=20), s), {"k": 20}),
    "she": (SIDES, lambda d, s: fitted(d.SHE(None, layer(s.model)), s), {}),
    "nnguide": (SIDES, lambda d, s: fitted(d.NNGuide(None, layer(s.model), k=5), s), {"k": 5}),
    "fdbd": (SIDES, lambda d, s: fitted(d.fDBD(None, layer(s.model)), s), {}),
    "nci": (SIDES, lambda d, s: fitted(d.NCI(None, layer(s.model), 0.01), s), {"alpha": 0.01}),
    "vim": (
        SIDES,
        lambda d, s: fitted(d.ViM(None, DIM // 2, s.model.weight, s.model.bias), s),
        {"share": 0.5},
    ),
    "dice": (
        SIDES,
        lambda d, s: fitted(d.DICE(None, s.model.weight, s.model.bias, 0.7), s),
        {"sparsity": 0.7},
    ),
    "react": (
        SIDES,
        lambda d, s: (
            d.ReAct(None, of_maps(s.model), percentile=0.9)
            .fit_feature_maps(s.train, s.labels)
            .predict_feature_maps(s.others)
        ),
        {"high": 0.9},
    ),
    "ash": (
        POSITIVE,
        lambda d, s: d.ASH(None, of_maps(s.model)).predict_feature_maps(maps(s.others)),
        {"share": 0.65},
    ),
    "scale": (
        POSITIVE,
        lambda d, s: d.SCALE(None, of_maps(s.model)).predict_feature_maps(maps(s.others)),
        {"share": 0.65},
    ),
    "lts": (
        SIDES,
        lambda d, s: d.LTS(None, layer(s.model), p=0.35).predict_features(s.others),
        {"share": 0.65},
    ),
    "kl_matching": (
        SIDES,
        lambda d, s: (
            d.KLMatching(None)
            .fit_logits(s.model.logits(s.train), s.labels)
            .predict_logits(s.model.logits(s.others))
        ),
        {},
    ),
}


@pytest.mark.parametrize("name", LIBRARY)
def test_a_score_is_pytorch_oods(name: str) -> None:
    """Which has float32, and rises for outliers."""
    s, theirs, setting = LIBRARY[name]
    expected = -theirs(library(), s).double()
    found = s.scores(name, **setting)
    assert found.detach().numpy() == pytest.approx(expected.detach().numpy(), rel=2e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "theirs"), [("mahalanobis", "Mahalanobis"), ("relative_mahalanobis", "RMD")]
)
def test_mahalanobis_orders_as_pytorch_ood(name: str, theirs: str) -> None:
    """Its covariances are sums over the samples."""
    expected = -fitted(getattr(library(), theirs)(None), SIDES)
    assert torch.equal(SIDES.scores(name).argsort(), expected.argsort())


# Those whose implementation there is marked as written by a machine, or isn't the paper's


def p_of(s: Sides) -> np.ndarray[Any, Any]:
    return softmax(s.model.logits(s.others).double().numpy(), axis=1)


def test_gen_is_the_papers() -> None:
    p = p_of(SIDES)
    expected = -(p**0.1 * (1 - p) ** 0.1).sum(1)
    assert SIDES.scores("gen").numpy() == pytest.approx(expected, rel=1e-6)


def test_gen_is_pytorch_oods_where_it_cuts_nothing() -> None:
    logits = SIDES.model.logits(0.1 * SIDES.others).double()
    expected = -CLASSES * library().GEN.score(logits)
    found = SIDES.scores("gen", 0.1 * SIDES.others)
    assert found.numpy() == pytest.approx(expected.numpy(), rel=1e-6)


def test_gen_tells_sure_answers_apart() -> None:
    """Where pytorch-ood's scores tie: probabilities under 1e-7."""
    sure = torch.diag(torch.tensor([20.0, 25.0, 30.0, 35.0]))
    from robusteval.detection.logits import generalised_entropy

    found = generalised_entropy({}, SIDES.model, sure)
    assert (found.diff() > 0).all()
    assert len(library().GEN.score(sure.double()).unique()) == 1


def test_gmm_is_a_mixture() -> None:
    density = 0.0
    for k in range(CLASSES):
        members = SIDES.train[SIDES.labels == k].double().numpy()
        covariance = np.cov(members.T, bias=True) + 1e-6 * np.eye(DIM)
        normal = multivariate_normal(members.mean(0), covariance)
        density = density + normal.pdf(SIDES.others.double().numpy()) / CLASSES
    assert SIDES.scores("gmm").numpy() == pytest.approx(np.log(density), rel=1e-9)


def test_nnguide_is_the_papers() -> None:
    train, others = SIDES.train.double().numpy(), SIDES.others.double().numpy()
    energies = [
        np.log(np.exp(SIDES.model.logits(f).double().numpy()).sum(1))
        for f in (SIDES.train, SIDES.others)
    ]
    bank = train / np.linalg.norm(train, axis=1, keepdims=True) * energies[0][:, None]
    products = others / np.linalg.norm(others, axis=1, keepdims=True) @ bank.T
    expected = np.sort(products, axis=1)[:, -10:].mean(1) * energies[1]
    assert SIDES.scores("nnguide").numpy() == pytest.approx(expected, rel=1e-4)


def test_fdbd_is_the_papers() -> None:
    weight, bias = SIDES.model.weight.double().numpy(), SIDES.model.bias.double().numpy()
    mean, expected = SIDES.train.double().numpy().mean(0), []
    for z in SIDES.others.double().numpy():
        own = int((weight @ z + bias).argmax())
        gaps = [
            abs((weight[own] - weight[k]) @ z + bias[own] - bias[k])
            / np.linalg.norm(weight[own] - weight[k])
            for k in range(CLASSES)
            if k != own
        ]
        expected.append(np.mean(gaps) / np.linalg.norm(z - mean))
    assert SIDES.scores("fdbd").numpy() == pytest.approx(expected, rel=1e-5)


def test_vra_is_the_papers() -> None:
    """0 below the lower quantile, as the paper's piecewise function has it; pytorch-ood differs."""
    train, others = SIDES.train.double().numpy(), SIDES.others.double().numpy()
    low, high = np.quantile(train, [0.6, 0.95])
    shaped = np.where(others < low, 0, np.minimum(others, high))
    logits = shaped @ SIDES.model.weight.double().numpy().T + SIDES.model.bias.double().numpy()
    expected = np.log(np.exp(logits).sum(1))
    assert SIDES.scores("vra").numpy() == pytest.approx(expected, rel=1e-6)


def test_scale_and_lts_are_the_papers() -> None:
    others = POSITIVE.others.double().numpy()
    ratios = others.sum(1) / np.sort(others, axis=1)[:, -2:].sum(1)  # 15 % of twelve
    weight, bias = POSITIVE.model.weight.double().numpy(), POSITIVE.model.bias.double().numpy()
    scaled = np.log(np.exp((others * np.exp(ratios)[:, None]) @ weight.T + bias).sum(1))
    assert POSITIVE.scores("scale").numpy() == pytest.approx(scaled, rel=1e-6)
    logits = (others @ weight.T + bias) * (ratios**2)[:, None]
    found = POSITIVE.scores("lts", share=0.85).numpy()
    assert found == pytest.approx(np.log(np.exp(logits).sum(1)), rel=1e-6)


def test_grad_norm_is_the_gradients() -> None:
    """By autograd, one image at a time; the library's counts the bias as well."""
    head, expected = layer(SIDES.model).double(), []
    for z in SIDES.others.double():
        loss = -head(z).log_softmax(0).mean()
        (slope,) = torch.autograd.grad(loss, head.weight)
        expected.append(float(slope.abs().sum()))
    assert SIDES.scores("grad_norm").numpy() == pytest.approx(expected, rel=1e-5)


# Fits of our own


def test_a_temperature_is_the_likeliest() -> None:
    logits, labels = 3 * SIDES.model.logits(SIDES.train).double(), SIDES.labels

    def loss(temperature: float) -> float:
        return float(torch.nn.functional.cross_entropy(logits / temperature, labels))

    from robusteval.detection.logits_fitted import fit_temperature

    found = float(fit_temperature(SIDES.model, logits, labels)["temperature"])
    assert loss(found) <= min(loss(found * f) for f in (0.5, 0.99, 0.9999, 1.0001, 1.01, 2))
    theirs = library().TemperatureScaling(None).fit_logits(logits, labels)
    assert loss(found) <= loss(theirs.t.item())


def test_a_weibull_tail_is_scipys() -> None:
    values = torch.tensor(weibull_min.rvs(3.0, scale=2.0, size=50, random_state=0))
    shape, scale = open_max.weibull(values)
    expected = weibull_min.fit(values.numpy(), floc=0)
    assert [float(shape), float(scale)] == pytest.approx([expected[0], expected[2]], rel=1e-3)


def test_open_max_is_pytorch_oods() -> None:
    """Given the samples that are classified correctly, as the paper has it, and the same tails."""
    s = Sides(SIDES.model, SIDES.train[RIGHT], SIDES.labels[RIGHT], 0.3 * SIDES.others)
    theirs = library().OpenMax(None, tailsize=20, alpha=10)
    theirs.fit_logits(s.model.logits(s.train).double(), s.labels)
    found = s.scores("open_max", tail=20, ranks=10)
    for k, model in theirs._openmax.distributions.items():
        apart = np.linalg.norm(
            s.model.logits(s.train)[s.labels == k].double().numpy() - theirs._openmax.centers[k],
            axis=1,
        )
        tail = torch.tensor(np.sort(apart)[-20:])
        shape, scale = open_max.weibull(tail - tail.min() + 10_000)
        model.c, model.scale = float(shape), float(scale)
    expected = theirs.predict_logits(s.model.logits(s.others).double()).numpy()
    assert np.exp(-found.numpy()) == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_dimensionality_is_the_maximum_likelihood_estimate() -> None:
    known = NearestNeighbors(n_neighbors=20).fit(SIDES.train.double().numpy())
    apart, _ = known.kneighbors(SIDES.others.double().numpy())
    lid = -1 / np.log(apart / apart[:, -1:]).mean(1)
    found = SIDES.scores("local_intrinsic_dimensionality").numpy()
    assert found == pytest.approx(1 / lid, rel=1e-6)


def test_row_sums_are_the_gram_matrices() -> None:
    """As pytorch-ood has them, at each power."""
    images = torch.randn(3, 5, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    found = gram.row_sums(images)
    for power in range(1, 11):
        expected = library().Gram._gram_vector(images, power)
        assert found[power - 1].numpy() == pytest.approx(expected.numpy(), rel=1e-6)
