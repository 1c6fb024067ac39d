"""Ground truth: how much of the known features of a synthetic source an autoencoder found.

`score` gives all scores of one autoencoder or control; the scores themselves are functions of directions and codes.
"""

from gossamer.evaluate.ground_truth.controls import Coder as Coder
from gossamer.evaluate.ground_truth.controls import Oracle as Oracle
from gossamer.evaluate.ground_truth.controls import PermutedDecoder as PermutedDecoder
from gossamer.evaluate.ground_truth.controls import PrincipalComponents as PrincipalComponents
from gossamer.evaluate.ground_truth.controls import frozen_decoder as frozen_decoder
from gossamer.evaluate.ground_truth.controls import principal_components as principal_components
from gossamer.evaluate.ground_truth.pairs import best as best
from gossamer.evaluate.ground_truth.pairs import feature_recovery as feature_recovery
from gossamer.evaluate.ground_truth.pairs import matching as matching
from gossamer.evaluate.ground_truth.pairs import mcc as mcc
from gossamer.evaluate.ground_truth.patterns import absorption as absorption
from gossamer.evaluate.ground_truth.patterns import firing_f1 as firing_f1
from gossamer.evaluate.ground_truth.patterns import hedging as hedging
from gossamer.evaluate.ground_truth.scoring import GroundTruthScore as GroundTruthScore
from gossamer.evaluate.ground_truth.scoring import score as score
