"""Networks that the experiments train."""

from sobolev.networks.ensemble import ACTIVATIONS, INITIALISATIONS, MLPEnsemble, ReLUSobolevStep

__all__ = ["ACTIVATIONS", "INITIALISATIONS", "MLPEnsemble", "ReLUSobolevStep"]
