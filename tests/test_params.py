import pytest
from conftest import edit_params
from dvc.utils.serialize import parse_yaml

from stages import train_pytorch
from stages.common import architecture, params, training
from stages.common.command import UserError


def read(workspace, key, kind):
    params._file.cache_clear()
    return params.read(key, kind)


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("learning_rate", -1, "pytorch.mlp.learning_rate is -1: it should be greater than 0"),
        ("learning_rate", "fast", "pytorch.mlp.learning_rate is 'fast': it should be a valid number"),
        ("learning_rate", float("nan"), "pytorch.mlp.learning_rate is nan"),
        ("learning_rate", 1e308, "pytorch.mlp.learning_rate is 1e+308: it should be less than or equal to"),
        ("epochs", 0, "pytorch.mlp.epochs is 0: it should be greater than 0"),
        ("epochs", True, "pytorch.mlp.epochs is True: a number is wanted"),
        ("optimizer", "adma", "pytorch.mlp.optimizer is 'adma': it should be 'sgd' or 'adam'"),
        ("pixel_range", [1, 0], "the first number must be smaller"),
        ("pixel_range", 1, "pytorch.mlp.pixel_range is 1: it should be a valid list"),
        ("pixel_range", [0, 1e39], "pytorch.mlp.pixel_range.1 is 1e+39: it should be less than or equal to"),
        ("epochs", 100_001, "pytorch.mlp.epochs is 100001: it should be less than or equal to 100000"),
        ("batch_size", 2**31, "pytorch.mlp.batch_size is 2147483648: it should be less than"),
        ("nesterov", 0.9, "pytorch.mlp.nesterov is unknown; allowed: architecture, batch_size"),
        ("validation_images", -5, "pytorch.mlp.validation_images is -5"),
        ("prediction_shift", True, "pytorch.mlp.prediction_shift is True: a number is wanted"),
        ("prediction_shift", 28, "pytorch.mlp.prediction_shift is 28: it should be less than 28"),
        ("label_smoothing", 1, "pytorch.mlp.label_smoothing is 1: it should be less than 1"),
        ("momentum", 0.9, "params.yaml: pytorch.mlp: momentum is an option of optimizer: sgd"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(workspace, key, value, complaint):
    edit_params(workspace, f"pytorch.mlp.{key}", value)
    with pytest.raises(UserError) as caught:
        read(workspace, "pytorch.mlp", training.NetworkSettings)
    assert complaint in str(caught.value)
    assert str(caught.value).startswith("params.yaml: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "kind", "complaint"),
    [
        (
            "pytorch.champion.augmentation.rotate",
            8,
            ("pytorch.champion", train_pytorch.Settings),
            "pytorch.champion.augmentation.rotate is unknown; allowed: rotation, scale, shear, shift",
        ),
        (
            "architectures.cnn",
            [{"conv": {"filters": 3, "kernel": 3, "padding": "same", "strid": 2}}, {"dense": 10}],
            ("architectures.cnn", architecture.Architecture),
            "strid is unknown; allowed: filters, kernel, padding, stride",
        ),
        (
            "architectures.cnn",
            [{"conv": {"filters": 3, "kernel": 3, "padding": "same", "stride": 29}}, {"dense": 10}],
            ("architectures.cnn", architecture.Architecture),
            "stride is 29: it should be less than or equal to 28",
        ),
    ],
)
def test_what_is_wrong_in_a_section_is_named_with_what_is_allowed(workspace, key, value, kind, complaint):
    edit_params(workspace, key, value)
    with pytest.raises(UserError) as caught:
        read(workspace, *kind)
    assert complaint in str(caught.value)


def test_a_value_that_yaml_cannot_read_is_one_line(workspace):
    (workspace / "params.yaml").write_text("seed: 2024-13-45\n")
    with pytest.raises(UserError, match=r"params\.yaml is not YAML: month must be in 1\.\.12"):
        read(workspace, "seed", params.Seed)


def test_every_wrong_value_is_named_at_once(workspace):
    edit_params(workspace, "pytorch.mlp.epochs", 0)
    edit_params(workspace, "pytorch.mlp.batch_size", 0)
    with pytest.raises(UserError, match=r"batch_size.*epochs|epochs.*batch_size"):
        read(workspace, "pytorch.mlp", training.NetworkSettings)


def test_a_number_that_yaml_takes_for_text_is_a_number(workspace):
    text = (workspace / "params.yaml").read_text()
    (workspace / "params.yaml").write_text(text + "\nrate: 1e-3\n")
    assert read(workspace, "rate", params.Rate) == 0.001


def test_values_are_those_that_dvc_reads(workspace):
    text = "seed: 010\nthreads: 0o10\nno: 1:30\n"
    (workspace / "params.yaml").write_text(text)
    assert read(workspace, "seed", params.Seed) == 10
    assert read(workspace, "threads", params.Threads) == 8
    assert read(workspace, "no", str) == "1:30"
    assert params.parse(text) == parse_yaml(text, "params.yaml")


def test_a_key_that_occurs_twice_is_refused_with_its_line(workspace):
    (workspace / "params.yaml").write_text("seed: 1\nthreads: 2\nthreads: 1\n")
    with pytest.raises(UserError, match=r'params\.yaml is not YAML, line 3: found duplicate key "threads"'):
        read(workspace, "seed", params.Seed)


def test_threads_are_no_more_than_a_machine_has(workspace):
    (workspace / "params.yaml").write_text("threads: 3000000000\n")
    with pytest.raises(UserError, match=r"threads is 3000000000: it should be less than or equal to 1024"):
        read(workspace, "threads", params.Threads)


def test_a_missing_key_is_answered_with_its_neighbours(workspace):
    with pytest.raises(UserError, match=r"data.dataste is missing; data has dataset, validation_images"):
        read(workspace, "data.dataste", str)


@pytest.mark.parametrize("name", ["a/b", "2024", "_a", "ä", ""])
def test_what_is_no_name_of_a_model_is_refused(name):
    with pytest.raises(UserError, match=f"pytorch.{name}: .* letters, digits and _"):
        params.read_model("pytorch", name, training.NetworkSettings)


@pytest.mark.parametrize("name", ["2024", "1.5", "true", "~", "a-b"])
def test_a_model_that_dvc_would_leave_out_is_refused_where_all_are_read(workspace, name):
    (workspace / "params.yaml").write_text(f"pytorch:\n  linear: {{}}\n  {name}: {{}}\n")
    params._file.cache_clear()
    with pytest.raises(UserError, match=r"params\.yaml: pytorch\..*: a model's name is a letter"):
        params.model_names("pytorch")


@pytest.mark.parametrize("content", ["a: [", "- 1\n- 2", ""])
def test_a_file_that_is_no_mapping_is_refused(workspace, content):
    (workspace / "params.yaml").write_text(content)
    with pytest.raises(UserError, match=r"params\.yaml"):
        read(workspace, "seed", params.Seed)


def test_a_missing_file_says_where_to_run(workspace):
    (workspace / "params.yaml").unlink()
    with pytest.raises(UserError, match="run from the project's top folder"):
        read(workspace, "seed", params.Seed)
