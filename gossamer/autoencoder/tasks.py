"""Tasks: which rows an autoencoder reads, which it is to give back, and what it is judged by.

A source hands out batches of rows of named sites. A task says what the encoder's row and the target are made of; or,
for training end to end, how the model that the rows come from is run with the reconstruction in place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, nll_loss

from gossamer.autoencoder.scaling import RowNorm
from gossamer.autoencoder.trace import Loss, Moment, Trace, charge, traced
from gossamer.spec import Spec

if TYPE_CHECKING:
    from gossamer.autoencoder.autoencoder import AutoencoderSpec, SparseAutoencoder

__all__ = [
    "CrossLayer",
    "Crosscode",
    "EndToEnd",
    "Objective",
    "Reconstruct",
    "Rows",
    "SplicedModel",
    "SplicedOutput",
    "Task",
    "Transcode",
]

Rows = Mapping[str, Tensor]
"""The rows of a batch by site, `(rows, width)` each."""

Objective = Callable[["SparseAutoencoder", Rows, "Moment"], "Loss"]
"""What a training step calls: it gets a batch's rows by site, and returns the loss."""


class Task(Spec):
    """The family of tasks.

    same_rows: whether the target is the encoder's row. An empty site means the only one that the source has.
    """

    same_rows: ClassVar[bool] = True

    @property
    def inputs(self) -> tuple[str, ...]:
        """The sites that the encoder's row is made of, side by side."""
        raise NotImplementedError

    @property
    def targets(self) -> tuple[str, ...]:
        """The sites that the target is made of."""
        return self.inputs

    def output_width(self, input_width: int) -> int:
        """Return the width of the target."""
        return input_width

    def check(self, spec: AutoencoderSpec) -> None:
        """Raise ValueError if the autoencoder cannot do this."""

    def rows(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Return the encoder's rows and the target of a batch."""
        x = _side_by_side(rows, self.inputs)
        return x, x if self.same_rows else _side_by_side(rows, self.targets)

    def bind(self, source: Any) -> Objective:
        """Return the objective on this source; raises ValueError if the source cannot serve it."""
        return self._loss

    def _loss(self, sae: SparseAutoencoder, rows: Rows, moment: Moment) -> Loss:
        x, target = self.rows(rows)
        return sae.loss(x, target, moment)


@dataclass(frozen=True, kw_only=True)
class Reconstruct(Task):
    """Give back the row itself. site: the hook point; needed only if the source has several."""

    kind: ClassVar[str] = "reconstruct"
    site: str = ""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The site."""
        return (self.site,)


@dataclass(frozen=True, kw_only=True)
class Transcode(Task):
    """Read one site, and give what another one has: a transcoder. Dunefsky et al. 2024 (https://arxiv.org/abs/2406.11944).

    site, target: the hook points, for instance the input and the output of an MLP. width: of the target; None if it is
    that of the input.
    """

    kind: ClassVar[str] = "transcode"
    same_rows: ClassVar[bool] = False
    site: str
    target: str
    width: int | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """The site that is read."""
        return (self.site,)

    @property
    def targets(self) -> tuple[str, ...]:
        """The site that is given."""
        return (self.target,)

    def output_width(self, input_width: int) -> int:
        """Return the width of the target."""
        return input_width if self.width is None else self.width

    def check(self, spec: AutoencoderSpec) -> None:
        """Raise ValueError if input and target are the same, or the target has no width."""
        if self.width is not None and self.width < 1:
            raise ValueError(f"width is that of the target, at least 1; got {self.width}")
        if self.site == self.target or not self.target:
            raise ValueError(f"a transcoder reads one site and gives another; got {self.site!r} and {self.target!r}")


@dataclass(frozen=True, kw_only=True)
class Crosscode(Task):
    """Read several sites, and give back all of them, from one code. Lindsey et al. 2024
    (https://transformer-circuits.pub/2024/crosscoders).

    sites: the hook points. widths: theirs.
    """

    kind: ClassVar[str] = "crosscode"
    sites: tuple[str, ...]
    widths: tuple[int, ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        """The sites."""
        return self.sites

    def check(self, spec: AutoencoderSpec) -> None:
        """Raise ValueError unless there are several sites that make up the row."""
        if len(set(self.sites)) < 2 or len(set(self.sites)) < len(self.sites):
            raise ValueError(f"a crosscoder reads two or more different sites, got {self.sites}")
        if len(self.widths) != len(self.sites) or sum(self.widths) != spec.input_width:
            raise ValueError(
                f"sites of widths {self.widths} do not make rows of width {spec.input_width}: one width for each "
                f"of the {len(self.sites)} sites, input_width their sum"
            )


@dataclass(frozen=True, kw_only=True)
class CrossLayer(Task):
    """Read several sites in the order of the model, and give others, each from the latents of its own and earlier ones.

    sites, targets: hook points, as many of the one as of the other, for instance the inputs and outputs of MLPs.
    Lindsey et al. 2025 (https://transformer-circuits.pub/2025/attribution-graphs/methods.html).
    """

    kind: ClassVar[str] = "cross-layer"
    same_rows: ClassVar[bool] = False
    sites: tuple[str, ...]
    destinations: tuple[str, ...]
    width: int

    @property
    def inputs(self) -> tuple[str, ...]:
        """The sites that are read."""
        return self.sites

    @property
    def targets(self) -> tuple[str, ...]:
        """The sites that are given."""
        return self.destinations

    def output_width(self, input_width: int) -> int:
        """Return the width of all targets together."""
        return self.width * len(self.destinations)

    def check(self, spec: AutoencoderSpec) -> None:
        """Raise ValueError unless sites, targets, encoder and decoder agree on the number of layers."""
        layers = {len(self.sites), len(self.destinations)}
        layers |= {getattr(part, "layers", None) for part in (spec.encoder, spec.decoder)}
        if len(layers) != 1 or len(self.sites) < 2:
            raise ValueError(
                "a cross-layer transcoder has as many sites as targets, two at least, an encoder 'per-layer' and a "
                f"decoder 'later-layers' of so many layers; got {len(self.sites)} and {len(self.destinations)}"
            )
        if spec.input_width % len(self.sites):
            raise ValueError(f"the sites have one width, so {spec.input_width} must be a multiple of {len(self.sites)}")


class SplicedOutput(Protocol):
    """What a model gives: logits `(predictions, vocabulary)`, the next tokens `(predictions,)`, rows of later sites."""

    logits: Tensor
    targets: Tensor
    later: dict[str, Tensor]


class SplicedModel(Protocol):
    """A source that can run the model of its rows."""

    def run(
        self, rows: Rows, site: str, change: Callable[[Tensor], Tensor] | None, later: Sequence[str]
    ) -> SplicedOutput:
        """Run the model on a batch, with `change` applied to the rows of a site."""
        ...


@dataclass(frozen=True, kw_only=True)
class EndToEnd(Task):
    """Put the reconstruction in place of the row, run the rest of the model, and be judged by what it then says.

        loss = KL(clean ‖ spliced), or the cross-entropy of the next token,
             + downstream · Σ_later ‖spliced − clean‖² / ‖clean − mean‖²

    site: the hook point. judge: "kl" or "cross-entropy". later: hook points after it whose rows shall stay as they are.
    downstream: the weight of that. Braun et al. 2024 (https://arxiv.org/abs/2405.12241).
    """

    kind: ClassVar[str] = "end-to-end"
    site: str
    judge: str = "kl"
    later: tuple[str, ...] = ()
    downstream: float = 1.0

    @property
    def inputs(self) -> tuple[str, ...]:
        """The site."""
        return (self.site,)

    def check(self, spec: AutoencoderSpec) -> None:
        """Raise ValueError for an unknown judge, no site, or parts that make no sense here."""
        if self.judge not in ("kl", "cross-entropy"):
            raise ValueError(f"judge is 'kl' or 'cross-entropy', got {self.judge!r}")
        if not self.site:
            raise ValueError("training end to end needs a model: name the site whose rows are replaced")
        if spec.reconstruction.kind != "squared-error":
            raise ValueError("end to end there is one reconstruction, which the model judges; leave 'squared-error'")
        if isinstance(spec.scaling, RowNorm):
            raise ValueError(
                "end to end rows are put back as they were, which scaling 'row-norm' cannot do in training"
            )

    def bind(self, source: Any) -> Objective:
        """Return the objective; raises ValueError unless the source can run its model."""
        if not hasattr(source, "run"):
            raise ValueError(
                f"the task {self.kind!r} is judged by what a model says with the reconstruction in place, and this "
                "source has no model to run; use a source of kind 'model' (ModelWindows)"
            )

        def objective(sae: SparseAutoencoder, rows: Rows, moment: Moment) -> Loss:
            return self._spliced_loss(sae, rows, moment, source)

        return objective

    def _spliced_loss(self, sae: SparseAutoencoder, rows: Rows, moment: Moment, model: SplicedModel) -> Loss:
        with torch.no_grad():
            clean = model.run(rows, self.site, None, self.later)
        passes: list[Trace] = []

        def splice(x: Tensor) -> Tensor:
            rows = sae.scaler(x)
            passes.append(traced(sae, rows, rows, moment))
            return sae.scaler.undo(sae.decoder(passes[-1].codes, rows), x)

        spliced = model.run(rows, self.site, splice, self.later)
        terms = {self.judge: self._judged(clean, spliced)}
        for site in self.later:
            gap = (spliced.later[site] - clean.later[site]).square().sum()
            spread = (clean.later[site] - clean.later[site].mean(dim=0)).square().sum()
            terms["downstream"] = terms.get("downstream", 0.0) + self.downstream * gap / spread
        (trace,) = passes
        with torch.no_grad():
            residual = trace.target - trace.decoder(trace.codes, trace.x)
        return charge(sae.spec, trace, terms, residual)

    def _judged(self, clean: SplicedOutput, spliced: SplicedOutput) -> Tensor:
        logits = log_softmax(spliced.logits.float(), dim=-1)
        if self.judge == "cross-entropy":
            return nll_loss(logits, clean.targets)
        reference = log_softmax(clean.logits.float(), dim=-1)
        return kl_div(logits, reference, log_target=True, reduction="batchmean")


def _side_by_side(rows: Rows, sites: Sequence[str]) -> Tensor:
    found = [_site(rows, site) for site in sites]
    return found[0] if len(found) == 1 else torch.cat(found, dim=1)


def _site(rows: Rows, site: str) -> Tensor:
    if site in rows:
        return rows[site]
    if not site and len(rows) == 1:
        return next(iter(rows.values()))
    raise ValueError(f"the autoencoder reads site {site!r}, but the rows are of {', '.join(map(repr, rows))}")
