import pytest
from conftest import edit_params

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
        ("epochs", 0, "pytorch.mlp.epochs is 0: it should be greater than 0"),
        ("epochs", True, "pytorch.mlp.epochs is True: a number is wanted"),
        ("optimizer", "adma", "pytorch.mlp.optimizer is 'adma': it should be 'sgd' or 'adam'"),
        ("pixel_range", [1, 0], "the first number must be smaller"),
        ("nesterov", 0.9, "pytorch.mlp.nesterov is unknown; allowed: architecture, pixel_range"),
        ("validation_images", -5, "pytorch.mlp.validation_images is -5"),
        ("prediction_shift", True, "pytorch.mlp.prediction_shift is True: a number is wanted"),
        ("prediction_shift", 28, "pytorch.mlp.prediction_shift is 28: it should be less than 28"),
        ("label_smoothing", 1, "pytorch.mlp.label_smoothing is 1: it should be less than 1"),
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
            "strid is unknown; allowed: kind, filters, kernel, padding, stride",
        ),
    ],
)
def test_an_unknown_key_is_named_with_those_of_its_own_section(workspace, key, value, kind, complaint):
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


def test_a_missing_key_is_answered_with_its_neighbours(workspace):
    with pytest.raises(UserError, match=r"data.dataste is missing; data has dataset, validation_images"):
        read(workspace, "data.dataste", str)


def test_a_model_name_with_a_slash_is_refused():
    with pytest.raises(UserError, match="letters, digits and _"):
        params.read_model("pytorch", "a/b", training.NetworkSettings)


@pytest.mark.parametrize("content", ["a: [", "- 1\n- 2", ""])
def test_a_file_that_is_no_mapping_is_refused(workspace, content):
    (workspace / "params.yaml").write_text(content)
    with pytest.raises(UserError, match=r"params\.yaml"):
        read(workspace, "seed", params.Seed)


def test_a_missing_file_says_where_to_run(workspace):
    (workspace / "params.yaml").unlink()
    with pytest.raises(UserError, match="run from the project's top folder"):
        read(workspace, "seed", params.Seed)
