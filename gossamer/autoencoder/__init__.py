"""Autoencoders: encoder, sparsity, decoder and losses, and their combinations."""

from gossamer.autoencoder.presets import preset as preset
