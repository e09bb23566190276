"""cotune joins a frozen language model and frozen encoders with a few million adapter weights, tuned in balance."""

__version__ = "0.1.0"
