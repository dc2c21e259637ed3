"""Fit the statistics of familiarity to chest X-rays and to pictures made unlike them; runs no network.

The counter-examples are made from the training chests themselves (turned, mirrored upside down, inverted, cut into
pieces, magnified) and from noise, so that no picture of another kind is needed to fit; those serve to measure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from sgmsnet.familiarity import SHAPE_FEATURES, FamiliarityModel

AXES = 64
REFUSED = 0.005
"""Part of the training chests that may be refused, half of what is allowed on others."""
FOLDS = 5
_RIDGE = 3.0  # on standardised features, of a likelihood summed over some thousand images


@dataclass(frozen=True)
class Seen:
    """What the graph gave for some images: embeddings (N, C) and shapes of lungs (N, 13); of whom they are, str (N,).

    What is made of a chest is of the same person as the chest.
    """

    embeddings: np.ndarray
    shapes: np.ndarray
    groups: np.ndarray

    def __len__(self) -> int:
        return len(self.embeddings)

    def take(self, chosen: np.ndarray) -> Seen:
        """The images that an index or a bool array chooses."""
        return Seen(self.embeddings[chosen], self.shapes[chosen], self.groups[chosen])


def fit(chests: Seen, others: Seen, *, axes: int = AXES) -> FamiliarityModel:
    """Statistics for which REFUSED of the chests, judged by fits that had not seen the person, score below 0.5.

    chests, others: at least 2 * FOLDS images each.
    """
    people = np.unique(np.concatenate([chests.groups, others.groups]))
    part = np.random.default_rng(0).permutation(len(people)) % FOLDS
    fold, other_fold = (part[np.searchsorted(people, seen.groups)] for seen in (chests, others))
    margins = np.empty(len(chests))
    for k in range(FOLDS):
        model = _fit(chests.take(fold != k), others.take(other_fold != k), axes)
        margins[fold == k] = margins_of(model, chests.take(fold == k))
    model = _fit(chests, others, axes)
    shift = np.float32(np.quantile(margins, REFUSED))
    return replace(model, bias=model.bias - shift)


def margins_of(model: FamiliarityModel, seen: Seen) -> np.ndarray:
    """float64 (N,): the logit of the score of each image, below 0 where it is refused."""
    margins: np.ndarray = model.features(seen.embeddings, seen.shapes) @ model.weights + model.bias[0]
    return margins


def _fit(chests: Seen, others: Seen, axes: int) -> FamiliarityModel:
    e = chests.embeddings.astype(np.float64)
    mean = e.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(e - mean, rowvar=False))
    axes = min(axes, e.shape[1] - 1)
    kept, beside = values[::-1][:axes], values[::-1][axes:]
    # Shrinkage: directions that vary little in these images may vary more in others.
    floor = max(float(beside.mean()), 1e-12)
    whitening = vectors[:, ::-1][:, :axes].T / np.sqrt(kept + floor)[:, None]
    width = axes + 2 + 2 * SHAPE_FEATURES
    model = FamiliarityModel(
        mean=mean.astype(np.float32),
        axes=whitening.astype(np.float32),
        rest=np.array([floor * len(beside)], np.float32),
        shape_mean=chests.shapes.mean(axis=0).astype(np.float32),
        shape_scale=(chests.shapes.std(axis=0) + 1e-3).astype(np.float32),
        weights=np.zeros(width, np.float32),
        bias=np.zeros(1, np.float32),
    )
    x = np.concatenate([model.features(seen.embeddings, seen.shapes) for seen in (chests, others)])
    y = np.concatenate([np.ones(len(chests)), np.zeros(len(others))])
    weights, bias = _logistic_regression(x, y)
    return replace(model, weights=weights.astype(np.float32), bias=np.array([bias], np.float32))


def _logistic_regression(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
    """x (N, F), y (N,) of 0 and 1, both kinds weighing the same -> weights (F,) and bias on x as it is."""
    centre, scale = x.mean(axis=0), x.std(axis=0) + 1e-6
    s = (x - centre) / scale
    weight = np.where(y == 1, 0.5 / y.mean(), 0.5 / (1 - y.mean()))

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        margin = s @ w[:-1] + w[-1]
        value = weight @ np.logaddexp(0, np.where(y == 1, -margin, margin)) + _RIDGE / 2 * w[:-1] @ w[:-1]
        slope = weight * (expit(margin) - y)
        return float(value), np.append(s.T @ slope + _RIDGE * w[:-1], slope.sum())

    w = minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B", options={"maxiter": 500}).x
    weights: np.ndarray = w[:-1] / scale
    return weights, float(w[-1] - weights @ centre)


def auroc(chests: np.ndarray, others: np.ndarray) -> float:
    """Probability that a chest's score is above another picture's, ties counted half (Mann and Whitney)."""
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([chests, others]))
    n, m = len(chests), len(others)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))
