"""Networks that the experiments train."""

from sobolev.networks.ensemble import ACTIVATIONS, INITIALISATIONS, MLPEnsemble, ReLUSobolevStep
from sobolev.networks.smooth_step import SmoothSobolevStep

__all__ = ["ACTIVATIONS", "INITIALISATIONS", "MLPEnsemble", "ReLUSobolevStep", "SmoothSobolevStep"]
