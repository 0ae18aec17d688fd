"""Which completions are missing, as items to ask for, one after the other.

A row gives one item a sample (or a few samples, where a request may ask for
several at once). A conversation gives one item for each assistant's turn, and
a turn's item can only be made when the turns before it are there.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
from typing import Any

from stepdistill_jax.answers import answer_forms
from stepdistill_jax.records import messages as messages_lib
from stepdistill_jax.teacher import prompts
from stepdistill_jax.teacher.ask import requests, rows, store as store_lib

REGENERATED, GOLD = "regenerated", "gold"
HISTORIES = (REGENERATED, GOLD)
# Between items that are there already, so that a caller can do other things.
_TICK = 256


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
  """Samples to ask for.

  Attributes:
    id: of the row, or of the conversation's turn.
    input: the data set's fields, for the cache.
    fields: what the prompt can show.
    samples: their numbers.
    position: of the row in its file.
    turn: of a conversation, which of its messages; else -1.
    row: the conversation's row; else None.
  """

  id: str
  input: Mapping[str, Any]
  fields: Mapping[str, Any]
  samples: tuple[int, ...]
  position: int
  turn: int = -1
  row: rows.AskedRow | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
  """What a cache shall hold when it is complete.

  Attributes:
    settings: model and sampling.
    prompt: the prompt.
    store: the cache.
    history: what a conversation's later turns see of the earlier ones.
  """

  settings: requests.Settings
  prompt: prompts.Prompt
  store: store_lib.Store
  history: str = REGENERATED

  def expected(self, row: rows.AskedRow) -> int:
    """Number of samples that the row has when all is done."""
    if self.prompt.reads == answer_forms.TURNS:
      return len(_assistant_turns(row))
    return self.settings.samples

  def missing(self, all_rows: Iterator[rows.AskedRow]) -> Iterator[Item | None]:
    """Yields items for what is missing, and None now and then."""
    since_tick = 0
    for row in all_rows:
      found = False
      for item in self.first(row):
        found = True
        yield item
      since_tick = 0 if found else since_tick + 1
      if since_tick == _TICK:
        since_tick = 0
        yield None

  def first(self, row: rows.AskedRow) -> Iterator[Item]:
    """Yields the row's items that can be asked for now."""
    if self.prompt.reads == answer_forms.TURNS:
      item = self._turn_after(row, -1)
      if item is not None:
        yield item
      return
    lacking = [sample for sample in range(self.settings.samples)
               if self.store.lacks(row.id, sample)]
    size = self.settings.samples_per_request
    for start in range(0, len(lacking), size):
      yield Item(row.id, row.input, row.fields,
                 tuple(lacking[start:start + size]), row.position)

  def after(self, item: Item) -> Item | None:
    """The item that an answer to `item` makes possible, if any."""
    return item.row and self._turn_after(item.row, item.turn)

  def rest(self, item: Item, answered: int) -> Item | None:
    """What of an item is left when the server gave fewer choices."""
    left = item.samples[answered:]
    return dataclasses.replace(item, samples=left) if left else None

  def request(self, item: Item) -> requests.Request:
    """The request for an item."""
    return requests.build(self.settings, self.prompt, item.fields, item.samples)

  def _turn_after(self, row: rows.AskedRow, turn: int) -> Item | None:
    """The first turn that is missing, given that those before are there."""
    messages = [dict(message) for message in row.fields["messages"]]
    for number in _assistant_turns(row):
      turn_id = f"{row.id}/turn-{number}"
      if number > turn and self.store.lacks(turn_id, 0):
        return _turn_item(row, turn_id, number, messages[:number])
      if self.history == REGENERATED:
        line = self.store.line(turn_id, 0)
        if line is None or line.get("error"):
          return None
        messages[number]["content"] = line["output"]
    return None


def _turn_item(row: rows.AskedRow, turn_id: str, number: int,
               history: Sequence[Mapping[str, str]]) -> Item:
  """The item of one turn; what the student will read is the history."""
  text = messages_lib.transcript([(m["role"], m["content"]) for m in history])
  kept = {"inputs": text, "label": row.fields["messages"][number]["content"],
          "messages": list(history)}
  return Item(turn_id, kept, {"messages": history}, (0,), row.position,
              number, row)


def _assistant_turns(row: rows.AskedRow) -> list[int]:
  return [number for number, message in enumerate(row.fields["messages"])
          if message["role"] == "assistant"]
