"""What the user sees while stages run: at a terminal a table of all, elsewhere a line for each stage."""

from collections.abc import Mapping
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from apps.scheduling.job import Job
from apps.scheduling.schedule import Schedule


class Overview:
    """Shows the progress of a schedule during its block."""

    def __init__(self, schedule: Schedule):
        self._schedule, self._done = schedule, 0
        self._console = Console(highlight=False, markup=False, emoji=False)
        terminal = self._console.is_terminal
        self._live = Live(console=self._console, auto_refresh=False, transient=True) if terminal else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def refresh(self, jobs: Mapping[str, Job]) -> None:
        """Show, at a terminal, the running jobs with their last lines, and the time left."""
        if not self._live:
            return
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis")
        for name, job in jobs.items():
            table.add_row(name, f"{job.seconds:.0f} s", Text("".join(job.lines()[-1:])))
        left = self._schedule.seconds_left({name: job.seconds for name, job in jobs.items()})
        waiting = len(self._schedule.waiting)
        summary = f"{self._done} of {self._schedule.total} done, {len(jobs)} running, {waiting} waiting"
        summary = Text(f"{summary}, about {duration(left)} left", "bold")
        self._live.update(Group(summary, table), refresh=True)  # a low terminal shows only the first lines

    def ended(self, name: str, job: Job, succeeded: bool) -> None:
        """Print a line about a stage that has ended."""
        self._done += 1
        result = "".join(job.lines()[-1:]).strip() if succeeded else "failed"
        place = f"{self._done:>{len(str(self._schedule.total))}}/{self._schedule.total}"
        self._console.print(f"{place}  {name}  {job.seconds:.1f} s  {result}", soft_wrap=True)


def duration(seconds: float) -> str:
    """A duration as text, such as '40 s' or '3 min'."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
