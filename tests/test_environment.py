"""A stage gives the same bits whatever the shell, the processors and the user's own settings say."""

import json
import platform
import subprocess
import sys

import pytest
from conftest import ROOT, command, edit_params, left, python

from stages.common import results

SHELL = """
    OMP_THREAD_LIMIT=1 OMP_MAX_ACTIVE_LEVELS=0 OMP_NUM_THREADS=1 OPENBLAS_CORETYPE=Nehalem MKL_CBWR=COMPATIBLE
    MKL_ENABLE_INSTRUCTIONS=SSE4_2 ATEN_CPU_CAPABILITY=default NPY_ENABLE_CPU_FEATURES=AVX2
    DNNL_MAX_CPU_ISA=SSE41 DNNL_DEFAULT_FPMATH_MODE=BF16 ONEDNN_MAX_CPU_ISA=SSE41
    ONEDNN_DEFAULT_FPMATH_MODE=BF16 TF_SET_ONEDNN_FPMATH_MODE=BF16 TF_XLA_FLAGS=--tf_xla_auto_jit=2
"""
"""Each of these alone changed last bits or worse, or stopped an import."""

X86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="portable is a profile of x86-64")


@pytest.mark.parametrize("profile", ["fast", pytest.param("portable", marks=X86)])
@pytest.mark.parametrize(
    "name", ["pytorch/champion", "tensorflow/cnn", "scratch/mlp_sigmoid", "sklearn/logistic_regression"]
)
def test_variables_of_the_shell_change_no_bit(workspace, run_stage, name, profile):
    """Nor does what tests do not replace: models/without_compiler.py, on which champion's Muon relies."""
    framework, model = name.split("/")
    edit_params(workspace, "profile", profile)
    stage = [f"stages.train_{framework}", model]
    if profile == "fast":
        run_stage(f"train_{framework}", model)
    else:
        assert command(workspace, *stage, PYTHONPATH=str(ROOT)).returncode == 0
    before = left(framework, model)
    wait = [sys.executable, "-c", "import sys; sys.stdin.read()", "-m", "stages.beside_it"]
    variables = dict(variable.split("=", 1) for variable in SHELL.split())
    with subprocess.Popen(wait, stdin=subprocess.PIPE):
        process = command(workspace, *stage, PYTHONPATH=str(ROOT), **variables)
    assert (process.returncode, process.stderr) == (0, "")
    assert left(framework, model) == before
    assert results.load_timings(framework, model).side_by_side >= 2, "tests beside this one may run others"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems pin no processes to processors")
def test_products_and_lightgbm_use_the_threads_of_params_on_one_processor_too(workspace):
    code = """
import os
os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])
from stages.common import environment
environment.prepare()
import numpy as np, psutil, threadpoolctl
from stages.models import lightgbm, sklearn
environment.use_all_threads()
print({library["num_threads"] for library in threadpoolctl.threadpool_info()})
before = psutil.Process().num_threads()
classifier = sklearn.build("lightgbm.LGBMClassifier", {"verbose": -1}, 0, lightgbm)
sklearn.fit(classifier, np.random.default_rng(0).random((500, 8, 8)), np.arange(500) % 3)
print(psutil.Process().num_threads() - before)
"""
    edit_params(workspace, "threads", 4)
    assert python(code, workspace).split() == ["{4}", "3"]


@pytest.mark.slow
def test_the_user_s_own_keras_configuration_changes_nothing(tmp_path):
    mine = {"floatx": "float16", "epsilon": 0.1, "backend": "jax", "image_data_format": "channels_first"}
    (tmp_path / "keras.json").write_text(json.dumps(mine))
    code = """
from stages.models.tensorflow import keras
print(keras.config.floatx(), keras.config.epsilon(), keras.config.backend(), keras.config.image_data_format())
"""
    assert python(code, KERAS_HOME=str(tmp_path)) == "float32 1e-07 tensorflow channels_last\n"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere LightGBM brings or asks for its own")
def test_lightgbm_gets_a_libgomp_where_the_system_has_none():
    hiding = """
import ctypes
real = ctypes.CDLL
def without_system(name, *arguments, **options):
    if name == "libgomp.so.1":
        raise OSError("hidden")
    return real(name, *arguments, **options)
ctypes.CDLL = without_system
from stages.models import lightgbm
print(open("/proc/self/maps").read())
"""
    assert "torch/lib/libgomp.so.1" in python(hiding)
