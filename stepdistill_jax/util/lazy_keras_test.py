"""Keras is there for those who use it, and for nobody else."""

import subprocess
import sys

_START = """
import sys
from stepdistill_jax.util import runtime
runtime.configure()
"""


def _run(text: str) -> str:
  done = subprocess.run([sys.executable, "-c", _START + text],
                        capture_output=True, text=True, timeout=300)
  assert done.returncode == 0, done.stderr
  return done.stdout


def test_seqio_comes_without_keras_which_comes_when_it_is_used():
  assert _run("""
import seqio
import tensorflow as tf
import tensorflow_text
from clu import metric_writers
import inspect
inspect.stack()  # It asks all modules for their files.
print("keras" in sys.modules)
layer = tensorflow_text.keras.layers.ToDense(pad_value=7)
print(layer(tf.ragged.constant([[1], [2, 3]])).numpy().tolist())
from tensorboard.plugins.hparams import api
print(issubclass(api.KerasCallback, tf.keras.callbacks.Callback))
print(tf.keras.optimizers.Adam.__module__.startswith("keras."))
import keras
print(keras.__spec__.loader.__class__.__name__)
""").splitlines() == [
    "False", "[[1, 7], [2, 3]]", "True", "True", "SourceFileLoader"]


def test_keras_first_is_as_ever():
  assert _run("""
import keras
import seqio
print(keras.layers.Dense(2)(keras.ops.ones((1, 3))).shape)
""").strip() == "(1, 2)"
