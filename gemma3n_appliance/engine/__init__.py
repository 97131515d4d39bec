"""Schedules generation over slots: token ids and bytes only, no torch, no HTTP."""
