"""Adapters into base weights, by files alone, and the proof of the result.

deltas (what each tensor gains) -> plan -> stream (tensor by tensor) -> merge -> verify; combine makes one adapter of several
"""
