"""An OpenAI-compatible appliance for Google's Gemma 3n on NVIDIA Jetson."""

__version__ = "0.1.0"
