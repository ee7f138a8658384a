"""Names to classes: what is built in, what others install, and the settings of each kind.

Knows no algorithm: a name is a string until a recipe names it, then its module is imported. Every
room above `foundation` may import it.
"""

from __future__ import annotations

from prunekit.registry.lookup import Registry

__all__ = [
    "COMPRESSORS",
    "DATASETS",
    "DISTRIBUTIONS",
    "LOGGERS",
    "LOSSES",
    "MODELS",
    "PROBES",
    "REGISTRIES",
    "SCHEDULES",
    "STRATEGIES",
    "STRUCTURES",
    "Registry",
]

REGISTRIES: dict[str, Registry] = {}
"""Kind -> what there is of it."""

STRATEGIES = Registry(
    "strategy",
    "prunekit.pruning.strategies.base:PruningStrategy",
    "prunekit.registry.configs:StrategyConfig",
    {
        "magnitude": "prunekit.pruning.strategies.magnitude:Magnitude",
        "random_subnetwork": "prunekit.pruning.strategies.random_subnetwork:RandomSubnetwork",
        "optimal_subnetwork": "prunekit.pruning.strategies.optimal_subnetwork:OptimalSubnetwork",
        "set": "prunekit.pruning.strategies.set:SET",
        "rigl": "prunekit.pruning.strategies.rigl:RigL",
        "ac_dc": "prunekit.pruning.strategies.ac_dc:ACDC",
        "lottery_ticket": "prunekit.pruning.strategies.lottery_ticket:LotteryTicket",
        "snip": "prunekit.pruning.strategies.snip:Snip",
        "grasp": "prunekit.pruning.strategies.grasp:GraSP",
        "synflow": "prunekit.pruning.strategies.synflow:SynFlow",
        "lamp": "prunekit.pruning.strategies.lamp:Lamp",
        "movement": "prunekit.pruning.strategies.movement:Movement",
        "movement_soft": "prunekit.pruning.strategies.movement_soft:MovementSoft",
        "sr_ste": "prunekit.pruning.strategies.sr_ste:SrSte",
        "filter_magnitude": "prunekit.pruning.strategies.filter_magnitude:FilterMagnitude",
        "fpgm": "prunekit.pruning.strategies.fpgm:FPGM",
        "taylor": "prunekit.pruning.strategies.taylor:Taylor",
        "wanda": "prunekit.pruning.strategies.wanda:Wanda",
        "sparse_gpt": "prunekit.pruning.strategies.sparse_gpt:SparseGPT",
        "granet": "prunekit.pruning.strategies.granet:GraNet",
        "str_threshold": "prunekit.pruning.strategies.str_threshold:StrThreshold",
        "top_kast": "prunekit.pruning.strategies.top_kast:TopKAST",
        "srigl": "prunekit.pruning.strategies.srigl:SRigL",
    },
    among=REGISTRIES,
)
COMPRESSORS = Registry(
    "compressor",
    "prunekit.compressors.base:DataCompressor",
    "prunekit.registry.configs:CompressorConfig",
    {
        "tome": "prunekit.compressors.tome:Tome",
        "tofu": "prunekit.compressors.tofu:ToFu",
        "pitome": "prunekit.compressors.pitome:PiToMe",
        "random_drop": "prunekit.compressors.random_drop:RandomDrop",
        "average_pool": "prunekit.compressors.average_pool:AveragePool",
        "evit": "prunekit.compressors.evit:Evit",
    },
    among=REGISTRIES,
)
MODELS = Registry(
    "model",
    "prunekit.registry.configs:ModelConfig",
    "prunekit.registry.configs:ModelConfig",
    {
        "vit": "prunekit.models.vit:ViTConfig",
        "mlp": "prunekit.models.mlp:MLPConfig",
        "lenet_300_100": "prunekit.models.lenet:LeNet300100Config",
        "lenet5": "prunekit.models.lenet:LeNet5Config",
        "vgg": "prunekit.models.vgg:VGGConfig",
        "resnet": "prunekit.models.resnet:ResNetConfig",
        "wrn": "prunekit.models.wrn:WRNConfig",
        "torchvision": "prunekit.models.stock:TorchvisionConfig",
        "timm": "prunekit.models.stock:TimmConfig",
        "transformers": "prunekit.models.stock_transformers:TransformersConfig",
    },
    plain="prunekit.models.own:OwnModelConfig",
    among=REGISTRIES,
)
DATASETS = Registry(
    "dataset",
    "prunekit.registry.configs:DatasetConfig",
    "prunekit.registry.configs:DatasetConfig",
    {
        "digits": "prunekit.data.builtin:DigitsConfig",
        "mnist": "prunekit.data.builtin:MnistConfig",
        "fashion_mnist": "prunekit.data.builtin:FashionMnistConfig",
        "cifar10": "prunekit.data.builtin:Cifar10Config",
        "cifar100": "prunekit.data.builtin:Cifar100Config",
        "image_folder": "prunekit.data.image_folder:ImageFolderConfig",
    },
    plain="prunekit.data.own:OwnDatasetConfig",
    among=REGISTRIES,
)
PROBES = Registry(
    "probe",
    "prunekit.pruning.probes.base:Probe",
    "prunekit.registry.configs:ProbeConfig",
    {
        "gradient_norm": "prunekit.pruning.probes.gradient_norm:GradientNorm",
        "burden": "prunekit.pruning.probes.burden:Burden",
    },
    among=REGISTRIES,
)
LOSSES = Registry(
    "loss",
    "prunekit.train.losses.base:Loss",
    "prunekit.registry.configs:LossConfig",
    {
        "cross_entropy": "prunekit.train.losses.cross_entropy:CrossEntropy",
        "bce": "prunekit.train.losses.bce:BCE",
        "distill": "prunekit.train.losses.distill:Distill",
    },
    among=REGISTRIES,
)
LOGGERS = Registry(
    "logger",
    "prunekit.loggers.base:Logger",
    "prunekit.registry.configs:LoggerConfig",
    {
        "tensorboard": "prunekit.loggers.event_files:EventFiles",
        "csv": "prunekit.loggers.csv_file:CsvFile",
        "wandb": "prunekit.loggers.weights_and_biases:WeightsAndBiases",
    },
    among=REGISTRIES,
)
STRUCTURES = Registry(
    "structure",
    "prunekit.pruning.structures.base:Structure",
    "prunekit.pruning.structures.base:Structure",
    {
        "unstructured": "prunekit.pruning.structures.unstructured:Unstructured",
        "n_m": "prunekit.pruning.structures.n_m:NM",
        "block": "prunekit.pruning.structures.block:Block",
        "channel": "prunekit.pruning.structures.channel:Channel",
        "head": "prunekit.pruning.structures.head:Head",
        "constant_fan_in": "prunekit.pruning.structures.constant_fan_in:ConstantFanIn",
    },
    among=REGISTRIES,
)
DISTRIBUTIONS = Registry(
    "distribution",
    "prunekit.pruning.distributions.base:Distribution",
    "prunekit.pruning.distributions.base:Distribution",
    {
        "uniform": "prunekit.pruning.distributions.proportional:Uniform",
        "global": "prunekit.pruning.distributions.global_pool:Global",
        "erdos_renyi": "prunekit.pruning.distributions.proportional:ErdosRenyi",
        "erk": "prunekit.pruning.distributions.proportional:ERK",
        "match": "prunekit.pruning.distributions.match:Match",
        "per_pattern": "prunekit.pruning.distributions.per_pattern:PerPattern",
        "isomorphic": "prunekit.pruning.distributions.isomorphic:Isomorphic",
    },
    among=REGISTRIES,
)
SCHEDULES = Registry(
    "schedule",
    "prunekit.pruning.schedules:Schedule",
    "prunekit.pruning.schedules:Schedule",
    {
        "constant": "prunekit.pruning.schedules:Constant",
        "one_shot": "prunekit.pruning.schedules:OneShot",
        "multi_step": "prunekit.pruning.schedules:MultiStep",
        "linear": "prunekit.pruning.schedules:Linear",
        "polynomial": "prunekit.pruning.schedules:Polynomial",
        "cubic": "prunekit.pruning.schedules:Polynomial",
        "cosine": "prunekit.pruning.schedules:Cosine",
        "geometric": "prunekit.pruning.schedules:Geometric",
    },
    among=REGISTRIES,
)
REGISTRIES |= {
    registry.kind: registry
    for registry in (
        *(STRATEGIES, COMPRESSORS, MODELS, DATASETS, PROBES, LOSSES, LOGGERS),
        *(STRUCTURES, DISTRIBUTIONS, SCHEDULES),
    )
}
