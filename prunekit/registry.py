"""What is built in, by name; third parties add to it with entry points of their own.

A name is known without importing anything; its module is imported when a recipe names it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prunekit.components.registry import Registry

if TYPE_CHECKING:
    from prunekit.compressors.base import DataCompressor
    from prunekit.data.base import DatasetConfig
    from prunekit.models.base import ModelConfig
    from prunekit.probes.base import Probe
    from prunekit.strategies.base import PruningStrategy

__all__ = ["COMPRESSORS", "DATASETS", "MODELS", "PROBES", "REGISTRIES", "STRATEGIES", "Registry"]

STRATEGIES: Registry[PruningStrategy] = Registry(
    "strategy",
    "prunekit.strategies.base:PruningStrategy",
    "prunekit.strategies.base:StrategyConfig",
    {
        "magnitude": "prunekit.strategies.magnitude:Magnitude",
        "random_subnetwork": "prunekit.strategies.random_subnetwork:RandomSubnetwork",
        "optimal_subnetwork": "prunekit.strategies.optimal_subnetwork:OptimalSubnetwork",
        "set": "prunekit.strategies.set:SET",
        "rigl": "prunekit.strategies.rigl:RigL",
        "ac_dc": "prunekit.strategies.ac_dc:ACDC",
        "lottery_ticket": "prunekit.strategies.lottery_ticket:LotteryTicket",
        "snip": "prunekit.strategies.snip:Snip",
        "grasp": "prunekit.strategies.grasp:GraSP",
        "synflow": "prunekit.strategies.synflow:SynFlow",
        "lamp": "prunekit.strategies.lamp:Lamp",
        "movement": "prunekit.strategies.movement:Movement",
        "movement_soft": "prunekit.strategies.movement_soft:MovementSoft",
        "sr_ste": "prunekit.strategies.sr_ste:SrSte",
        "filter_magnitude": "prunekit.strategies.filter_magnitude:FilterMagnitude",
    },
)
COMPRESSORS: Registry[DataCompressor] = Registry(
    "compressor",
    "prunekit.compressors.base:DataCompressor",
    "prunekit.compressors.base:CompressorConfig",
    {
        "tome": "prunekit.compressors.tome:Tome",
        "random_drop": "prunekit.compressors.random_drop:RandomDrop",
        "average_pool": "prunekit.compressors.average_pool:AveragePool",
    },
)
MODELS: Registry[ModelConfig] = Registry(
    "model",
    "prunekit.models.base:ModelConfig",
    "prunekit.models.base:ModelConfig",
    {
        "vit": "prunekit.models.vit:ViTConfig",
        "mlp": "prunekit.models.mlp:MLPConfig",
        "lenet_300_100": "prunekit.models.lenet:LeNet300100Config",
        "lenet5": "prunekit.models.lenet:LeNet5Config",
        "vgg": "prunekit.models.vgg:VGGConfig",
        "resnet": "prunekit.models.resnet:ResNetConfig",
        "torchvision": "prunekit.models.torchvision:TorchvisionConfig",
        "timm": "prunekit.models.timm:TimmConfig",
    },
)
DATASETS: Registry[DatasetConfig] = Registry(
    "dataset",
    "prunekit.data.base:DatasetConfig",
    "prunekit.data.base:DatasetConfig",
    {
        "digits": "prunekit.data.digits:DigitsConfig",
        "mnist": "prunekit.data.torchvision_sets:MnistConfig",
        "fashion_mnist": "prunekit.data.torchvision_sets:FashionMnistConfig",
        "cifar10": "prunekit.data.torchvision_sets:Cifar10Config",
        "cifar100": "prunekit.data.torchvision_sets:Cifar100Config",
        "image_folder": "prunekit.data.image_folder:ImageFolderConfig",
    },
)
PROBES: Registry[Probe] = Registry(
    "probe",
    "prunekit.probes.base:Probe",
    "prunekit.probes.base:ProbeConfig",
    {
        "gradient_norm": "prunekit.probes.gradient_norm:GradientNorm",
        "burden": "prunekit.probes.burden:Burden",
    },
)
REGISTRIES: dict[str, Registry[Any]] = {
    registry.kind: registry for registry in (STRATEGIES, COMPRESSORS, MODELS, DATASETS, PROBES)
}
