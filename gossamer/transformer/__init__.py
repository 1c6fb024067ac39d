"""The transformer: attention, positions, layers, the model, generation, and vocabularies. It knows of no training."""

from gossamer.transformer.analogies import Analogies
from gossamer.transformer.files import load_transformer, save_transformer
from gossamer.transformer.generate import Decoding, Generated
from gossamer.transformer.layers import Block, Layer
from gossamer.transformer.model import Attended, Transformer, TransformerSpec
from gossamer.transformer.positions import Learned, NoPositions, Rotary, Sinusoidal
from gossamer.transformer.translator import Translation, Translator
from gossamer.transformer.vocabulary import BytePairs, Characters, Phonemes, Words

__all__ = [
    "Analogies",
    "Attended",
    "Block",
    "BytePairs",
    "Characters",
    "Decoding",
    "Generated",
    "Layer",
    "Learned",
    "NoPositions",
    "Phonemes",
    "Rotary",
    "Sinusoidal",
    "Transformer",
    "TransformerSpec",
    "Translation",
    "Translator",
    "Words",
    "load_transformer",
    "save_transformer",
]
