"""The work: load, train, measure, generate, merge. Runs headless; never imports textual or workbench.

The modules at the top are the torch-free part, all that the workbench may import: `events`, `spec` and its `tables`,
`store`, `adapters`, and what they rest on. The packages are the work, and import only downward:

    verbs -> jobs -> merging -> evaluation -> generation, training -> models -> tokens -> rows -> the modules at the top

The import contracts in pyproject.toml hold the order.
"""

__version__ = "0.1.0"
