"""Run the pipeline on all cores: like `dvc repro`, but with several stages at once.

    python -m apps.pipeline                       every stage that is not up to date
    python -m apps.pipeline evaluate --jobs 4     one stage, and the stages that it needs

A stage starts as soon as the stages that it needs are done, the longest first. DVC itself runs it, so
results, dvc.lock and the cache are those of `dvc repro`. If a stage fails, only the stages that need it are
left out. After an interruption, the next run continues where this one stopped.

If DASK_SCHEDULER_ADDRESS is set, the workers of that Dask scheduler compute the training stages:
docs/cluster.md.
"""

import argparse
import fcntl
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path

from apps.scheduling.cluster import Cluster, computes
from apps.scheduling.job import Job, Lifeline, apart, warm_up
from apps.scheduling.overview import Overview
from apps.scheduling.plan import look, put_in_order
from apps.scheduling.schedule import Schedule
from apps.scheduling.worker import SCHEDULER
from stages.common import params
from stages.console import command
from stages.console.errors import UserError

LAST_LINES = 10
"""How many of a failed stage's lines are shown."""
LOCK = Path(".dvc/tmp/pipeline.lock")
GLANCE = 0.25
"""Seconds between two looks at what the jobs do."""


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    arguments = parse()
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # else a stage takes all memory of a GPU
    threads = params.read("threads", params.Threads)
    address = os.environ.get(SCHEDULER)
    try:
        with alone():
            plan = apart(look, arguments.targets, computes if address else lambda _: False)
            if plan is None:
                print("Data and pipelines are up to date.")
                return
            workers = Cluster(address, plan.files) if address else None
            jobs = arguments.jobs or max(1, (workers.threads if workers else plan.processors) // threads)
            schedule = Schedule(plan.stages, jobs, plan.mebibytes)
            try:
                failures = run(schedule, workers)
            finally:
                if workers:
                    workers.close()
                if any(len(names) > 1 for names in plan.new.values()):
                    apart(put_in_order, plan.new)
    except KeyboardInterrupt:
        print("interrupted; the next run continues from here", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    if failures:
        raise UserError(in_words(schedule, failures))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="*", help="as `dvc repro` takes them; all stages, if none is named")
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="stages at once (default: the processors divided by `threads`)"
    )
    arguments = parser.parse_args()
    if arguments.jobs is not None and arguments.jobs < 1:
        raise UserError(f"--jobs is {arguments.jobs}; allowed: 1 and more")
    return arguments


@contextmanager
def alone() -> Iterator[None]:
    """Let no other pipeline run in this folder during the block; wait until a running one ends.

    Jobs inherit the lock, so the jobs of a killed pipeline also end before the next pipeline begins.
    """
    LOCK.parent.mkdir(exist_ok=True)
    with LOCK.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another pipeline is running in this folder: waiting for its end", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run(schedule: Schedule, workers: Cluster | None) -> dict[str, list[str]]:
    """Run all stages that can run; return the last lines of those that failed.

    workers: a cluster that computes some of the stages. Raises UserError if it is lost.
    """
    warm_up()
    lifeline = Lifeline()
    others = [workers.connection] if workers else []
    jobs: dict[str, Job] = {}
    failures = {}
    try:
        with Overview(schedule) as overview:
            while schedule.waiting or jobs:
                while name := schedule.start():
                    elsewhere = workers and computes(name)
                    jobs[name] = Job(name, lifeline, workers.shell if elsewhere else None)
                overview.refresh(jobs)
                ended = wait([*others, *(job.sentinel for job in jobs.values())], GLANCE)
                if workers and workers.connection in ended:
                    workers.receive()
                for name in [name for name, job in jobs.items() if job.sentinel in ended]:
                    job = jobs.pop(name)
                    succeeded = job.end()
                    if not succeeded:
                        failures[name] = job.lines()[-LAST_LINES:]
                    schedule.end(name, succeeded)
                    overview.ended(name, job, succeeded)
    finally:
        lifeline.cut()
        for job in jobs.values():
            job.end()
    return failures


def in_words(schedule: Schedule, failures: dict[str, list[str]]) -> str:
    """A message: what failed, with which last lines, and what was not run because of it."""
    told = [f"{len(failures)} of {schedule.total} stages failed: {', '.join(failures)}"]
    if schedule.left_out:
        told[0] += f"; not run because of that: {', '.join(schedule.left_out)}"
    for name, lines in failures.items():
        told += ["", f"{name} ended with:", *(f"    {line}" for line in lines)]
    return "\n".join(told)


if __name__ == "__main__":
    command.run(main)
