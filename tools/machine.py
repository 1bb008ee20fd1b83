"""What decides the last bits of a result beside the code: processor, threads, system, Python."""

import platform
from pathlib import Path

from stages.common import params

INSTRUCTION_SETS = ("amx_tile", "avx512f", "avx2")


def describe() -> str:
    """One line, such as 'AMD EPYC (family 25, model 1), avx2, 2 threads, Linux x86_64, Python 3.11'."""
    threads = params.read("threads", params.Threads)
    system = f"{platform.system()} {platform.machine()}"
    python = "Python " + ".".join(platform.python_version_tuple()[:2])
    return f"{_processor()}, {threads} threads, {system}, {python}"


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
    except FileNotFoundError:
        return platform.processor() or "unknown processor"
    facts = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())
    }
    flags = facts.get("flags", "").split()
    best = next((name for name in INSTRUCTION_SETS if name in flags), "no avx2")
    name = facts.get("model name", platform.machine())
    return f"{name} (family {facts.get('cpu family')}, model {facts.get('model')}), {best}"
