"""Reads back what trackers keep on this machine, each by the way that its makers support."""

import csv
import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from apps.tracking import feed

TRACKERS = feed.TRACKERS
LIBRARIES = {"comet": "comet_ml"}


def installed(tracker: str) -> bool:
    return importlib.util.find_spec(LIBRARIES.get(tracker, tracker)) is not None


@dataclass
class Found:
    """A run. metrics: by name, the values by step or epoch. pictures, tables: by name; a table's rows."""

    state: str = ""
    metrics: dict[str, dict[int, float]] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    pictures: set[str] = field(default_factory=set)
    tables: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    artifacts: dict[str, set[str]] = field(default_factory=dict)


def read(tracker: str, folder: Path, run: str) -> Found:
    """What a tracker has of a run. folder: tracking/ of a project."""
    return READERS[tracker](folder / tracker, run)


def places(points: list[tuple[int, float]]) -> dict[int, float]:
    """Values by place, each of which must be there once."""
    found = dict(points)
    assert len(found) == len(points), "a value is there twice"
    return found


def answer(code: str, *arguments: str) -> Any:
    """What a Python program prints as JSON, without the tests' own settings."""
    run = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def from_dvclive(folder: Path, run: str) -> Found:
    (place,) = folder.rglob(run[:8])
    found = Found(summary=json.loads((place / "metrics.json").read_text()))
    for path in (place / "plots/metrics").glob("*.tsv"):
        with path.open() as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        found.metrics[path.stem] = places([(int(row["step"]), float(row[path.stem])) for row in rows])
    content = yaml.safe_load((place / "params.yaml").read_text())
    found.state, found.about = content["state"], content["about"]
    found.parameters = feed.flat(content["parameters"])
    found.pictures = {path.stem for path in (place / "plots/images").glob("*.png")}
    for path in (place / "plots/custom").glob("*.json"):
        found.tables[path.stem] = json.loads(path.read_text())
    return found


TENSORBOARD = """
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
events = EventAccumulator(sys.argv[1], {"scalars": 0, "images": 0, "tensors": 0}).Reload()
tags = events.Tags()
scalars = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags["scalars"]}
tensors = {tag: events.Tensors(tag)[0].tensor_proto for tag in tags["tensors"]}
texts = {tag: tensor.string_val[0].decode() for tag, tensor in tensors.items() if tensor.string_val}
content = HParamsPluginData.FromString(
    events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
).session_start_info.hparams
hparams = {key: getattr(value, value.WhichOneof("kind")) for key, value in content.items()}
print(json.dumps([scalars, texts, tags["images"], hparams]))
"""


def from_tensorboard(folder: Path, run: str) -> Found:
    (place,) = folder.rglob(run[:8])
    scalars, texts, images, hparams = answer(TENSORBOARD, str(place))
    found = Found(state=texts["state"], parameters=hparams, pictures=set(images))
    found.metrics = {key: places(points) for key, points in scalars.items()}
    found.summary = {key: points[0][1] for key, points in scalars.items() if len(points) == 1} | texts
    tables = {key: text for key, text in texts.items() if text.startswith("|")}
    for key, text in tables.items():
        head, _, *rows = ([cell.strip() for cell in line[1:-1].split("|")] for line in text.splitlines())
        found.tables[key] = [dict(zip(head, row, strict=True)) for row in rows]
    found.about = {row["what"]: row["is"] for row in found.tables.pop("about")}
    return found


MLFLOW = """
import json, sys, mlflow
folder, run = sys.argv[1:]
mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
client = mlflow.MlflowClient()
(found,) = client.search_runs([e.experiment_id for e in client.search_experiments()], f"tags.run = '{run}'")
id = found.info.run_id
def files(path=None):
    for item in client.list_artifacts(id, path):
        yield from files(item.path) if item.is_dir else [item.path]
paths = list(files())
metrics = {key: [(m.step, m.value) for m in client.get_metric_history(id, key)] for key in found.data.metrics}
tables = {path[:-5]: json.load(open(client.download_artifacts(id, path))) for path in paths
          if path.endswith(".json") and "/" not in path}
print(json.dumps([found.info.status, metrics, found.data.params, found.data.tags, paths, tables]))
"""


