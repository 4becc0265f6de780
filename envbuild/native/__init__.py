"""Native code, compiled in the sandbox: DeepSpeed's wheel with its CUDA operators (docs/explanation/operator.md)."""

from envbuild.native.operator import build_operator, operator_key, take_operator
from envbuild.native.verify import check_module, check_wheel

__all__ = ["build_operator", "check_module", "check_wheel", "operator_key", "take_operator"]
