"""A job that ends without a result fails alone: submitit's own local jobs stand in for those of Slurm."""

import os
import signal

import pytest
import submitit
from hydra.core.utils import JobReturn, JobStatus
from submitit.core.utils import UncompletedJobError

from experiments.runner.slurm import failing_alone
from tests import front_door
from tests.conftest import TINY


def ends(how: str) -> JobReturn:
    if how == "killed":  # no result, as after scancel
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "out of time":  # as Hydra returns what submitit raises at Slurm's signal
        return JobReturn(status=JobStatus.FAILED, _return_value=UncompletedJobError("timed-out too many times"))
    return JobReturn(status=JobStatus.COMPLETED, _return_value=0.5)


def test_a_job_without_a_result_hides_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(submitit.Job, "_results_timeout_s", 0)  # a shared file system gets 15 seconds
    executor = submitit.LocalExecutor(tmp_path)
    executor.update_parameters(timeout_min=5)
    jobs = executor.map_array(ends, ["killed", "out of time", "well"])
    with failing_alone():
        killed, late, well = (job.results()[0] for job in jobs)
    assert (well.status, well.return_value) == (JobStatus.COMPLETED, 0.5)
    for job, result, why in ((jobs[0], killed, "state "), (jobs[1], late, "timed-out too many times")):
        assert result.status is JobStatus.FAILED
        said = str(result._return_value)
        assert said.startswith(f"Slurm job {job.job_id} ended without a result ({why}")
        assert said.endswith(f"{job.paths.stderr} is its log, and the same command continues")
    with pytest.raises(UncompletedJobError):  # submitit itself is as before
        jobs[0].results()


@pytest.mark.slow
def test_a_sweep_counts_a_cancelled_job_as_a_failed_run(tmp_path, monkeypatch):
    answers = {"srun": "", "sbatch": "Submitted batch job 7", "sacct": "JobID|State|NodeList\n7|CANCELLED|node"}
    for name, answer in answers.items():  # programs of a cluster on which somebody cancels the job
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{answer}'\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    folder = tmp_path / "runs"
    done = front_door.run("-m", *TINY["regression"], f"runs_dir={folder}", "recorder=disabled", "hydra/launcher=slurm")
    assert done.returncode == 1
    expected = "error: 1 of 1 runs failed; the first: Slurm job 7 ended without a result (state CANCELLED); "
    assert done.stderr.splitlines()[-1].startswith(f"{expected}{folder}/.submitit/7/")
