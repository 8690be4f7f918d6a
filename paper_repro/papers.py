"""The papers of this release, and last what we make of all four: short name -> experiment module."""

PAPERS = {
    "titans": "experiments.titans_cascade",
    "sparse": "experiments.sparse_distillation",
    "recycle": "experiments.reduce_reuse_recycle",
    "majority": "experiments.majority_kernels",
    "combined": "experiments.combined",
}
TITLES = {
    "titans": "When in Doubt, Summon the Titans (arXiv 2110.10305v1)",
    "sparse": "Sparse Distillation (arXiv 2110.08536v2)",
    "recycle": "Reduce, Reuse, Recycle (arXiv 2211.00683v1)",
    "majority": "Majority Kernels (arXiv 2402.05033v2)",
    "combined": "The four combined (ours)",
}
