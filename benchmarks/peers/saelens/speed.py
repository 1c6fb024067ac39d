"""SAELens's training step, encoding and memory; run by `benchmarks.speed`, see `worker`.

The step is `SAETrainer.step`, the call that its `fit` and its trainer of several models make for each batch: forward,
losses, firing statistics, backward, gradient clipping at 1, Adam, schedules. Nothing is logged. Encoding is done by
the inference class with the weights that a saved model would have.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

sys.path.append(str(Path(__file__).resolve().parents[1]))
from absent import stand_in_for, without_init
from worker import STEPS, Library, Setup, claim_output, main

ANSWERS = claim_output()

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

# To read activations from models, fetch models, plot, and log to an account.
stand_in_for(
    *("babe", "datasets", "dotenv", "huggingface_hub", "nltk", "pandas", "plotly", "plotly_express", "requests"),
    *("scipy", "tenacity", "transformers", "wandb"),
    *("transformer_lens.ActivationCache", "transformer_lens.components", "transformer_lens.loading_from_pretrained"),
    *("transformer_lens.model_bridge", "transformer_lens.utils", "transformer_lens.utilities"),
)
# Of transformer-lens it uses the hook points; the module that it takes one of them from imports everything else.
without_init("transformer_lens")
from transformer_lens.hook_points import HookedRootModule  # noqa: E402

_module = ModuleType("transformer_lens.HookedTransformer")
_module.HookedRootModule = HookedRootModule  # pyright: ignore[reportAttributeAccessIssue]
for _name in ("HookedTransformer", "Loss", "Output"):
    setattr(_module, _name, type(_name, (), {}))
sys.modules[_module.__name__] = _module

from sae_lens import (  # noqa: E402
    SAE,
    JumpReLUTrainingSAE,
    JumpReLUTrainingSAEConfig,
    StandardTrainingSAE,
    StandardTrainingSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
)
from sae_lens.config import SAETrainerConfig  # noqa: E402
from sae_lens.training.sae_trainer import SAETrainer  # noqa: E402

CLASSES = {
    "topk": (TopKTrainingSAE, TopKTrainingSAEConfig),
    "relu": (StandardTrainingSAE, StandardTrainingSAEConfig),
    "jumprelu": (JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig),
}


class SaeLens(Library):
    """`SAETrainer` with one of its training classes, each with its default configuration."""

    def __init__(self, setup: Setup, rows: Tensor) -> None:
        setup.require(*CLASSES)
        self.versions = {"sae-lens": version("sae-lens")}
        model, config = CLASSES[setup.architecture]
        dial = {"k": setup.k} if setup.architecture == "topk" else {}
        self.sae = model(config(d_in=setup.width, d_sae=setup.latents, device=setup.device, **dial))
        if setup.architecture != "topk":
            self.start(setup.start())
        how = SAETrainerConfig(
            total_training_samples=STEPS * setup.batch,
            train_batch_size_samples=setup.batch,
            lr=setup.rate,
            lr_end=setup.rate / 10,
            device=setup.device,
        )
        self.trainer = SAETrainer(how, self.sae, data_provider=iter(()))
        self.optimizer = self.trainer.optimizer
        self.inference: SAE | None = None

    @torch.no_grad()
    def start(self, weights: dict[str, Tensor]) -> None:
        """Copy the weights; its encoder sees rows less the decoder's bias."""
        self.sae.W_enc.copy_(weights["encoder"].T)
        self.sae.W_dec.copy_(weights["decoder"])
        self.sae.b_dec.copy_(weights["decoder_bias"])
        shift = self.sae.b_dec @ self.sae.W_enc if self.sae.cfg.apply_b_dec_to_input else 0.0
        self.sae.b_enc.copy_(weights["encoder_bias"] + shift)
        if hasattr(self.sae, "threshold"):
            self.sae.threshold.copy_(weights["threshold"])

    def step(self, x: Tensor) -> object:
        self.trainer.maybe_reset_sparsity()
        output = self.trainer.step(x)
        self.trainer.n_training_steps += 1
        return output

    @torch.no_grad()
    def before_encoding(self) -> None:
        if self.inference is None:
            self.inference = SAE.from_dict(self.sae.cfg.get_inference_sae_cfg_dict())
        state = {name: tensor.clone() for name, tensor in self.sae.state_dict().items()}
        self.sae.process_state_dict_for_saving_inference(state)
        self.inference.load_state_dict(state)

    def encode(self, x: Tensor) -> object:
        assert self.inference is not None
        return self.inference.encode(x)

    def reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        codes = self.sae.encode(x)
        return self.sae.decode(codes), codes > 0


if __name__ == "__main__":
    main(ANSWERS, SaeLens)
