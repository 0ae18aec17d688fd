"""From a teacher's completion to a rationale and a label.

A completion goes on after its answer into a made-up next example, so it is
cut first. Two sets of rules:

* `reference`: exactly what the papers' code does, defects included, so that
  the papers' numbers come out (`reference_rules.py`);
* `strict`, the default: a label is one that the data set can have, or it is
  no label and the status says why (`strict_rules.py`).

A parser is a function (output, row) -> Parsed. It never raises, whatever the
text.
"""

from collections.abc import Callable
import dataclasses

from stepdistill_jax.records import datasets

# Named reasons why a record is not `ok`. Of the completion as a whole:
NO_COMPLETION = "no_completion"  # The row has none.
TEACHER_ERROR = "teacher_error"  # The teacher answered with an error.
NOT_TEXT = "not_text"  # null, a number or a nested value.
EMPTY_OUTPUT = "empty_output"
# Of its form:
TRUNCATED = "truncated"  # Cut at the length limit, before an answer's end.
ONLY_THINKING = "only_thinking"  # The answer after the thinking is missing.
NO_MARKER = "no_marker"  # No "The answer is" or the like.
MARKER_TWICE = "marker_twice"  # Reference rules only.
NO_LABEL = "no_label"  # A marker with nothing usable after it.
EMPTY_RATIONALE = "empty_rationale"
# Of its label:
LABEL_NOT_ALLOWED = "label_not_allowed"  # Not one of the data set's labels.
LABEL_NOT_SEEN = "label_not_seen"  # Not one that any row has.
LABEL_NOT_A_CHOICE = "label_not_a_choice"  # Not one of the row's choices.
LABEL_DIFFERS_IN_CASE = "label_differs_in_case"  # Reference rules only.
SEVERAL_ANSWERS = "several_answers"  # "either (a) aquarium or (e) pond"
COPIED_LABEL = "label_copied_from_gold"
# From files in which some labels are copies, with nothing to check by.
UNVERIFIED_LABEL = "label_unverified"
# and `equation_unknown`, `equation_tuple`, …: see arithmetic.NotArithmetic.


@dataclasses.dataclass(slots=True)
class Parsed:
  """A rationale, a label, and `ok` or the reason why one is missing.

  Attributes:
    rationale: the text; empty where there is none.
    label: likewise.
    status: `ok`, or why one of them is missing.
    rule: what the answer was read by, such as `json` or `answer is`; empty
      where nothing was, or for labels that came apart.
    thinking: what the model thought before its answer, set apart.
    cleaned: names of what was taken off the completion.
    open_ended: True if nothing follows the label, so that a completion that
      was cut may have been cut within it.
    own_label: True if the label is the row's own human one, taken for the
      teacher's as well: no comparison of the two says anything.
    rounds: of chain of density, as in a record.
  """

  rationale: str
  label: str
  status: str
  own_label: bool = False
  rule: str = ""
  thinking: str = ""
  cleaned: tuple[str, ...] = ()
  open_ended: bool = False
  rounds: str = ""


def cut_at_limit(parsed: Parsed) -> Parsed:
  """Takes away the label of a completion that was cut within it, maybe.

  `1200` may be the start of `12000`; `1200 apples.` and JSON's `"1200"` are
  whole.
  """
  if parsed.open_ended or not parsed.label and (
      not parsed.rationale or parsed.status != "ok"):
    parsed.label, parsed.status = "", TRUNCATED
  return parsed


Parser = Callable[[str, datasets.Row], Parsed]
