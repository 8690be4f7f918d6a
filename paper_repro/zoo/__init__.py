"""Every model that an experiment can name: own small nets, and the papers' own through timm and transformers.

Importing this imports neither of the two libraries; building one of their models does.
"""

from paper_repro.zoo.cost import active_params, cost, flops, inputs, parameters, table
from paper_repro.zoo.registry import TABLE, Entry, build, load_tokenizer

__all__ = [
    "TABLE",
    "Entry",
    "active_params",
    "build",
    "cost",
    "flops",
    "inputs",
    "load_tokenizer",
    "parameters",
    "table",
]
