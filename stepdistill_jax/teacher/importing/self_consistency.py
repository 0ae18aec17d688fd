"""One record from several samples of a row: votes, and rejections.

*Self-consistency*: the label that most samples agree on; its share of all
samples is the record's weight; the rationale is that of the first sample with
this label. *Rejection*: where a human label exists, a rationale that leads to
another label is not used; one of another sample is, or none. The teacher's
label stays what the majority says: its accuracy must not profit from gold.
"""

from collections.abc import Sequence
import dataclasses

from stepdistill_jax.answers import labels, parsing
from stepdistill_jax.records import datasets

# Named reason: every rationale leads to a label that is not the human one.
REJECTED = "rejected_wrong_label"


@dataclasses.dataclass
class Counts:
  """What votes and rejections did.

  Attributes:
    rows: rows with at least one sample.
    samples: of all rows.
    unanimous: rows whose samples all have the same label.
    ties: rows in which another label has as many votes; the first to be seen
      wins.
    rejected_samples: samples whose label is not the human one.
    rejected_rows: rows that have no others, and so no rationale.
  """

  rows: int = 0
  samples: int = 0
  unanimous: int = 0
  ties: int = 0
  rejected_samples: int = 0
  rejected_rows: int = 0


@dataclasses.dataclass(frozen=True)
class Choice:
  """What becomes of a row.

  Attributes:
    parsed: rationale, label and status of the record.
    agreement: share of the samples that have this label; 1 for one sample.
  """

  parsed: parsing.Parsed
  agreement: float


def choose(dataset: datasets.Dataset, row: datasets.Row,
           samples: Sequence[parsing.Parsed], counts: Counts, *,
           reject_wrong: bool = False) -> Choice:
  """Returns a row's label by majority, with a rationale that leads to it.

  Args:
    dataset: how labels are compared.
    row: with the human label, or without.
    samples: the parsed completions in order, at least one.
    counts: is added to.
    reject_wrong: True to use no rationale that leads to another label than
      the human one.
  """
  counts.rows += 1
  counts.samples += len(samples)
  groups = _groups(dataset, samples)
  if not groups:
    return Choice(samples[0], 1.0)
  votes = [len(group) for group in groups]
  winner = groups[votes.index(max(votes))]
  counts.unanimous += len(winner) == len(samples)
  counts.ties += votes.count(max(votes)) > 1
  # Of samples with the label, one whose rationale is usable comes first.
  best = _first_ok(winner)
  agreement = len(winner) / len(samples)
  if not reject_wrong or not row.label:
    return Choice(best, agreement)
  right = [sample for group in groups for sample in group
           if labels.is_correct(dataset, sample.label, row.label)]
  counts.rejected_samples += sum(votes) - len(right)
  if not right:
    counts.rejected_rows += 1
    return Choice(dataclasses.replace(
        best, rationale="", status=REJECTED), agreement)
  source = best if best in right else _first_ok(right)
  return Choice(dataclasses.replace(source, label=best.label), agreement)


def _first_ok(samples: Sequence[parsing.Parsed]) -> parsing.Parsed:
  """The first with a usable rationale, else the first."""
  return next((s for s in samples if s.status == "ok"), samples[0])


def _groups(dataset: datasets.Dataset, samples: Sequence[parsing.Parsed]
            ) -> list[list[parsing.Parsed]]:
  """The samples that have a label, grouped by equal labels."""
  groups: list[list[parsing.Parsed]] = []
  for sample in samples:
    if not sample.label.strip():
      continue
    for group in groups:
      first = group[0].label  # Two labels that count as one another's.
      if first == sample.label or labels.is_correct(
          dataset, first, sample.label):
        group.append(sample)
        break
    else:
      groups.append([sample])
  return groups
