"""A whole computer whose processor has AVX-512, emulated by Bochs: QEMU's processors have none.

It starts Debian's kernel from a disc that holds this environment and the project's code; its hard
disk is one tar archive, which carries files in and out. Needs the packages of Debian that are named
below and Bochs 3, whose source https://bochs.sourceforge.io has, built and installed by

    ./configure --enable-x86-64 --enable-avx --enable-evex --enable-all-optimizations --with-nogui
    make install
"""

import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parent.parent
EMULATOR = "bochs"
PACKAGES = {
    "linux-image-amd64": "boot/initrd.img-*",
    "bochsbios": "usr/share/bochs/BIOS-bochs-latest",
    "vgabios": "usr/share/vgabios/vgabios.bin",
    "isolinux": "usr/lib/ISOLINUX/isolinux.bin",
    "syslinux-common": "usr/lib/syslinux/modules/bios/ldlinux.c32",
    "xorriso": "usr/bin/xorriso",
}
"""Debian's packages, and a file of each that is used here."""

OLDEST = 3  # Bochs 2.7, which Debian has, knows less of AVX-512
DISK_BYTES = 2**28
TIME_LIMIT = 3 * 3600  # seconds; what takes as long hangs

START = """default linux
label linux
 kernel vmlinuz
 append initrd=initrd root=/dev/sr0 rootfstype=iso9660 init=/init console=ttyS0 nokaslr loglevel=4
"""
COMPUTER = """cpu: model={processor}, ips=200000000, reset_on_triple_fault=0
memory: guest=2048, host=2048
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/vgabios/vgabios.bin
display_library: nogui
boot: cdrom
ata0-master: type=disk, path={folder}/disk, mode=flat
ata1-master: type=cdrom, path={disc}, status=inserted
com1: enabled=1, mode=file, dev={folder}/terminal
log: {folder}/log
panic: action=fatal
error: action=ignore
info: action=ignore
"""
# The first process. /run and /dev are in memory and can be written, the disc cannot.
INIT = """#!{python}
import ctypes, json, os, subprocess, tarfile

os.makedirs("/run/work")
os.makedirs("/dev/shm", exist_ok=True)
os.chdir("/run/work")
with tarfile.open("/dev/sda") as archive:
    archive.extractall(filter="fully_trusted")
with open("command.json") as file:
    command = json.load(file)
os.remove("command.json")
environment = {{"PYTHONPATH": "{root}", "HOME": "/run", "PATH": "/usr/bin", "LANG": "C.UTF-8"}}
status = subprocess.run(command, env=environment).returncode
with tarfile.open("/dev/sda", "w") as archive:
    archive.add(".")
os.sync()
print("\\nstatus", status, flush=True)
ctypes.CDLL(None).reboot({power_off})
"""
POWER_OFF = 0x4321FEDC  # RB_POWER_OFF of reboot(2)


def missing() -> list[str]:
    """What this machine lacks of what is needed: Debian's packages, and Bochs itself."""
    packages = [package for package, file in PACKAGES.items() if not any(Path("/").glob(file))]
    there = shutil.which(EMULATOR) and int(version().partition(".")[0]) >= OLDEST
    return packages + ([] if there else [f"{EMULATOR} {OLDEST}"])


def version() -> str:
    """The emulator's version, such as 3.0."""
    run = subprocess.run([EMULATOR, "--help"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return run.stdout.partition("Bochs x86 Emulator ")[2].split()[0]


def write_disc(disc: Path) -> None:
    """Write the disc that the computer starts from, some 8 GB: kernel, Python, packages and code."""
    initrd = max(Path("/boot").glob("initrd.img-*"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for empty in ("dev", "proc", "sys", "run", "usr"):
            (folder / empty).mkdir()
        for link, target in {"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64", "tmp": "run"}.items():
            (folder / link).symlink_to(target)
        init = folder / "init"
        init.write_text(INIT.format(python=sys.executable, root=ROOT, power_off=POWER_OFF))
        init.chmod(0o755)
        (folder / "isolinux.cfg").write_text(START)
        files = {
            "": folder,
            "initrd": initrd,
            "vmlinuz": initrd.with_name(initrd.name.replace("initrd.img", "vmlinuz")),
            "isolinux.bin": Path("/", PACKAGES["isolinux"]),
            "ldlinux.c32": Path("/", PACKAGES["syslinux-common"]),
        }
        shown = ["/usr/lib/x86_64-linux-gnu", "/usr/lib64", sys.base_prefix, sys.prefix]
        shown += [ROOT / "stages", ROOT / "tools"]
        subprocess.run(
            ["xorriso", "-as", "mkisofs", "-quiet", "-R", "-iso-level", "3", "-o", disc]
            + ["-b", "isolinux.bin", "-c", "boot.cat", "-no-emul-boot", "-boot-load-size", "4"]
            + ["-boot-info-table", "-graft-points"]
            + [f"/{place}={file}" for place, file in files.items()]
            + [f"{place}={place}" for place in shown],
            check=True,
        )


def run(disc: Path, processor: str, folder: Path, command: list[str]) -> None:
    """Run a command in `folder`, on `processor`.

    What it sees there is a copy, in memory, without outputs/; what it leaves in outputs/ comes back.
    Raises RuntimeError with the last lines of the terminal if it, or the computer, fails or hangs.
    """
    with tempfile.TemporaryDirectory() as name:
        computer = Path(name)
        disk, terminal = computer / "disk", computer / "terminal"
        (computer / "command.json").write_text(json.dumps(command))
        with tarfile.open(disk, "w") as archive:
            archive.add(folder, ".", filter=lambda info: None if _is_output(info) else info)
            archive.add(computer / "command.json", "command.json")
        if disk.stat().st_size > DISK_BYTES // 2:
            raise RuntimeError(f"{folder} is too large for Bochs: {disk.stat().st_size:,} bytes")
        with disk.open("r+b") as file:
            file.truncate(DISK_BYTES)
        settings = computer / "settings"
        settings.write_text(COMPUTER.format(processor=processor, folder=computer, disc=disc))
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with suppress(subprocess.TimeoutExpired):
            subprocess.run([EMULATOR, "-q", "-f", settings], timeout=TIME_LIMIT, **quiet)
        lines = terminal.read_text(errors="replace").splitlines() if terminal.exists() else []
        if not any(line.startswith("status 0") for line in lines):
            end = "\n".join(lines[-10:])
            raise RuntimeError(f"Bochs as {processor} failed, and ended with:\n{end}")
        with tarfile.open(disk) as archive:
            archive.extractall(folder, filter(_is_output, archive.getmembers()), filter="data")


def _is_output(info: tarfile.TarInfo) -> bool:
    return info.name.startswith("./outputs")
