"""Sources: where rows come from. Importing the room makes every kind of source known to `SourceSpec.from_dict`."""

from gossamer.sources.activations import Activations as Activations
from gossamer.sources.arrays import Arrays as Arrays
from gossamer.sources.model_windows import ModelWindows as ModelWindows
from gossamer.sources.synthetic import Synthetic as Synthetic
