"""Images to train, val and test: by groups, stratified by class, the same for the same seed."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from transferline.artifacts import SPLITS, SplitName
from transferline.errors import UserError


class Member(NamedTuple):
    """What the split needs to know of an image."""

    label: str
    group: int  # images of one group go into one split
    key: str  # identifies the image whatever it is called: its place in the shuffle comes from it


def assign(members: Sequence[Member], shares: Mapping[SplitName, float], seed: int) -> list[SplitName]:
    """The split of each member.

    Groups are placed one after another, the largest first and shuffled among equals, each into the
    split whose classes lack the most images of their shares. A class's last groups are kept for
    splits that have nothing of it yet. The shuffle hashes the images' keys with the seed, so that
    neither renaming files nor their order changes the split.

    Args:
        shares: share of each split that is wanted; they add up to 1.
    """
    groups: dict[int, list[Member]] = defaultdict(list)
    for member in members:
        groups[member.group].append(member)
    ledger = _Ledger(members, groups, shares)
    order = sorted(groups, key=lambda group: (-len(groups[group]), _shuffled(groups[group], seed)))
    chosen = {group: ledger.place(Counter(member.label for member in groups[group])) for group in order}
    return [chosen[member.group] for member in members]


def require_every_class(labels: Sequence[str], splits: Sequence[SplitName], groups: Sequence[int]) -> None:
    """Raises UserError naming a class that a split has no image of."""
    filled = set(zip(labels, splits, strict=True))
    for label in sorted(set(labels)):
        for split in SPLITS:
            if (label, split) in filled:
                continue
            distinct = len({group for own, group in zip(labels, groups, strict=True) if own == label})
            raise UserError(
                f"class '{label}' has no image in {split}: "
                f"it has {labels.count(label)} usable images, in {distinct} groups of near duplicates",
                "each split needs one group of its own: add images that differ, fill the folder of that "
                "split where you bring your own, or lower prepare.near_duplicate_bits",
            )


class _Ledger:
    """How many images each split still lacks of each class."""

    def __init__(
        self, members: Sequence[Member], groups: Mapping[int, Sequence[Member]], shares: Mapping[SplitName, float]
    ) -> None:
        self.splits = list(shares)
        totals = Counter(member.label for member in members)
        self.lacking = {(label, split): total * shares[split] for label, total in totals.items() for split in shares}
        self.empty = {label: list(shares) for label in totals}
        self.groups_left = Counter(label for group in groups.values() for label in {member.label for member in group})

    def place(self, held: Mapping[str, int]) -> SplitName:
        """Choose the split for a group that holds these numbers of images per class, and book it."""
        waiting = [split for label in held for split in self.empty[label] if self._last_chance(label)]
        choices = waiting or self.splits
        split = max(choices, key=lambda name: sum(count * self.lacking[label, name] for label, count in held.items()))
        for label, count in held.items():
            self.lacking[label, split] -= count
            self.groups_left[label] -= 1
            self.empty[label] = [name for name in self.empty[label] if name != split]
        return split

    def _last_chance(self, label: str) -> bool:
        return self.groups_left[label] <= len(self.empty[label])


def _shuffled(group: Sequence[Member], seed: int) -> str:
    key = min(member.key for member in group)
    return hashlib.sha256(f"{seed}:{key}".encode()).hexdigest()