def from_mlflow(folder: Path, run: str) -> Found:
    status, metrics, parameters, tags, paths, tables = answer(MLFLOW, str(folder), run)
    found = Found(state=status.lower(), parameters=parameters, about=tags)
    found.metrics = {key: places(points) for key, points in metrics.items()}
    found.summary = {key: points[0][1] for key, points in metrics.items() if len(points) == 1} | tags
    for path in map(Path, paths):
        if path.parts[0] == "pictures":
            found.pictures.add(path.stem)
        elif len(path.parts) > 1:
            found.artifacts.setdefault(path.parts[0], set()).add(path.name)
    for name, table in tables.items():
        found.tables[name] = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    return found


def from_wandb(folder: Path, run: str) -> Found:
    (place,) = folder.glob(f"wandb/offline-run-*-{run}")

    def inspect(*options: str) -> str:
        quiet = {"WANDB_ERROR_REPORTING": "false", "WANDB_CACHE_DIR": str(folder / "cache")}
        words = [sys.executable, "-m", "wandb", "leet", "inspect", *options, "--json", str(place)]
        run = subprocess.run(words, env={**os.environ, **quiet}, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        return run.stdout

    shown = json.loads(inspect("--summary"))
    found = Found(state=shown["state"], about=shown["config"], summary=shown["summary"])
    found.parameters = feed.flat(shown["config"])
    points: dict[str, list[tuple[int, float]]] = {}
    for record in map(json.loads, inspect().splitlines()):
        if record["type"] == "artifact":
            content = record["artifact"]
            paths = {Path(entry["path"]).name for entry in content["manifest"]["contents"]}
            found.artifacts[content["name"].rpartition("-")[2]] = paths
        item = record.get("history", {}).get("item", {})
        for key, value in item.items():
            name, _, part = key.partition(".")
            if value == "image-file":
                found.pictures.add(name)
            elif value == "table-file":
                table = json.loads((place / "files" / item[f"{name}.path"]).read_text())
                found.tables[name] = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
            elif not part and not key.startswith("_") and key not in ("step", "epoch"):
                points.setdefault(key, []).append((item["step" if "step" in item else "epoch"], value))
    found.metrics = {key: places(of_key) for key, of_key in points.items()}
    return found


def from_comet(folder: Path, run: str) -> Found:
    found, points, others = Found(), {}, {}
    with zipfile.ZipFile(folder / f"{run}.zip") as archive:
        messages = [json.loads(line) for line in archive.read("messages.json").splitlines()]
        for kind, content in ((message["type"], message["payload"]) for message in messages):
            if kind == "metric_msg":
                metric = content["metric"]
                points.setdefault(metric["metricName"], []).append((metric["step"], metric["metricValue"]))
            elif kind == "parameter_msg":
                parameter = content.get("param") or content["params"]
                found.parameters[parameter["paramName"].replace("|", ".")] = parameter["paramValue"]
            elif kind == "log_other":
                others[content["key"]] = content["value"]
            elif kind == "file_upload":
                name = Path(content["additional_params"].get("fileName") or "")
                if content["upload_type"] == "visualization":
                    found.pictures.add(content["additional_params"]["figName"])
                elif content["upload_type"] == "model-element":
                    group = content["additional_params"]["groupingName"]
                    found.artifacts.setdefault(group, set()).add(name.name)
                else:
                    text = archive.read(content["file_path"]).decode().splitlines()
                    found.tables[name.stem] = list(csv.DictReader(text))
    found.metrics = {key: places(of_key) for key, of_key in points.items()}
    found.summary = {key: of_key[-1][1] for key, of_key in points.items()} | others
    found.state, found.about = others["state"], others
    return found


READERS = {
    "comet": from_comet,
    "dvclive": from_dvclive,
    "mlflow": from_mlflow,
    "tensorboard": from_tensorboard,
    "wandb": from_wandb,
}
