"""What is wrong in params.yaml or architectures.yaml is told in one line, with what is allowed."""

import re

import pytest
from conftest import edit_params
from dvc.utils.serialize import parse_yaml

from stages import train_tensorflow
from stages.common import architecture, params, training
from stages.console import parameters
from stages.console.errors import UserError

LAYER = {"filters": 3, "kernel": 3, "padding": "same"}
MOVED = {"rotation": 8, "scale": 0, "shear": 0}


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("learning_rate", "fast", ".learning_rate is 'fast': it should be a valid number"),
        ("learning_rate", float("nan"), ".learning_rate is nan"),
        ("learning_rate", 1e308, ".learning_rate is 1e+308: it should be less than or equal to"),
        ("epochs", True, ".epochs is True: a number is wanted"),
        ("epochs", 100_001, ".epochs is 100001: it should be less than or equal to 100000"),
        ("optimizer", "adma", ".optimizer is 'adma': it should be 'sgd' or 'adam'"),
        ("pixel_range", [1, 0], ".pixel_range is [1, 0]: the first number must be smaller"),
        ("pixel_range", 1, ".pixel_range is 1: it should be a valid list"),
        ("batch_size", 2**31, ".batch_size is 2147483648: it should be less than"),
        ("nesterov", 0.9, ".nesterov is unknown; allowed: architecture, augmentation, batch_size"),
        ("validation", -5, ".validation is -5: allowed: a count such as 5000, or a share"),
        ("validation", "1/0", ".validation is '1/0': allowed: a count"),
        ("validation", 20.5, ".validation is 20.5: allowed: a count"),
        ("momentum", 0.9, ": momentum is an option of optimizer: sgd"),
        ("augmentation", MOVED | {"rotate": 8}, ".rotate is unknown; allowed: rotation, scale, shear, shift"),
        ("augmentation", MOVED, ".augmentation.shift is missing"),
        ("architecture", "2d", ".architecture is '2d': a name is a letter, then letters, digits and _"),
        ("cnn", [{"conv": LAYER | {"strid": 2}}], ".0.conv.strid is unknown; allowed: filters, kernel, pa"),
        ("cnn", [{"conv": LAYER | {"stride": 65}}], ".0.conv.stride is 65: it should be less than or equa"),
    ],
)
def test_a_wrong_value_is_named_with_its_file_and_what_is_allowed(workspace, key, value, complaint):
    of_model = ("pytorch.mlp", training.NetworkSettings, params.PATH)
    whole, kind, file = ("cnn", architecture.Layers, params.ARCHITECTURES) if key == "cnn" else of_model
    edit_params(workspace, "architectures.cnn" if key == "cnn" else f"pytorch.mlp.{key}", value)
    with pytest.raises(UserError, match=rf"^{file}: {whole}[^\n]*{re.escape(complaint)}[^\n]*$"):
        params.read(whole, kind, file)


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("thread", 3, r"thread is unknown; allowed: data, device, parity, profile, pytorch, .*threads"),
        ("data", {"dataset": "mnist"}, r"data\.validation is missing"),
        ("data.validaton", 5, r"data\.validaton is unknown; allowed: dataset, validation"),
        ("data.validation", None, r"data\.validation is None: allowed: a count"),
        ("device.jax", "cpu", r"device\.jax is unknown; allowed: pytorch, tensorflow"),
        ("device", "cpu", r"device is 'cpu': it should be a mapping"),
        ("profile", "quick", r"profile is 'quick': it should be 'fast' or 'portable'"),
        ("threads", 1025, r"threads is 1025: it should be less than or equal to 1024"),
        ("pytorch.a-b", {}, r"pytorch\.a-b is 'a-b': a name is a letter, then letters, digits and _"),
        ("sklearn.2024", {}, r"sklearn\.2024 is '2024': a name is a letter"),
        ("architectures.2d", ["relu"], r"2d is '2d': a name is a letter"),
    ],
)
def test_what_no_stage_reads_is_refused_by_every_stage(workspace, key, value, complaint):
    edit_params(workspace, "sklearn", {})
    parameters.check()
    edit_params(workspace, key, value)
    file = "architectures" if key.startswith("architectures") else "params"
    with pytest.raises(UserError, match=rf"^{file}\.yaml: {complaint}"):
        parameters.check()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("seed: 2024-13-45\n", r"is not YAML: month must be in 1\.\.12"),
        ("seed: 1\nthreads: 2\nthreads: 1\n", 'is not YAML, line 3: found duplicate key "threads"'),
        ("a: [", "is not YAML, line 2"),
        ("seed: !!bool 3\n", "is not YAML: a value does not fit its tag"),
        ('seed: !!int ""\n', "is not YAML: a value does not fit its tag"),
        ("".join(" " * depth + "a:\n" for depth in range(3000)), "nests its mappings or lists too deep"),
        ("a: " + "[" * 3000 + "]" * 3000, "nests its mappings or lists too deep"),
        ("- 1\n- 2", "must hold a mapping"),
        ("", "must hold a mapping"),
        (None, "is missing: run from the project's top folder"),
    ],
)
def test_a_file_that_is_no_mapping_is_one_line(workspace, text, complaint):
    path = workspace / "params.yaml"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(UserError, match=rf"^params\.yaml {complaint}[^\n]*$"):
        params.read("seed", params.Seed)


def test_every_wrong_value_is_named_at_once_and_a_missing_one_with_its_neighbours(workspace):
    edit_params(workspace, "pytorch.mlp.epochs", 0)
    edit_params(workspace, "pytorch.mlp.batch_size", 0)
    edit_params(workspace, "tensorflow.sprint.labels", "integer")
    for key, kind, complaint in (
        ("pytorch.mlp", training.NetworkSettings, "batch_size.*epochs"),
        ("tensorflow.sprint", train_tensorflow.Settings, ": label_smoothing needs labels: one_hot$"),
        ("data.dataste", str, "data.dataste is missing; data has dataset, validation$"),
    ):
        with pytest.raises(UserError, match=complaint):
            params.read(key, kind)


def test_values_are_those_that_dvc_reads_and_numbers_what_a_person_means(workspace):
    text = "seed: 010\nthreads: 0o10\nno: 1:30\nrate: 1e-3\n"
    (workspace / "params.yaml").write_text(text)
    for key, kind, value in (("seed", params.Seed, 10), ("threads", params.Threads, 8), ("no", str, "1:30")):
        assert params.read(key, kind) == value
    assert params.read("rate", params.Rate) == 0.001, "YAML takes it for text"
    assert params.parse(text) == parse_yaml(text, "params.yaml")


@pytest.mark.parametrize("name", ["a/b", "2024", "_a", "ä", "", "a\nb"])
def test_what_is_no_name_of_a_model_is_refused(name):
    with pytest.raises(UserError, match=r"^params\.yaml: pytorch\.[^\n]* letters, digits and _$"):
        params.read_model("pytorch", name, training.NetworkSettings)
