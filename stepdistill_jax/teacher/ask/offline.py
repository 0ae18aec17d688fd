"""The same requests through vLLM's offline engine, without a server.

vLLM batches by itself, so items are handed over in chunks, and a chunk's
completions are durable before the next begins: what a killed process loses is
at most one chunk of computing, and no money.
"""

import asyncio
from collections.abc import Mapping
import itertools
from typing import Any

from stepdistill_jax.teacher.ask import (
  failures,
  job as job_lib,
  requests,
  responses,
  spec as spec_lib,
)
from stepdistill_jax.util import errors

_CHUNK = 512


def run(spec: spec_lib.Spec) -> job_lib.Outcome:
  """Collects with an engine in this process.

  Raises:
    errors.UserError: vLLM is not installed, or cannot load the model.
  """
  with errors.reported(
      ImportError, "--offline=vllm needs the package `vllm`, which is not "
      "installed; run `pip install vllm` on a machine with an accelerator, or "
      "use a server with --base_url"):
    import vllm
  with job_lib.open_job(spec) as job:
    # By name, so that a test can pass an engine of its own.
    engine = vllm.LLM(model=spec.model, **spec.extra_body.get("engine", {}))
    return job.collect(Engine(engine, vllm), concurrency=_CHUNK)


class Engine:
  """An Asker that gathers requests, and runs them as one batch.

  The collector's workers each wait for one answer. When all of them wait,
  nothing more can come, and the batch is run.
  """

  def __init__(self, engine: Any, vllm: Any):
    self._engine, self._vllm = engine, vllm
    self._waiting: list[tuple[requests.Request, asyncio.Future]] = []
    self._runner: asyncio.Task | None = None

  async def ask(self, request: requests.Request) -> responses.Answer:
    """Waits for the batch that the request becomes part of."""
    future = asyncio.get_running_loop().create_future()
    self._waiting.append((request, future))
    if self._runner is None:
      self._runner = asyncio.create_task(self._run())
    return await future

  async def _run(self) -> None:
    while self._waiting:
      gathered = 0
      while len(self._waiting) > gathered:  # The others get their turn.
        gathered = len(self._waiting)
        await asyncio.sleep(0)
      batch, self._waiting = self._waiting, []
      # Parameters are one for each request, but a call is of one kind.
      for path, group in itertools.groupby(batch, lambda pair: pair[0].path):
        self._answer(path, list(group))
    self._runner = None

  def _answer(self, path: str, group: list) -> None:
    try:
      outputs = self._generate(path, [request for request, _ in group])
      for (request, future), output in zip(group, outputs, strict=True):
        future.set_result(answer_of(output, request))
    except Exception as error:
      failure = failures.Failure(failures.BAD_REQUEST, failures.redact(
          f"vllm: {type(error).__name__} {error}"))
      for _, future in group:
        if not future.done():
          future.set_exception(failure)

  def _generate(self, path: str, group: list[requests.Request]):
    parameters = [self._parameters(request.body) for request in group]
    if path == requests.PATHS[requests.CHAT]:
      return self._engine.chat(
          [request.body["messages"] for request in group], parameters,
          use_tqdm=False)
    return self._engine.generate(
        [request.body["prompt"] for request in group], parameters,
        use_tqdm=False)

  def _parameters(self, body: Mapping[str, Any]):
    known = {key: body[key] for key in (
        "temperature", "top_p", "seed", "stop", "max_tokens", "n", "top_k",
        "min_p", "repetition_penalty") if key in body}
    schema = body.get("response_format", {}).get("json_schema", {})
    if schema:
      known["structured_outputs"] = (
          self._vllm.sampling_params.StructuredOutputsParams(
              json=schema["schema"]))
    return self._vllm.SamplingParams(**known)


def answer_of(output: Any, request: requests.Request) -> responses.Answer:
  """Reads vLLM's RequestOutput."""
  choices = tuple(
      responses.Choice(completion.text, completion.finish_reason)
      for completion in output.outputs[:len(request.samples)])
  return responses.Answer(choices, {
      "prompt_tokens": len(output.prompt_token_ids or ()),
      "completion_tokens": sum(
          len(completion.token_ids) for completion in output.outputs)})
