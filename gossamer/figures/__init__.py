"""Pictures of dictionaries, codes and paths: functions that draw with matplotlib and return what they drew on.

Each takes arrays, or an autoencoder where directions are meant. Those of one panel take `ax`, those of several take
`figure`; without it they make a figure of their own, which pyplot does not know of: `axes.figure` shows and saves it.
The charts of a run's report are not here. Needs `pip install "gossamer[report]"`.
"""

from gossamer.figures.curves import loss_curve, rate_distortion, sparsity_path, usage
from gossamer.figures.dictionary import atoms, waveforms, words
from gossamer.figures.rows import reconstructions

__all__ = [
    "atoms",
    "loss_curve",
    "rate_distortion",
    "reconstructions",
    "sparsity_path",
    "usage",
    "waveforms",
    "words",
]
