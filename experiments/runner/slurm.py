"""Slurm jobs that end without a result: cancelled, out of memory, out of time too often, or on a node that failed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hydra.core.utils import JobReturn, JobStatus

from experiments.runner.errors import BadInput

if TYPE_CHECKING:
    from submitit import Job


@contextmanager
def failing_alone() -> Iterator[None]:
    """Make such a job the failure of its own run.

    Submitit raises an error where it waits for the job, so the sweep would end while its other jobs go on.
    """
    from submitit import Job
    from submitit.core.utils import UncompletedJobError

    wait = Job.results

    def results(job: Job) -> list[JobReturn]:
        try:
            returned = wait(job)
        except UncompletedJobError:
            return [JobReturn(status=JobStatus.FAILED, _return_value=lost(job, f"state {job.state}"))]
        for each in returned:
            if isinstance(error := each._return_value, UncompletedJobError):  # raised by Slurm's signal during the run
                each._return_value = lost(job, str(error))
        return returned

    Job.results = results
    try:
        yield
    finally:
        Job.results = wait


def lost(job: Job, why: str) -> BadInput:
    log = f"{job.paths.stderr} is its log"
    return BadInput(f"Slurm job {job.job_id} ended without a result ({why}); {log}, and the same command continues")
