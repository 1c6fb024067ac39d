"""Gossamer's training step, encoding and memory; run by `benchmarks.speed`, see `worker`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
from worker import STEPS, Library, Setup, claim_output, main

ANSWERS = claim_output()

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

import gossamer as gs  # noqa: E402
from gossamer.autoencoder.initialise import start_from_data  # noqa: E402
from gossamer.training.spec import derive  # noqa: E402
from gossamer.training.trainee import Trainee  # noqa: E402

PRESETS = {"topk": "topk", "relu": "vanilla-l1", "jumprelu": "jumprelu"}


def autoencoder_spec(setup: Setup) -> gs.AutoencoderSpec:
    """Give the preset of an architecture; k is a setting of topk alone, the others start from given weights."""
    setup.require(*PRESETS)
    sizes = {"input_width": setup.width, "latents": setup.latents}
    dial = {"l0": setup.k} if setup.architecture == "topk" else {}
    try:
        spec = gs.preset(PRESETS[setup.architecture], **sizes, **dial)
        if setup.architecture == "jumprelu":  # SAELens' default; ours is twice as wide
            spec = spec.replace(sparsity=spec.sparsity.replace(bandwidth=0.05))
        return spec
    except ValueError as error:
        raise ValueError(f"this version of Gossamer has no {setup.architecture}: {error}") from error


@torch.no_grad()
def start_from_weights(sae: gs.SparseAutoencoder, weights: dict[str, Tensor]) -> None:
    """Copy the weights; the scaling stays at one, so they act on the rows as they are."""
    sae.encoder.weight.copy_(weights["encoder"])
    sae.encoder.bias.copy_(weights["encoder_bias"])
    sae.decoder.weight.copy_(weights["decoder"])
    sae.decoder.bias.copy_(weights["decoder_bias"])
    if sae.spec.sparsity.kind == "jumprelu":
        set_threshold(sae, weights["threshold"])


def set_threshold(sae: gs.SparseAutoencoder, threshold: Tensor) -> None:
    """Set the thresholds of JumpReLU, however they are parameterized."""
    parameters = dict(sae.sparsity.named_parameters())  # pyright: ignore[reportAttributeAccessIssue]
    if "threshold" in parameters:
        parameters["threshold"].copy_(threshold)
    elif "log_threshold" in parameters:
        parameters["log_threshold"].copy_(threshold.log())
    else:
        raise ValueError(f"expected a parameter threshold or log_threshold of JumpReLU, found {list(parameters)}")


class Gossamer(Library):
    """`Trainee.step`, what `gs.train` calls for each batch."""

    def __init__(self, setup: Setup, rows: Tensor) -> None:
        self.versions = {"gossamer": gs.__version__}
        spec = autoencoder_spec(setup)
        self.sae = spec.build(seed=setup.seed).to(setup.device)
        if setup.weights is None:
            start_from_data(self.sae, rows)
        else:
            start_from_weights(self.sae, setup.start())
        how = gs.TrainSpec(
            rows=STEPS * setup.batch,
            batch=setup.batch,
            learning_rate=setup.learning_rate,
            warmup_steps=0,
            decay_steps=0,
        )
        self.trainee = Trainee(self.sae, spec.task.bind(None), how, derive(how, spec))
        self.done = 0

    def step(self, x: Tensor) -> None:
        if not self.sae.training:
            self.sae.train()
        self.trainee.step({"": x}, self.done)
        self.done += 1

    @torch.no_grad()
    def settle(self) -> None:
        """Write every tensor of the state once: zeros are not resident before."""
        for tensor in self.trainee.state_dict().values():
            tensor.copy_(tensor.clone())

    def before_encoding(self) -> None:
        self.sae.eval()

    def encode(self, x: Tensor) -> object:
        return self.sae.encode(x)

    def reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.sae.eval()
        codes = self.sae.encode(x)
        return self.sae.decode(codes), codes.to_dense() != 0


if __name__ == "__main__":
    main(ANSWERS, Gossamer)
