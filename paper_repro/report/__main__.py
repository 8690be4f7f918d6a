"""Write what the repository holds and nobody writes by hand: DEVIATIONS.md, and the table of results in README.md."""

from paper_repro.report.deviations import write_deviations
from paper_repro.report.readme import write_readme

print(write_deviations())
print(write_readme())
