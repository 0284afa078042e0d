"""Images with any number of labels to train, val and test: by groups, every label near its share."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from transferline.artifacts import SplitName
from transferline.data.split import Ledger, Member, shuffled
from transferline.labelsets import names_of

_ANY = ""  # stands for the image itself beside its labels, so that splits get their share of images, too


def assign(members: Sequence[Member], shares: Mapping[SplitName, float], seed: int) -> list[SplitName]:
    """The split of each member, by iterative stratification (Sechidis et al. 2011, ECML PKDD) over groups.

    The label with the fewest images left is dealt out first, while there is a choice: each of its
    groups goes to the split that lacks the most of that label and, among equals, the most images.
    A label's last groups are kept for splits that have nothing of it yet. Images without labels
    come last.

    Args:
        members: `label` is a joined set of names.
        shares: share of each split that is wanted; they add up to 1.
    """
    groups: dict[int, list[Member]] = defaultdict(list)
    for member in members:
        groups[member.group].append(member)
    held = {group: _held(inside) for group, inside in groups.items()}
    ledger, chosen = Ledger(held.values(), shares), dict[int, SplitName]()
    waiting = shuffled(groups, seed)
    while waiting:
        label = _rarest([held[group] for group in waiting])
        for group in (group for group in waiting if label in held[group]):
            chosen[group] = _choose(ledger, held[group], label)
            ledger.book(held[group], chosen[group])
        waiting = [group for group in waiting if group not in chosen]
    return [chosen[member.group] for member in members]


def _held(group: Sequence[Member]) -> Counter[str]:
    """Images per label, and in all."""
    return Counter(name for member in group for name in (_ANY, *names_of(member.label, multilabel=True)))


def _rarest(held: Sequence[Mapping[str, int]]) -> str:
    left: Counter[str] = Counter()
    for group in held:
        left.update(group)
    return min(left, key=lambda name: (name == _ANY, left[name], name))


def _choose(ledger: Ledger, held: Mapping[str, int], label: str) -> SplitName:
    """Where several labels are down to their last groups, the split that serves most of them comes first."""
    urgent = Counter(ledger.waiting(held))
    most = max(urgent.values(), default=0)
    choices = [split for split in ledger.splits if urgent[split] == most]
    return max(choices, key=lambda split: (ledger.lacking[label, split], ledger.lacking[_ANY, split]))
