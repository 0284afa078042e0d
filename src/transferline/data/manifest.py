"""prepare's work: a folder of images -> the manifest of the usable ones, each in its split."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from transferline import sections
from transferline.artifacts import SPLITS, ManifestRow, SplitName
from transferline.data import duplicates, exclude, inspection, sources, split, stratify
from transferline.data.duplicates import Twin
from transferline.data.inspection import Inspection, Rejection
from transferline.errors import UserError
from transferline.labelsets import names_of


@dataclass(frozen=True)
class Prepared:
    """What prepare found.

    Attributes:
        rows: the usable images, sorted by path.
        exact: per row, whether another image has the very same pixels.
        quarantine: the files left out, sorted by path.
        multilabel: `label` of the rows is a joined set of names.
        twins: of the user's own test (and val), the images with a near duplicate in train.
    """

    rows: list[ManifestRow]
    exact: list[bool]
    quarantine: list[Rejection]
    multilabel: bool = False
    twins: dict[SplitName, list[Twin]] = field(default_factory=dict)

    def names(self, row: ManifestRow) -> list[str]:
        """The classes that the image is in."""
        return names_of(row.label, self.multilabel)

    def summary(self) -> dict[str, int]:
        """Counts, fit for metrics."""
        members = Counter(row.group for row in self.rows)
        splits_of_group = Counter(group for group, _ in {(row.group, row.split) for row in self.rows})
        return {
            "images": len(self.rows),
            "classes": len({name for row in self.rows for name in self.names(row)}),
            **({"unlabelled": sum(not row.label for row in self.rows)} if self.multilabel else {}),
            "quarantined": len(self.quarantine),
            "exact_duplicates": sum(self.exact),
            "near_duplicates": sum(members[row.group] > 1 for row in self.rows) - sum(self.exact),
            "duplicate_groups": sum(count > 1 for count in members.values()),
            "largest_group": max(members.values()),
            "groups_across_splits": sum(count > 1 for count in splits_of_group.values()),
            **{name: sum(row.split == name for row in self.rows) for name in SPLITS},
        }


def build(layout: sources.Layout, shares: sections.Split, prepare: sections.Prepare, seed: int) -> Prepared:
    """Inspect every file of `layout`, group duplicates, and split.

    Files that the user excludes are left out unseen. A split that the user brings is kept as it is,
    duplicates across it included (they are counted in the summary, and `twins` names them); where it
    has no val, val is taken out of train.

    Raises:
        UserError: there are no usable images, or a class has too few of them, overall or in a split;
            or the list of excluded files is mistaken.
    """
    kept, excluded = exclude.apply(layout, prepare.exclude)
    found, rejected = inspection.inspect_all(kept, prepare.min_side, prepare.max_pixels)
    rejected += excluded
    conflicting = duplicates.conflicts(found)
    rejected += conflicting
    contested = {rejection.path for rejection in conflicting}
    images = [image for image in found if image.path not in contested]
    _require_usable(layout, images, rejected, prepare.min_images_per_class)
    groups = duplicates.groups(images, prepare.near_duplicate_bits)
    splits = _splits(images, groups, layout, shares, seed)
    names = [names_of(image.label, layout.multilabel) for image in images]
    split.require_every_class(names, splits, groups)
    rows = [
        ManifestRow(image.path, image.label, name, image.sha256, image.phash, group, image.width, image.height)
        for image, name, group in zip(images, splits, groups, strict=True)
    ]
    held: tuple[SplitName, ...] = ("val", "test") if layout.splits else ()
    twins = {name: duplicates.twins(images, groups, splits, prepare.near_duplicate_bits, name) for name in held}
    return Prepared(rows, duplicates.exact(images), sorted(rejected), layout.multilabel, twins)


def _require_usable(
    layout: sources.Layout, images: Sequence[Inspection], rejected: Sequence[Rejection], minimum: int
) -> None:
    reasons = Counter(rejection.reason for rejection in rejected).most_common(1)
    hint = f"; most files left out ({reasons[0][1]} of {len(rejected)}): {reasons[0][0]}" if reasons else ""
    if not images:
        raise UserError(f"data.root: none of the {len(layout.files)} files in '{layout.root}' is usable", hint[2:])
    usable = Counter(name for image in images for name in names_of(image.label, layout.multilabel))
    sources.require_enough({label: usable[label] for label in layout.classes}, minimum, hint, layout.labels)


def _splits(
    images: Sequence[Inspection],
    groups: Sequence[int],
    layout: sources.Layout,
    shares: sections.Split,
    seed: int,
) -> list[SplitName]:
    """The user's own split, with val carved out of train where there is none; a split by shares else."""
    own = [image.split for image in images]
    if "val" in layout.splits:
        return [name for name in own if name]
    names: tuple[SplitName, ...] = ("train", "val") if layout.splits else SPLITS
    whole = sum(getattr(shares, name) for name in names)
    free = [index for index, name in enumerate(own) if name != "test"]
    members = [split.Member(images[index].label, groups[index], images[index].sha256) for index in free]
    assign = stratify.assign if layout.multilabel else split.assign
    assigned = assign(members, {name: getattr(shares, name) / whole for name in names}, seed)
    by_index = dict(zip(free, assigned, strict=True))
    return [by_index.get(index, "test") for index in range(len(images))]
