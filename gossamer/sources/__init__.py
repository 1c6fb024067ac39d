"""Sources: where rows come from. Importing the room makes every kind of source known to `SourceSpec.from_dict`."""

from gossamer.sources.activations import Activations as Activations
from gossamer.sources.arrays import Arrays as Arrays
from gossamer.sources.cmudict import CmudictSpec as CmudictSpec
from gossamer.sources.documents import Documents as Documents
from gossamer.sources.embeddings import Embeddings as Embeddings
from gossamer.sources.images import Images as Images
from gossamer.sources.model_windows import ModelWindows as ModelWindows
from gossamer.sources.pair_activations import PairSequences as PairSequences
from gossamer.sources.pairs import Pairs as Pairs
from gossamer.sources.sequences import SequenceActivations as SequenceActivations
from gossamer.sources.signals import Signals as Signals
from gossamer.sources.speech import Speech as Speech
from gossamer.sources.synthetic import Synthetic as Synthetic
from gossamer.sources.tables import Table as Table
from gossamer.sources.text_sequences import TextSequences as TextSequences
