"""Turns the engine's events into what goes over the wire."""
