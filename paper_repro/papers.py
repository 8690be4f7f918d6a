"""The papers of this release: short name -> experiment module."""

PAPERS = {"titans": "experiments.titans_cascade"}
TITLES = {"titans": "When in Doubt, Summon the Titans (arXiv 2110.10305v1)"}
