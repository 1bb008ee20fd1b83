"""TensorBoard: a folder for each run with a file of events. Its EventFileWriter would import TensorFlow."""

import shutil
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.text.metadata import PLUGIN_NAME
from tensorboard.summary.writer.record_writer import RecordWriter

from apps.tracking import lines
from apps.tracking.feed import flat

TEXT = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=PLUGIN_NAME))


class Tracker:
    """See feed.Tracker. Figures have 32 bits here, and artifacts are named but not stored."""

    CONTINUES = False

    def __init__(self, folder: Path, run: lines.Run, begin: lines.Line, again: bool):
        place = folder / (begin["about"].get("group") or "") / run.name / run.id[:8]
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        self._when = begin["time"]
        self._file = (place / f"events.out.tfevents.{self._when:.0f}.{run.id}").open("wb")
        self._writer = RecordWriter(self._file)
        self._write(Event(wall_time=self._when, file_version="brain.Event:2"))
        parameters = {key: _plain(value) for key, value in flat(begin["parameters"]).items()}
        self._add(*hparams_pb(parameters, run.id, begin["time"]).value)
        self._text("about", _markdown([{"what": key, "is": value} for key, value in begin["about"].items()]))
        self._file.flush()

    def _write(self, event: Event) -> None:
        self._writer.write(event.SerializeToString())

    def _add(self, *values: Summary.Value, step: int = 0) -> None:
        self._write(Event(wall_time=self._when, step=step, summary=Summary(value=values)))

    def _text(self, name: str, text: str) -> None:
        tensor = TensorProto(dtype=DT_STRING, string_val=[text.encode()])
        self._add(Summary.Value(tag=name, metadata=TEXT, tensor=tensor))

    def metrics(self, axis: str, places: Sequence[int], values: Sequence[Mapping[str, float]], when: float):
        self._when = when
        for place, of_place in zip(places, values, strict=True):
            self._add(*(Summary.Value(tag=k, simple_value=v) for k, v in of_place.items()), step=place)
        self._file.flush()

    def summary(self, values: Mapping[str, Any]) -> None:
        numbers = {key: value for key, value in values.items() if isinstance(value, int | float)}
        self._add(*(Summary.Value(tag=key, simple_value=value) for key, value in numbers.items()))
        for key in values.keys() - numbers:
            self._text(key, str(values[key]))

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        self._text(name, _markdown(rows))

    def picture(self, name: str, path: Path) -> None:
        content = path.read_bytes()
        width, height = struct.unpack(">II", content[16:24])  # where PNG has them
        image = Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=content)
        self._add(Summary.Value(tag=name, image=image))

    def artifact(self, name: str, path: Path) -> None:
        self._text(name, str(path))

    def close(self, failed: bool) -> None:
        self._text("state", "failed" if failed else "finished")
        self._file.close()


def _plain(value: Any) -> bool | int | float | str:
    return value if isinstance(value, bool | int | float | str) else str(value)


def _markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    head = [" | ".join(rows[0]), " | ".join("---" for _ in rows[0])]
    cells = [" | ".join(map(str, row.values())) for row in rows]
    return "\n".join(f"| {row} |" for row in [*head, *cells])
