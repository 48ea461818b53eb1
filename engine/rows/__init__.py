"""Files and Hub datasets -> rows, with a ledger in which each is kept, cut or refused.

formats, jsonrows, hub (a source as records) -> detect, shapes (what a row means) -> reader (all of it, with a ledger)
"""
