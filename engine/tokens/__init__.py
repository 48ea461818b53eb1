"""Rows -> segments -> examples -> flat batches.

prompts (chat template or format strings) -> examples (ids with weights, cached, packed, batched) -> dataset (a project's)
"""
