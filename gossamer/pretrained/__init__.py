"""Pretrained: text in, text out, and sound in, text out, with models that other people have trained.

`open_writer` makes a `Writer` of a model's name; `generate` is both steps in one. What a model writes as ids is the
business of `sources.generation`; autoencoders inside these models are trained through `sources.sequences`.
"""

from gossamer.pretrained.generate import generate as generate
from gossamer.pretrained.generate import open_writer as open_writer
from gossamer.pretrained.writer import Writer as Writer
from gossamer.pretrained.writer import Written as Written
