"""The papers of this release: short name -> experiment module."""

PAPERS = {"titans": "experiments.titans_cascade", "sparse": "experiments.sparse_distillation"}
TITLES = {
    "titans": "When in Doubt, Summon the Titans (arXiv 2110.10305v1)",
    "sparse": "Sparse Distillation (arXiv 2110.08536v2)",
}
