"""The figures of one method: what each means, and how it is measured on held-out rows."""

from __future__ import annotations

import json
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gossamer.codes import SparseCodes
from gossamer.compare.data import Data
from gossamer.compare.fitted import Fitted
from gossamer.compare.rate import RatePoint, bits_at, rate_curve
from gossamer.evaluate.reconstruction import fvu
from gossamer.evaluate.sparsity import Sparsity

__all__ = ["Figures", "measure", "probe", "raw_accuracy"]

TIMED_ROWS, TIMES = 256, 7


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One line of the table.

    kind, title: of the method; at: "rows" or "seconds", what was made equal beside the parameters. parameters: that it
    learned. rows: trained on. seconds: of processor time, of training. fvu: fraction of variance unexplained of the
    held-out rows. l0: active latents of a code; dead: share of latents active on none of them. bits: per row at
    the error asked for, None where the codes do not reach it. probe: accuracy of a linear classifier of the codes.
    encode_microseconds: of processor time, per row, in batches of 256. encode, decode: multiply–adds per row.
    memory: bytes of a training step. curve: bits and FVU at each step.
    """

    kind: str
    title: str
    at: str
    parameters: int
    rows: int
    seconds: float
    fvu: float
    l0: float
    dead: float
    bits: float | None
    probe: float | None
    encode_microseconds: float
    encode: float
    decode: float
    memory: int
    curve: tuple[tuple[float, float], ...]

    def to_json(self) -> str:
        """Return the figures as JSON."""
        return json.dumps(asdict(self), indent=1, allow_nan=False) + "\n"

    @classmethod
    def read(cls, path: Path) -> Figures:
        """Read what `to_json` gave; raises ValueError, naming the file, if it is damaged."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls(**(values | {"curve": tuple((bits, error) for bits, error in values["curve"])}))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is damaged ({error}); delete it, and it will be measured again") from error


def measure(fitted: Fitted, data: Data, *, quality: float, batch: int) -> dict[str, Any]:
    """Return what `Figures` says of the held-out rows. quality: the FVU at which bits are counted."""
    x = data.held_out
    codes = fitted.encode(x)
    error = fvu(torch.from_numpy(x), torch.from_numpy(np.asarray(fitted.decode(codes))))
    sparsity = Sparsity(codes.latents)
    sparsity.update(codes)
    score = sparsity.score()
    curve = rate_curve(x, codes, fitted.prediction, floor=error)
    bits = bits_at(curve, quality)
    work = fitted.work(score.l0)
    return {
        "parameters": fitted.parameters,
        "rows": fitted.rows,
        "fvu": error,
        "l0": score.l0,
        "dead": score.dead,
        "bits": bits if np.isfinite(bits) else None,
        "probe": _probed(fitted, data, codes),
        "encode_microseconds": _encoding_time(fitted, x),
        "encode": float(work.encode),
        "decode": float(work.decode),
        "memory": fitted.training_bytes(data.train[:batch]),
        "curve": tuple(map(tuple, map(_plain, curve))),
    }


def probe(seen: Any, labels: np.ndarray, unseen: Any, wanted: np.ndarray) -> float:
    """Return the share of held-out rows whose class a logistic regression tells; its inputs scaled to variance 1."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(with_mean=False), LogisticRegression(max_iter=300))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return float(classifier.fit(seen, labels).score(unseen, wanted))


def raw_accuracy(data: Data) -> tuple[float, float] | None:
    """Return the accuracy of the same probe on the rows themselves, and of always naming the class that is most common;
    None without labels."""
    if data.labels is None or data.held_out_labels is None:
        return None
    classes, counts = np.unique(data.labels, return_counts=True)
    raw = probe(data.probed, data.labels, data.held_out, data.held_out_labels)
    return raw, float((data.held_out_labels == classes[counts.argmax()]).mean())


def _probed(fitted: Fitted, data: Data, codes: SparseCodes) -> float | None:
    if data.labels is None or data.held_out_labels is None:
        return None
    return probe(fitted.encode(data.probed).to_scipy(), data.labels, codes.to_scipy(), data.held_out_labels)


def _encoding_time(fitted: Fitted, x: np.ndarray) -> float:
    """Return microseconds of processor time per row, the least of several: others on the machine only add to it."""
    rows, best = x[:TIMED_ROWS], float("inf")
    for _ in range(TIMES):
        began = time.process_time()
        fitted.encode(rows)
        best = min(best, time.process_time() - began)
    return 1e6 * best / len(rows)


def _plain(point: RatePoint) -> tuple[float, float]:
    return float(point.bits), float(point.fvu)
