"""The embedded benchmark: where is an object, after people moved it about?

A story is a list of short sentences about people who go to places, take
objects and leave them. The question asks for one object, the answer is a
place. No sentence holds the answer alone: the reader must find who had the
object last, and where that person was when it mattered.

    daniel went to the garden . mary went to the office .
    mary took the apple . daniel took the milk .
    mary went to the kitchen . daniel went to the office .
    where is the apple ?                                      -> kitchen

The *evidence* of a story are the two or three sentences that decide it, in the
order of the reasoning: first what happened to the object, then where that
person was: `mary took the apple . mary went to the kitchen .`

Everything follows from a seed through `random.Random`, which gives the same
stories on every platform and in every Python version that we support.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import random

from stepdistill_jax.util import errors

DATASET = "tracking"

PEOPLE = ("mary", "john", "sandra", "daniel", "emma", "peter", "laura", "oscar")
PLACES = (
    "kitchen", "garden", "office", "bedroom", "hallway", "bathroom",
    "cellar", "attic", "garage", "library")
OBJECTS = (
    "apple", "football", "milk", "book", "lamp", "hammer", "ticket", "basket")


@dataclasses.dataclass(frozen=True)
class Difficulty:
  """What makes a story hard: the crowd, and the length.

  Attributes:
    people: how many people walk about in a story's world.
    places: how many places; guessing scores 1 / places.
    objects: how many objects; those not asked for distract.
    sentences: the fewest and the most sentences of a story.
  """

  people: int = 4
  places: int = 6
  objects: int = 3
  sentences: tuple[int, int] = (4, 6)

  def __post_init__(self):
    for name, least, words in (
        ("people", 1, PEOPLE), ("places", 2, PLACES),
        ("objects", 1, OBJECTS)):
      number = getattr(self, name)
      if not least <= number <= len(words):
        raise errors.UserError(
            f"difficulty: {name}={number}, expected {least} to {len(words)}")
    fewest, most = self.sentences
    # Three sentences are the shortest story with two places to choose from.
    if not 3 <= fewest <= most:
      raise errors.UserError(
          f"difficulty: sentences={self.sentences}, expected (fewest, most) "
          "with 3 <= fewest <= most")


@dataclasses.dataclass(frozen=True)
class Event:
  """One sentence: `person` does `deed` to `thing`, being at `place`.

  Attributes:
    deed: `went`, `took` or `left`.
    thing: the object; empty for `went`.
    place: where the person is afterwards.
  """

  person: str
  deed: str
  thing: str
  place: str

  @property
  def sentence(self) -> str:
    if self.deed == "went":
      return f"{self.person} went to the {self.place} ."
    return f"{self.person} {self.deed} the {self.thing} ."


@dataclasses.dataclass(frozen=True)
class Story:
  """A story, its question and what decides it.

  Attributes:
    events: what happened, in order.
    thing: the object that is asked for.
    evidence: positions in `events` of the sentences that decide, in the order
      of the reasoning; the last one names the answer.
  """

  events: tuple[Event, ...]
  thing: str
  evidence: tuple[int, ...]

  @property
  def text(self) -> str:
    return " ".join(event.sentence for event in self.events)

  @property
  def question(self) -> str:
    return f"where is the {self.thing} ?"

  @property
  def inputs(self) -> str:
    """What the student reads, without prefix."""
    return f"{self.text} {self.question}"

  @property
  def label(self) -> str:
    """The place where the object is."""
    return self.events[self.evidence[-1]].place

  def quote(self, positions: tuple[int, ...]) -> str:
    """The sentences at `positions`, as a rationale quotes them."""
    return " ".join(self.events[i].sentence for i in positions)


def find_evidence(events: tuple[Event, ...], thing: str) -> tuple[int, ...]:
  """The positions of the sentences that decide where `thing` is.

  Whoever touched the object last decides. Someone who took it has it along:
  that sentence, and the person's latest move, before or after it. Someone who
  left it: the taking, the leaving, and the latest move before the leaving.

  Args:
    events: a consistent story.
    thing: an object that was taken in it.

  Returns:
    Positions in the order of the reasoning; the last one's event is a move to
    the place where `thing` is.
  """
  touches = [i for i, event in enumerate(events) if event.thing == thing]
  last = touches[-1]
  person = events[last].person
  left = events[last].deed == "left"
  moves = [i for i, event in enumerate(events)
           if event.person == person and event.deed == "went"
           and not (left and i > last)]
  return (*touches[-2 if left else -1:], moves[-1])


# How often each kind of deed is drawn, of those possible: moves are most of a
# story, so that the last place mentioned is seldom the answer.
_DEED_WEIGHTS = {"went": 4, "took": 3, "left": 1}


class _World:
  """Who is where and has what; only deeds that make sense are drawn."""

  def __init__(self, difficulty: Difficulty):
    self.people = PEOPLE[:difficulty.people]
    self.places = PLACES[:difficulty.places]
    self.things = OBJECTS[:difficulty.objects]
    self.place_of: dict[str, str] = {}   # Person or resting object -> place.
    self.holder_of: dict[str, str] = {}  # Carried object -> person.

  def draw(self, rng: random.Random) -> Event:
    """Draws one deed among those that are possible now."""
    # An object that nobody has touched yet may be anywhere.
    takes = [
        (person, thing) for person in self.people if person in self.place_of
        for thing in self.things if thing not in self.holder_of
        and self.place_of.get(thing, self.place_of[person])
        == self.place_of[person]]
    carried = sorted(self.holder_of.items())
    deeds = [deed for deed, ways in (
        ("went", self.people), ("took", takes), ("left", carried)) if ways]
    deed, = rng.choices(deeds, [_DEED_WEIGHTS[deed] for deed in deeds])
    if deed == "went":
      person = rng.choice(self.people)
      return Event(person, deed, "", rng.choice(
          [p for p in self.places if p != self.place_of.get(person)]))
    if deed == "took":
      person, thing = rng.choice(takes)
    else:
      thing, person = rng.choice(carried)
    return Event(person, deed, thing, self.place_of[person])

  def apply(self, event: Event) -> None:
    if event.deed == "went":
      self.place_of[event.person] = event.place
    elif event.deed == "took":
      self.holder_of[event.thing] = event.person
      self.place_of.pop(event.thing, None)
    else:
      del self.holder_of[event.thing]
      self.place_of[event.thing] = event.place


def draw_story(rng: random.Random, difficulty: Difficulty) -> Story:
  """Draws a story whose question has one answer and other places to fail at.

  Args:
    rng: the source of all its choices.
    difficulty: the size of its world.

  Returns:
    A story in which the object was taken and two or more places are named.
  """
  while True:
    world = _World(difficulty)
    events = []
    for _ in range(rng.randint(*difficulty.sentences)):
      events.append(world.draw(rng))
      world.apply(events[-1])
    taken = sorted({event.thing for event in events if event.thing})
    places = {event.place for event in events if event.deed == "went"}
    # Without a second place the answer is given away, and no teacher can err.
    if taken and len(places) > 1:
      thing = rng.choice(taken)
      return Story(tuple(events), thing, find_evidence(tuple(events), thing))


def draw_splits(
    seed: int, sizes: Mapping[str, int],
    difficulty: Difficulty = Difficulty()) -> dict[str, list[Story]]:
  """Draws splits that share no story.

  Splits are drawn in the order of `sizes`, each from a stream of its own, and
  a story that an earlier one has is drawn again. So name `test` first: then
  its stories depend on neither the sizes nor the presence of other splits,
  and a longer `train` begins with the same stories as a shorter one.

  Args:
    seed: which benchmark; the same seed gives the same stories everywhere.
    sizes: stories per split.
    difficulty: see `Difficulty`.

  Returns:
    For each split its stories, no two of all of them with equal `inputs`.

  Raises:
    errors.UserError: the world is too small for so many different stories.
  """
  seen: set[str] = set()
  return {
      split: list(_draw_unseen(
          random.Random(f"{DATASET}/{split}/{seed}"), size, difficulty, seen))
      for split, size in sizes.items()}


def _draw_unseen(
    rng: random.Random, size: int, difficulty: Difficulty,
    seen: set[str]) -> Iterator[Story]:
  """Yields `size` stories that are not in `seen`, and enters them there."""
  repeats_in_a_row = 0
  while size:
    story = draw_story(rng, difficulty)
    if story.inputs in seen:
      repeats_in_a_row += 1
      if repeats_in_a_row > 1000:
        raise errors.UserError(
            f"this world has hardly more than {len(seen)} different stories, "
            f"{size} more are wanted: ask for fewer, or raise the difficulty "
            f"({difficulty})")
      continue
    repeats_in_a_row = 0
    seen.add(story.inputs)
    size -= 1
    yield story
