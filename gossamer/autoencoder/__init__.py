"""Autoencoders: encoder, sparsity, decoder and losses, and their combinations."""
