"""``cpp-extension``: what is compiled at first use compiles here, loads and is right: DeepSpeed's CPU optimizer.

It needs no GPU, so that an image in which nothing compiles is refused on any machine. ``zero-offload`` trains with what
was compiled here.
"""

from __future__ import annotations

from typing import Any

from .. import cpu_adam
from ..context import Context
from ..model import Failure
from ..numbers import finite


def run(context: Context) -> dict[str, Any]:
    """Compile it, unless an earlier check of the group has started that; then judge its arithmetic.

    Raises:
        Failure: torch's compiling does not import, nothing compiles, or the optimizer computes something else.
    """
    numbers = cpu_adam.wait(context)
    if not numbers["error"] <= 1:
        raise Failure(
            expected="DeepSpeedCPUAdam within its bound of torch's AdamW in float64",
            seen=f"{numbers['error']:.3g} times the bound",
            hint="the compiler or its flags make wrong code here: unset CFLAGS and CXXFLAGS, or use the image's gcc",
            numbers={name: finite(value) for name, value in numbers.items()},
        )
    return numbers
