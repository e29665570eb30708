"""Jobs: many slides, one after the other, none of which can end the batch."""

from counterstain.jobs.run import Failure, Outcomes, run_all

__all__ = ["Failure", "Outcomes", "run_all"]
