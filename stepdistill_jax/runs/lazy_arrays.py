"""Arrays that are read when they are asked for."""

from __future__ import annotations

import abc
import asyncio
from collections.abc import Callable, Sequence
import concurrent.futures
import math
from typing import Any

import numpy as np


class LazyArray(abc.ABC):
  """An array of known shape and dtype, whose values `get` fetches."""

  def __init__(
      self, shape: Sequence[int], dtype: Any, get_fn: Callable[[], Any]):
    self.shape = None if shape is None else tuple(shape)
    self.dtype = None if dtype is None else np.dtype(dtype)
    self._get_fn = get_fn

  @property
  def nbytes(self) -> int:
    return math.prod(self.shape) * self.dtype.itemsize

  def astype(self, dtype: Any) -> LazyArray:
    """Returns the same array, to be cast when it is fetched."""
    return type(self)(self.shape, dtype, self._get_fn)

  def _cast(self, array):
    return array if array.dtype == self.dtype else array.astype(self.dtype)

  @abc.abstractmethod
  async def get_async(self) -> Any:
    """Fetches the array."""

  @abc.abstractmethod
  def get(self) -> Any:
    """Fetches the array."""

  def __repr__(self):
    return f"{type(self).__name__}(shape={self.shape}, dtype={self.dtype})"


def fetch(x: Any) -> Any:
  """A lazy array's values; whatever else as it is."""
  return x.get() if isinstance(x, LazyArray) else x


class LazyThreadPoolArray(LazyArray):
  """Of a function that blocks."""

  executor = concurrent.futures.ThreadPoolExecutor()

  async def get_async(self):
    return await asyncio.wrap_future(self.executor.submit(self.get))

  def get(self):
    return self._cast(self._get_fn())


class LazyAwaitableArray(LazyArray):
  """Of a coroutine function; `get` cannot be called within an event loop."""

  async def get_async(self):
    return self._cast(await self._get_fn())

  def get(self):
    return asyncio.run(self.get_async())

  @classmethod
  def from_array(cls, array, get_fn, dtype=None) -> LazyAwaitableArray:
    """Takes the shape, and unless given the dtype, of an array."""
    return cls(array.shape, array.dtype if dtype is None else dtype, get_fn)

  @classmethod
  def from_tensor_store_spec(
      cls, ts_spec, get_fn, dtype=None) -> LazyAwaitableArray:
    """Takes them of a `tensorstore.Spec`."""
    spec = ts_spec.to_json()
    # T5X's second version stored the bits of bfloat16 as uint16.
    dtype = np.dtype(spec["dtype"] if dtype is None else dtype)
    return cls(spec["metadata"]["shape"],
               "bfloat16" if dtype == np.uint16 else dtype, get_fn)

  @classmethod
  def from_tensor_store_spec_or_array(
      cls, maybe_ts_spec, get_fn, dtype=None) -> LazyAwaitableArray:
    """Takes them of either."""
    make = (cls.from_tensor_store_spec if hasattr(maybe_ts_spec, "to_json")
            else cls.from_array)
    return make(maybe_ts_spec, get_fn, dtype)
