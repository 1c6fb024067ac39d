"""Small models of every class of dictionary_learning, saved by its own `trainSAE`, and what it makes of rows.

Each of its trainers is given one that draws weights instead of learning: a step of `trainSAE` then changes nothing
else, and what it saves, `config.json` and `ae.pt`, is what it saves after a long run. They are read by its own
`load_dictionary`.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from exchange import LATENTS, MANY, WIDTH, Case, Run, draw, main, scramble
from torch import Tensor

# Imported at the top of modules we need, used only to read activations from models and to log to an account.
for _name, _attributes in {
    "nnsight": ("LanguageModel",),
    "wandb": (),
    "datasets": ("load_dataset",),
    "zstandard": (),
}.items():
    _module = ModuleType(_name)
    for _attribute in _attributes:
        setattr(_module, _attribute, type(_attribute, (), {}))
    sys.modules.setdefault(_name, _module)

from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer  # noqa: E402
from dictionary_learning.trainers.gdm import GatedSAETrainer  # noqa: E402
from dictionary_learning.trainers.jumprelu import JumpReluTrainer  # noqa: E402
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer  # noqa: E402
from dictionary_learning.trainers.p_anneal import PAnnealTrainer  # noqa: E402
from dictionary_learning.trainers.standard import StandardTrainer, StandardTrainerAprilUpdate  # noqa: E402
from dictionary_learning.trainers.top_k import TopKTrainer  # noqa: E402
from dictionary_learning.training import trainSAE  # noqa: E402
from dictionary_learning.utils import load_dictionary  # noqa: E402

SIZES = {"steps": 10_000, "activation_dim": WIDTH, "dict_size": LATENTS, "layer": 3, "lm_name": "EleutherAI/pythia-70m"}


def drawing(trainer: type) -> type:
    """Return a trainer that draws weights where this one would learn them."""

    class Drawing(trainer):
        def update(self, step: int, activations: Tensor) -> None:
            scramble(self.ae)
            thresholds = getattr(self.ae, "threshold", None)
            if thresholds is not None:
                with torch.no_grad():
                    thresholds.copy_(draw(5, *thresholds.shape, mean=0.5, deviation=0.1))
            if self.config["trainer_class"] in ("StandardTrainer", "PAnnealTrainer"):  # what its optimizer would do
                with torch.no_grad():
                    self.ae.decoder.weight.div_(self.ae.decoder.weight.norm(dim=0, keepdim=True))

    return Drawing


def case(trainer: type, **options: Any) -> Case:
    """Return what saves a model of this trainer."""

    def save(folder: Path) -> Run:
        config = {"trainer": drawing(trainer), "device": "cpu", "seed": 0} | SIZES | options
        trainSAE(iter([torch.zeros(1, WIDTH)]), [config], steps=1, save_dir=str(folder), device="cpu")
        for path in (folder / "trainer_0").iterdir():
            shutil.move(path, folder / path.name)
        (folder / "trainer_0").rmdir()
        model, _ = load_dictionary(str(folder), "cpu")

        def run(rows: Tensor) -> tuple[Tensor, Tensor]:
            codes = model.encode(rows)
            return codes, model.decode(codes)

        return run

    return save


CASES: dict[str, Case] = {
    "standard": case(StandardTrainer),
    "standard_april": case(StandardTrainerAprilUpdate),
    "p_anneal": case(PAnnealTrainer),
    "gated": case(GatedSAETrainer),
    "jumprelu": case(JumpReluTrainer),
    "topk": case(TopKTrainer, k=MANY),
    "batch_topk": case(BatchTopKTrainer, k=6),
    "matryoshka_batch_topk": case(MatryoshkaBatchTopKTrainer, k=6, group_fractions=[0.25, 0.25, 0.5]),
}

if __name__ == "__main__":
    main(CASES)
