"""What results depend on besides the code: processor, system, versions, and other stages at the same time."""

import platform
import resource
from collections.abc import Iterable
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import psutil

INSTRUCTION_SETS = ("amx_tile", "avx512f", "avx2")
STAGES = ("stages.", "apps.scheduling.trainer")
"""The beginnings of the names of modules that run as stages."""


def processor() -> str:
    """The processor, such as 'AMD EPYC (family 25, model 1), avx2'."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
    except FileNotFoundError:
        return platform.processor() or "unknown processor"
    facts = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())
    }
    name = facts.get("model name", platform.machine())
    if "flags" not in facts:
        return name
    flags = facts["flags"].split()
    best = next((flag for flag in INSTRUCTION_SETS if flag in flags), "no avx2")
    return f"{name} (family {facts.get('cpu family')}, model {facts.get('model')}), {best}"


def system() -> str:
    """The operating system and architecture, such as 'Linux x86_64'."""
    return f"{platform.system()} {platform.machine()}"


def packages(names: Iterable[str]) -> dict[str, str]:
    """The installed versions of these packages."""
    return {name: version(name) for name in names}


def stages_at_once() -> int:
    """How many of the project's stages are running on this machine, this one included."""
    found = 0
    for process in psutil.process_iter(["cmdline"]):
        pairs = pairwise(process.info["cmdline"] or [])
        found += any(option == "-m" and module.startswith(STAGES) for option, module in pairs)
    return max(1, found)


def peak_mebibytes() -> int:
    """The peak memory of this process in MiB.

    Linux's getrusage would include the memory of the process that started this one, so /proc comes first.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024**2  # bytes, on macOS
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(peak.split()[1]) // 1024  # kB
