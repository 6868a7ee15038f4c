"""Many jobs: each is one command in a process of its own; what came of it is a line of a manifest."""

from onnxlr.batch.jobs import BatchJob, read_jobs
from onnxlr.batch.manifest import Manifest, job_key
from onnxlr.batch.running import Outcome, run_here, run_on_cluster

__all__ = ["BatchJob", "Manifest", "Outcome", "job_key", "read_jobs", "run_here", "run_on_cluster"]
