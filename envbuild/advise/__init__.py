"""How to train a model of some size on some GPUs, and whether a DeepSpeed configuration is right."""

from envbuild.advise.check import check_config
from envbuild.advise.choose import Choice, Wish, choose
from envbuild.advise.configure import configuration
from envbuild.advise.known import VERSION, known_keys
from envbuild.advise.memory import Estimate, Job, Strategy, estimate
from envbuild.advise.problem import Level, Problem
from envbuild.advise.shapes import Model, shape
from envbuild.advise.units import parse_memory, parse_parameters

__all__ = [
    "VERSION",
    "Choice",
    "Estimate",
    "Job",
    "Level",
    "Model",
    "Problem",
    "Strategy",
    "Wish",
    "check_config",
    "choose",
    "configuration",
    "estimate",
    "known_keys",
    "parse_memory",
    "parse_parameters",
    "shape",
]
