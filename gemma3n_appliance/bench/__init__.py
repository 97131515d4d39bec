"""Measures this project beside its peers: same weights, same machine, in turns, medians of several rounds."""

from .. import model as model  # makes torchvision importable, for transformers
