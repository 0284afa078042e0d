"""Images to train, val and test: by groups, stratified by class, the same for the same seed."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from functools import partial
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
    held = {group: Counter(member.label for member in inside) for group, inside in groups.items()}
    ledger = Ledger(held.values(), shares)
    chosen = {}
    for group in shuffled(groups, seed):
        choices = ledger.waiting(held[group]) or ledger.splits
        chosen[group] = max(choices, key=partial(ledger.lack, held[group]))
        ledger.book(held[group], chosen[group])
    return [chosen[member.group] for member in members]


def shuffled(groups: Mapping[int, Sequence[Member]], seed: int) -> list[int]:
    """The largest groups first, shuffled among equals."""
    return sorted(groups, key=lambda group: (-len(groups[group]), _place(groups[group], seed)))


def require_every_class(names: Sequence[Collection[str]], splits: Sequence[SplitName], groups: Sequence[int]) -> None:
    """Raises UserError naming a class that a split has no image of; `names` are the classes of each image."""
    found: dict[str, list[tuple[SplitName, int]]] = defaultdict(list)
    for own, split, group in zip(names, splits, groups, strict=True):
        for label in own:
            found[label].append((split, group))
    for label in sorted(found):
        filled = {split for split, _ in found[label]}
        for split in SPLITS:
            if split in filled:
                continue
            distinct = len({group for _, group in found[label]})
            raise UserError(
                f"class '{label}' has no image in {split}: "
                f"it has {len(found[label])} usable images, in {distinct} groups of near duplicates",
                "each split needs one group of its own: add images that differ, give that split some "
                "where you bring your own, or lower prepare.near_duplicate_bits",
            )


class Ledger:
    """How many images each split still lacks of each class.

    Args:
        held: number of images per class, of each group.
        shares: of each split.
    """

    def __init__(self, held: Collection[Mapping[str, int]], shares: Mapping[SplitName, float]) -> None:
        self.splits = list(shares)
        totals: Counter[str] = Counter()
        for group in held:
            totals.update(group)
        self.lacking = {(label, split): total * shares[split] for label, total in totals.items() for split in shares}
        self.empty = {label: list(shares) for label in totals}
        self.groups_left = Counter(label for group in held for label in group)

    def waiting(self, held: Mapping[str, int]) -> list[SplitName]:
        """Splits without a class of the group, whose last groups must be kept for them."""
        return [
            split for label in held for split in self.empty[label] if self.groups_left[label] <= len(self.empty[label])
        ]

    def lack(self, held: Mapping[str, int], split: SplitName) -> float:
        """Images that `split` lacks of the group's classes, each as often as the group holds it."""
        return sum(count * self.lacking[label, split] for label, count in held.items())

    def book(self, held: Mapping[str, int], split: SplitName) -> None:
        """Put the group into `split`."""
        for label, count in held.items():
            self.lacking[label, split] -= count
            self.groups_left[label] -= 1
            self.empty[label] = [name for name in self.empty[label] if name != split]


def _place(group: Sequence[Member], seed: int) -> str:
    key = min(member.key for member in group)
    return hashlib.sha256(f"{seed}:{key}".encode()).hexdigest()
