"""Train one of SAELens's training classes with its own `SAETrainer.fit` on rows in memory, and score it.

Losses, initialization, optimizer, clipping, scaling of the rows and schedules are all its own. What is set here follows
the page "Training SAEs" of its documentation: rows scaled to a mean norm of √width, the learning rate flat and then
linear to zero over the last fifth, the L1 penalty raised over the first twentieth; for JumpReLU the tanh loss with
bandwidth 2, threshold 0.1, the pre-activation loss and a penalty that rises over the whole run. It is scored as the
inference class, with the weights that a saved model has.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1]))
from absent import stand_in_for, without_init
from matched import MatchedTask
from score import score
from task import Clock, Result

# To read activations from models, fetch models, plot, and log to an account.
stand_in_for(
    *("babe", "datasets", "dotenv", "huggingface_hub", "nltk", "pandas", "plotly", "plotly_express", "requests"),
    *("scipy", "tenacity", "transformers", "wandb"),
    *("transformer_lens.ActivationCache", "transformer_lens.components", "transformer_lens.loading_from_pretrained"),
    *("transformer_lens.model_bridge", "transformer_lens.utils", "transformer_lens.utilities"),
)
# Of transformer-lens it uses the hook points; the module that it takes one of them from imports everything else.
without_init("transformer_lens")
import torch  # noqa: E402
from torch.optim.optimizer import register_optimizer_step_post_hook  # noqa: E402
from transformer_lens.hook_points import HookedRootModule  # noqa: E402

_module = ModuleType("transformer_lens.HookedTransformer")
_module.HookedRootModule = HookedRootModule  # pyright: ignore[reportAttributeAccessIssue]
for _name in ("HookedTransformer", "Loss", "Output"):
    setattr(_module, _name, type(_name, (), {}))
sys.modules[_module.__name__] = _module

from sae_lens import (  # noqa: E402
    SAE,
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    GatedTrainingSAE,
    GatedTrainingSAEConfig,
    JumpReLUTrainingSAE,
    JumpReLUTrainingSAEConfig,
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
    StandardTrainingSAE,
    StandardTrainingSAEConfig,
    TrainingSAE,
)
from sae_lens.config import SAETrainerConfig  # noqa: E402
from sae_lens.training.sae_trainer import SAETrainer  # noqa: E402

NORM_BATCHES = 20
"""Batches of which the mean norm is measured. Its default of 1,000 is more than there are."""
PENALTY_WARMUP_SHARE = 0.05
DECAY_SHARE = 0.2
DEAD_SHARE = 1 / 8
"""Share of the steps after which a silent latent counts as dead. With its default of 1,000 steps none would in a run of
this length, and BatchTopK ends with 61 % dead latents."""
THRESHOLD_SHARE = 0.05
"""Share of the steps over which BatchTopK's threshold for inference is averaged. Its default averages over 100 steps
and starts at zero, so that after a run of this length the threshold would still be far too low."""

MATRYOSHKA_PARTS = (16, 8, 4, 2, 1)
"""The nested widths, as parts of all latents. SAELens has no default; these are those of Gossamer's preset."""


def build(task: MatchedTask, width: int, steps: int) -> TrainingSAE[Any]:
    """Make the training class with the settings that its documentation gives."""
    rows: dict[str, Any] = {
        "d_in": width,
        "d_sae": task.latents,
        "normalize_activations": "expected_average_only_in",
    }
    batch_top_k = {"k": task.l0, "topk_threshold_lr": 1 / (THRESHOLD_SHARE * steps)}
    warmup = round(PENALTY_WARMUP_SHARE * steps)
    match task.architecture:
        case "batch-topk":
            return BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**rows, **batch_top_k))
        case "matryoshka-batch-topk":
            widths = [task.latents // part for part in MATRYOSHKA_PARTS]
            return MatryoshkaBatchTopKTrainingSAE(
                MatryoshkaBatchTopKTrainingSAEConfig(**rows, **batch_top_k, matryoshka_widths=widths)
            )
        case "vanilla-l1":
            weight = task.needs_coefficient()
            return StandardTrainingSAE(
                StandardTrainingSAEConfig(**rows, l1_coefficient=weight, l1_warm_up_steps=warmup)
            )
        case "gated":
            weight = task.needs_coefficient()
            return GatedTrainingSAE(GatedTrainingSAEConfig(**rows, l1_coefficient=weight, l1_warm_up_steps=warmup))
        case "jumprelu":
            return JumpReLUTrainingSAE(
                JumpReLUTrainingSAEConfig(
                    **rows,
                    l0_coefficient=task.needs_coefficient(),
                    l0_warm_up_steps=steps,
                    jumprelu_sparsity_loss_mode="tanh",
                    jumprelu_tanh_scale=4.0,
                    jumprelu_bandwidth=2.0,
                    jumprelu_init_threshold=0.1,
                    pre_act_loss_coefficient=3e-6,
                )
            )
    raise ValueError(f"SAELens trains no {task.architecture!r}")


def train(task: MatchedTask, rows: np.ndarray) -> tuple[TrainingSAE[Any], list[float]]:
    """Run its trainer; give the trained model and the loss of every step."""
    steps = task.steps(len(rows))
    torch.manual_seed(task.seed)
    sae = build(task, rows.shape[1], steps)
    how = SAETrainerConfig(
        total_training_samples=steps * task.batch,
        train_batch_size_samples=task.batch,
        lr=task.learning_rate or SAETrainerConfig.lr,
        lr_end=(task.learning_rate or SAETrainerConfig.lr) / 10,
        lr_decay_steps=round(DECAY_SHARE * steps),
        dead_feature_window=round(DEAD_SHARE * steps),
        n_batches_for_norm_estimate=min(NORM_BATCHES, steps),
    )
    losses: list[float] = []

    class Watched(SAETrainer):
        def step(self, batch: torch.Tensor) -> Any:
            output = super().step(batch)
            losses.append(output.loss.item())
            return output

    batches = chain(islice(task.batches(rows), how.n_batches_for_norm_estimate), task.batches(rows))
    Watched(how, sae, data_provider=map(torch.from_numpy, batches)).fit()
    return sae, losses


@torch.no_grad()
def inference(sae: TrainingSAE[Any]) -> SAE[Any]:
    """Make the inference class, as saving and loading do."""
    state = {name: tensor.clone() for name, tensor in sae.state_dict().items()}
    sae.process_state_dict_for_saving_inference(state)
    made = SAE.from_dict(sae.cfg.get_inference_sae_cfg_dict())
    made.load_state_dict(state)
    return made


def main() -> None:
    task = MatchedTask.from_arguments()
    rows, validation = task.load()
    clock = Clock()
    register_optimizer_step_post_hook(lambda *_: clock.tick())
    trained, losses = train(task, rows)
    seconds = clock.total
    sae = inference(trained)

    @torch.no_grad()
    def reconstruct(given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        codes = sae.encode(torch.from_numpy(given))
        return sae.decode(codes).numpy(), (codes > 0).numpy()

    task.save({name: tensor.numpy() for name, tensor in sae.state_dict().items()})
    Result(
        score=score(validation, reconstruct, latents=task.latents),
        learning_rate=task.learning_rate,
        steps=len(losses),
        final_loss=losses[-1],
        seconds_per_step=clock.per_step,
        seconds=seconds,
        versions={"sae-lens": version("sae-lens"), "torch": torch.__version__},
    ).write(task.output)


if __name__ == "__main__":
    main()
